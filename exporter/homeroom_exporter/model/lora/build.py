"""Builds the encoder with LoRA inside from a recipe, its frozen weights on disk."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from homeroom.contract.canonical_json import digest, identity
from homeroom.contract.manifest import Licence, Modality, Preprocess, Tolerance, at_version, identifying
from homeroom.errors import ExportError
from homeroom_exporter.encoders import hub, minilm, packages, vision
from homeroom_exporter.encoders.checkpoint import load_model, refuse_absent
from homeroom_exporter.encoders.hidden_states import float_bytes
from homeroom_exporter.encoders.spec import EncoderSpec
from homeroom_exporter.model.lora import frozen_weights
from homeroom_exporter.model.lora.adapter import PREFIX, Adapter, Factor
from homeroom_exporter.model.lora.architectures import EncoderShape, shape_of, weights_of
from homeroom_exporter.model.lora.plan import AdapterPlan, Checkpoint

OUTPUT_TOLERANCE = Tolerance(0.9999, 0.999)  # of golden outputs: what is left is the order in which processors add


@dataclass(frozen=True)
class LoraEncoder:
    """An encoder with LoRA inside. `stored`: its frozen weights in one file, and where each lies; `files`: by place."""

    adapter: Adapter
    stored: Path
    places: Mapping[str, tuple[int, int]]
    files: dict[str, Path]
    licences: tuple[Licence, ...]


def build(
    spec: EncoderSpec, plan: AdapterPlan, scratch: Path, *, pairs: bool, seed: int, start: Checkpoint | None = None
) -> LoraEncoder:
    """Read the encoder, quantize its weights into `scratch`, and place LoRA by the plan, or as in a PEFT checkpoint.

    Raises ExportError for an encoder whose shape is not known, a target that names no layer, or a checkpoint that does
    not fit.
    """
    model, base, name, preprocess, files, licences = _read(spec, scratch)
    preprocess = at_version(preprocess, spec.preprocessing)
    shape = shape_of(model.config, spec.source)
    if shape.modality != spec.modality:
        raise ExportError(f"{shape.family} encodes {shape.modality}", where=spec.source, remedy="choose another source")
    buckets = spec.buckets if shape.modality == "text" else (1,)
    arrays = weights_of(shape, model.state_dict(), buckets[-1])
    factors, first = _from_checkpoint(shape, start) if start else _drawn(shape, plan, seed)
    precision = "float32" if spec.quantize == "none" else spec.quantize
    frozen = frozen_weights.freeze(arrays, precision)
    if plan.federated == "a-frozen":
        frozen = frozen.having({f"{factor.name}.A": first[factor.path][0] for factor in factors})
    frozen = frozen.prefixed(PREFIX)
    stored = scratch / f"frozen.{spec.modality}.bin"
    offsets = frozen_weights.store(frozen, stored)
    identifying_facts = {
        "preprocess": identifying(preprocess),
        "files": {
            place: digest(path.read_bytes()) for place, path in files.items() if not place.startswith("licences/")
        },
        "weights": {key: digest(value.tobytes()) for key, value in sorted(arrays.items())},
        "shape": [shape.family, shape.heads, shape.epsilon],
        "precision": f"int4 within {frozen_weights.SIZE_SHARE}" if precision == "int4" else precision,
        "limit": buckets[-1],
    }
    modality = Modality(
        name=spec.modality,
        features_id=identity(identifying_facts),
        encoder=name,
        taps=(),
        dim=shape.width,
        buckets=buckets,
        preprocess=preprocess,
        tolerance=OUTPUT_TOLERANCE,
        float_bytes=float_bytes(model),
        adapter="lora",
    )
    adapter = Adapter(
        modality=modality,
        shape=shape,
        frozen=frozen,
        factors=factors,
        first=first,
        trained=plan.federated,
        base=base,
        recompute=plan.recompute,
        pairs=pairs,
        reference=arrays,
    )
    return LoraEncoder(adapter, stored, offsets, files, licences)


def attach(model: onnx.ModelProto, inside: LoraEncoder) -> onnx.ModelProto:
    """The traced step with the frozen weights as constants of the shared file, which stands beside it."""
    return frozen_weights.attach(model, inside.adapter.frozen, inside.places, inside.stored.name)


def _read(spec: EncoderSpec, scratch: Path) -> tuple[Any, str, str, Preprocess, dict[str, Path], tuple[Licence, ...]]:
    """The model, its public name, its title, preprocessing, further files and licences."""
    if spec.source == "pip:minilm":
        model = minilm.load_model()
        preprocess, files = minilm.tokens(spec, model.config, scratch)
        changes = "weights quantized by blocks, LoRA added"
        licence, texts = packages.licence(packages.MINILM, "minilm", scratch, changes)
        return model, packages.MINILM.origin, minilm.TITLE, preprocess, {**files, **texts}, (licence,)
    if not spec.source.startswith("hf:"):
        remedy = 'source = "pip:minilm" or "hf:<directory or hub name>"'
        raise ExportError("LoRA needs a transformer", where=spec.source, remedy=remedy)
    loaded = load_model(spec)
    refuse_absent(loaded, loaded.model, spec)
    model, source, where = loaded.model, loaded.source, loaded.where
    licences, texts = hub.licence(source, where, scratch)
    title = hub.title(source, model.config)
    base = Path(source).name if Path(source).is_dir() else source
    if spec.modality == "text":
        preprocess, files = hub.tokens(spec, model.config, source, where, scratch)
        return model, base, title, preprocess, {**files, **texts}, licences
    size = getattr(model.config, "image_size", None)
    if spec.modality != "image" or not isinstance(size, int):
        raise ExportError(f"LoRA inside an encoder of {spec.modality} is not built", where=spec.source)
    pixels = vision.pixels(source, where, spec)
    if pixels.size != size:
        said = f"reads pictures of {size} pixels a side, but its processor makes them {pixels.size}"
        raise ExportError(said, where=spec.source)
    return model, base, title, pixels, texts, licences


def _drawn(
    shape: EncoderShape, plan: AdapterPlan, seed: int
) -> tuple[tuple[Factor, ...], dict[str, tuple[np.ndarray, np.ndarray]]]:
    """LoRA at the plan's targets: A uniform in +-1/sqrt(in), as PEFT draws it, and B zero."""
    paths = targeted(shape, plan.targets)
    if unknown := [path for path in plan.ranks if not any(_fits(path, known) for known in paths)]:
        fault = f"ranks names {unknown[0]}, which is no target"
        raise ExportError(fault, where="adapter.ranks", remedy=f"such as {next(iter(paths))}")
    rng = np.random.default_rng([seed, 0x10A])
    factors, first = [], {}
    for path, name in paths.items():
        rank = next((rank for key, rank in plan.ranks.items() if _fits(key, path)), plan.rank)
        rows, columns = shape.dimensions(name)
        factors.append(Factor(name, path, rank, plan.alpha, plan.alpha / rank))
        edge = columns**-0.5
        a = rng.uniform(-edge, edge, (rank, columns)).astype(np.float32)
        first[path] = (a, np.zeros((rows, rank), np.float32))
    return tuple(factors), first


