"""Images by a transformers model: ViT-, DINOv2-, CLIP- and Swin-shaped, or a convolutional network.

What a picture is turned into is read from the model's own processor, and equals it pixel by pixel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnx
import torch

from homeroom.contract.graph_io import PIXELS
from homeroom.contract.manifest import ImagePreprocess
from homeroom.errors import ExportError
from homeroom_exporter.encoders import hidden_states, processors
from homeroom_exporter.encoders.spec import Encoder, EncoderSpec, Scheme
from homeroom_exporter.quantize.graph_surgery import pool_patches, pool_regions, region_count

GRID = 2
HALVES = (0.5, 0.5, 0.5)
MOST_SIDE = 4096
WARPED_SIDE = 384  # from which on ConvNext's processor crops nothing
RESAMPLE = {1: "lanczos", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers, as processors store them
SPECIAL = (0, 1, 2, 5)  # tokens before the patches: none, a class token, a distilled one too, four registers too


def load(
    spec: EncoderSpec, model: Any, source: str, where: Any, name: str, licences: Any, files: dict[str, Path]
) -> Encoder:
    """Taps are `layer.<n>`: what stands after a block of a transformer, or after a stage of convolutions."""
    config = model.config
    preprocess = pixels(source, where, spec)
    side = preprocess.size
    keep_positions(model)
    states = shapes(spec, model, side)
    chosen = hidden_states.chosen_layers(spec, len(states) - 1)
    inputs = {PIXELS: (PIXELS, ("batch", 3, side, side))}
    graph = hidden_states.layers_graph(hidden_states.HiddenStates(model, chosen), torch.zeros(2, 3, side, side), inputs)
    grid = spec.grid or GRID
    patch = getattr(config, "patch_size", None)
    for i in chosen:
        pool(spec, graph, f"layer.{i}", states[i], grid, side // patch if isinstance(patch, int) else None)
    taps, buckets, size = tuple(f"layer.{i}" for i in chosen), (region_count(grid),), hidden_states.float_bytes(model)
    scheme: Scheme = "static" if len(states[chosen[-1]]) == 4 else "dynamic"  # whether it convolves
    return Encoder(name, graph, taps, buckets, preprocess, scheme, size, licences, files)


def keep_positions(model: Any) -> None:
    """Position embeddings are fitted to the pictures' size once, on the model's first run, and then stand in the graph.

    All pictures have one size here; and the resampling of DINOv2 with registers has no ONNX operator.
    """

    def once(fitted: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        fitted_once: list[torch.Tensor] = []

        def kept(*arguments: Any) -> torch.Tensor:
            if not fitted_once:
                fitted_once.append(fitted(*arguments).detach())
            return fitted_once[0]

        return kept

    for module in model.modules():
        if hasattr(module, "interpolate_pos_encoding"):
            module.interpolate_pos_encoding = once(module.interpolate_pos_encoding)


def shapes(spec: EncoderSpec, model: Any, side: int) -> list[tuple[int, ...]]:
    """The shape of every hidden state for one picture."""
    try:
        with hidden_states.quiet_torch():
            outputs = model.eval()(torch.zeros(1, 3, side, side), output_hidden_states=True)
        if outputs.hidden_states is None:
            raise ValueError("it hands none on")
        return [tuple(state.shape) for state in outputs.hidden_states]
    except Exception as problem:  # whatever the model's own code raises
        fault = f"{model.config.model_type} gives no hidden states of pictures: {hidden_states.first_line(problem)}"
        raise ExportError(fault, where=spec.source, remedy="choose a model for pictures") from None


def pool(
    spec: EncoderSpec, graph: onnx.ModelProto, tap: str, shape: tuple[int, ...], grid: int, patches: int | None
) -> None:
    """A hidden state of any form becomes 1 + grid * grid tokens: the whole, then regions."""
    if len(shape) == 4 and shape[2] == shape[3]:
        pool_regions(graph, tap, shape[1], shape[2], grid)
        return
    if len(shape) == 3:
        sides = {count: math.isqrt(shape[1] - count) for count in SPECIAL if shape[1] > count}
        fits = [count for count, side in sides.items() if side * side == shape[1] - count]
        exact = [count for count in fits if sides[count] == patches] or fits
        if exact:
            pool_patches(graph, tap, sides[exact[0]], grid, exact[0])
            return
    raise ExportError(f"{tap} of shape {list(shape)} is no square of patches", where=spec.source, remedy="other taps")


def pixels(source: str, where: Any, spec: EncoderSpec) -> ImagePreprocess:
    """What the model's own processor makes; ExportError without one, or where it does what is not built."""
    return read_processor(processors.picture_settings(source, where, spec), spec.source)