def targeted(shape: EncoderShape, targets: Sequence[str]) -> dict[str, str]:
    """Our name by the model's path of every linear layer that a target names, as PEFT reads `target_modules`."""
    paths = {path: name for name, path in shape.modules.items()}
    for target in targets:
        if target != "all-linear" and not any(_fits(target, path) for path in paths):
            ends = {path.rpartition(f".{i}.")[2] for i in range(shape.layers) for path in paths if f".{i}." in path}
            fault = f"no layer of {shape.family} is called {target}"
            remedy = f"one of {', '.join(sorted(ends))}, or all-linear"
            raise ExportError(fault, where="adapter.targets", remedy=remedy)
    return {p: n for p, n in paths.items() if any(t == "all-linear" or _fits(t, p) for t in targets)}


def _fits(target: str, path: str) -> bool:
    return path == target or path.endswith(f".{target}")


def _from_checkpoint(
    shape: EncoderShape, start: Checkpoint
) -> tuple[tuple[Factor, ...], dict[str, tuple[np.ndarray, np.ndarray]]]:
    """LoRA where a PEFT checkpoint has it; every layer that it targets must be there, in the encoder's own shape."""
    paths = {path: name for name, path in shape.modules.items()}
    if unknown := [path for path in start.factors if path not in paths]:
        fault = f"has factors for {unknown[0]}, which is no linear layer of this encoder's blocks"
        remedy = "choose the encoder that it was trained on, without a head of its own"
        raise ExportError(fault, where=start.where, remedy=remedy)
    if isinstance(start.targets, str):
        expected = [path for path in paths if re.fullmatch(start.targets, path)]
    else:
        expected = list(targeted(shape, start.targets))
    if missing := [path for path in expected if path not in start.factors]:
        raise ExportError(f"lacks the factors of {missing[0]}", where=start.where, remedy="save it again with PEFT")
    if extra := [path for path in start.factors if path not in expected]:
        raise ExportError(f"has factors for {extra[0]}, which it does not target", where=start.where)
    factors = []
    for path in expected:
        a, b = start.factors[path]
        rows, columns = shape.dimensions(paths[path])
        rank, alpha = start.rank(path), start.alpha(path)
        for side, value, expected_shape in (("A", a, (rank, columns)), ("B", b, (rows, rank))):
            if value.shape != expected_shape:
                fault = f"{path}.lora_{side}.weight is {list(value.shape)} in place of {list(expected_shape)}"
                raise ExportError(fault, where=start.where)
        factors.append(Factor(paths[path], path, rank, alpha, start.scaling(path)))
    return tuple(factors), {path: start.factors[path] for path in expected}