def read_processor(settings: Mapping[str, Any], source: str) -> ImagePreprocess:
    """A processor's settings as the contract's; ExportError names one that has no such form."""

    def refuse(key: str, only: str) -> ExportError:
        return processors.refuse_setting(settings, key, only, source)

    if settings.get("resample", 3) not in RESAMPLE:
        raise refuse("resample", "1, 2 or 3 (Lanczos, bilinear, bicubic)")
    for key in ("do_resize", "do_rescale"):
        if not settings.get(key, True):
            raise refuse(key, "true")
    if not math.isclose(settings.get("rescale_factor", 1 / 255), 1 / 255, rel_tol=1e-6):
        raise refuse("rescale_factor", "1/255")
    mean, std = (_channels(settings, key, refuse) for key in ("image_mean", "image_std"))
    if not settings.get("do_normalize", True):
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    size, resize, fit = _fit(settings, refuse)
    if not 0 < size <= MOST_SIDE or not 0 < resize <= MOST_SIDE:
        raise refuse("size", f"1 to {MOST_SIDE}")
    return ImagePreprocess(size, resize, mean, std, RESAMPLE[settings.get("resample", 3)], fit)  # type: ignore[arg-type]


def _fit(settings: Mapping[str, Any], refuse: Callable[[str, str], ExportError]) -> tuple[int, int, str]:
    """Side of the picture, side that it is resized to, and how a picture that is no square fits."""
    size, share = settings.get("size"), settings.get(processors.CROP_SHARE)
    shortest = size.get("shortest_edge") if isinstance(size, Mapping) else None
    if share is not None:  # ConvNext's, which crops small pictures only
        if not isinstance(shortest, int) or not 0 < share <= 1:
            raise refuse(processors.CROP_SHARE, "a share of the shortest edge")
        return (
            (shortest, int(shortest / share), "cover-floor")
            if shortest < WARPED_SIDE
            else (shortest,) * 2 + ("squash",)
        )
    crop = sides(settings.get("crop_size")) if settings.get("do_center_crop") else None
    if settings.get("do_center_crop") and crop is None:
        raise refuse("crop_size", "a square")
    if isinstance(size, int) and crop is not None:
        shortest = size
    if isinstance(shortest, int):
        if crop is None or crop > shortest:
            raise refuse("size" if crop is None else "crop_size", "a square within the picture")
        return crop, shortest, "cover-floor"
    square = sides(size)
    if square is None:
        raise refuse("size", "a square, or a shortest edge and a crop,")
    return crop or square, square, "squash"


def _channels(
    settings: Mapping[str, Any], key: str, refuse: Callable[[str, str], ExportError]
) -> tuple[float, float, float]:
    """A value for each of three colours."""
    values = settings.get(key)
    if values is None:
        return HALVES
    colours = list(values) if isinstance(values, list | tuple) else [values] * 3
    numbers = [one for one in colours if isinstance(one, int | float) and math.isfinite(one)]
    if len(numbers) != 3 or len(colours) != 3 or (key == "image_std" and min(numbers) <= 0):
        raise refuse(key, "a number for each of three colours (above 0 of image_std)")
    return float(numbers[0]), float(numbers[1]), float(numbers[2])


def sides(size: Any) -> int | None:
    """The side of a square that a processor or config names; None where it is none."""
    if isinstance(size, int):
        return size
    if isinstance(size, Mapping) and size.get("height") == size.get("width") and isinstance(size.get("height"), int):
        return int(size["height"])
    return None
