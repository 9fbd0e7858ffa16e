"""Example inputs of every step graph, to trace and to check it with."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from homeroom.contract.manifest import ImagePreprocess
from homeroom.data.tasks import kind_of
from homeroom_exporter.model.design import Design
from homeroom_exporter.model.tasks import kind_of as exported_kind

WITH_TARGETS = ("grad", "grad_heads", "grad_clipped")


def input_shapes(design: Design, role: str, batch: int, tokens: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Shape of every input but theta, by name, in the contract's order; see `example` for the dtypes."""
    shapes: dict[str, tuple[int, ...]] = {}
    for slot in design.slots:
        modality = design.modality(slot.modality)
        length = tokens[modality.name]
        if isinstance(modality.preprocess, ImagePreprocess) and modality.adapter == "lora":
            side = modality.preprocess.size
            shapes[f"{slot.name}.pixels"] = (batch, slot.count, 3, side, side)
            continue
        if modality.adapter == "lora":
            shapes[f"{slot.name}.input_ids"] = (batch, slot.count, length)
        else:
            shapes[f"{slot.name}.features"] = (batch, slot.count, len(modality.taps), length, modality.dim)
        shapes[f"{slot.name}.mask"] = (batch, slot.count, length)
    shapes["presence"] = (batch, len(design.inputs))
    if role in WITH_TARGETS:
        shapes |= {f"{slot}.augmented": shapes[f"{slot}.features"] for slot in design.augmented}
        for task in design.tasks:
            each = (tokens[design.slot(task.reads[0]).modality],) if kind_of(task).per_token else ()
            shapes[f"{task.name}.target"] = (batch, *each, task.width)
        shapes["weights"] = (batch, len(design.tasks) + len(design.objectives))
    if role == "grad_clipped":
        shapes |= {"groups": (batch,), "clip": (1,)}
    if role == "saliency":
        if design.adapter:
            shapes |= {f"{s.name}.reference": shapes[f"{s.name}.{design.adapter.input}"] for s in design.inside}
            shapes["along"] = (batch,)
        shapes |= {f"{task.name}.select": (batch, task.width) for task in design.explained}
    return shapes


def example(
    design: Design, role: str, batch: int, tokens: Mapping[str, int], *, seed: int = 0
) -> dict[str, np.ndarray]:
    """Random inputs of a batch (but theta) that a device could make: masks of any length, some inputs absent.

    Features are int8 (float32 where the gradient goes to them), groups int32, the rest float32.
    """
    rng = np.random.default_rng(seed)
    feeds: dict[str, np.ndarray] = {}
    presence = np.ones((batch, len(design.inputs)), np.float32)
    for name, shape in input_shapes(design, role, batch, tokens).items():
        if name.endswith(".features"):
            feeds[name] = rng.integers(-90, 91, shape).astype(np.float32 if role == "saliency" else np.int8)
        elif name.endswith(".pixels"):
            feeds[name] = rng.integers(0, 256, shape).astype(np.uint8)
            presence[:, design.columns(name.removesuffix(".pixels"))] = rng.random(shape[:2]) < 0.8
        elif name.endswith(".reference") and len(shape) > 3:
            feeds[name] = rng.integers(0, 256, shape).astype(np.uint8)
        elif name.endswith((".input_ids", ".reference")):
            assert design.adapter is not None
            feeds[name] = rng.integers(0, design.adapter.shape.words, shape)
        elif name.endswith(".mask"):
            slot = name.removesuffix(".mask")
            here = (rng.random(shape[:2]) < 0.8).astype(np.float32)
            lengths = rng.integers(1, shape[2] + 1, (*shape[:2], 1))
            feeds[name] = (np.arange(shape[2]) < lengths).astype(np.float32) * here[..., None]
            if f"{slot}.features" in feeds:
                feeds[f"{slot}.features"] *= feeds[name].astype(np.int8)[:, :, None, :, None]
            else:
                feeds[f"{slot}.input_ids"] *= feeds[name].astype(np.int64)
            presence[:, design.columns(slot)] = here
        elif name == "presence":
            feeds[name] = presence
        elif name.endswith(".augmented"):
            whole = feeds[f"{name.removesuffix('.augmented')}.features"]
            feeds[name] = whole * (rng.random((*shape[:2], 1, shape[3], 1 if shape[3] > 1 else shape[4])) < 0.7)
        elif name == "along":
            feeds[name] = rng.random(shape, dtype=np.float32)
        elif name == "weights":
            feeds[name] = rng.random(shape, dtype=np.float32) * (rng.random(shape) < 0.8).astype(np.float32)
        elif name == "groups":
            feeds[name] = rng.integers(-1, max(1, batch // 2), shape).astype(np.int32)
        elif name.endswith(".select"):
            feeds[name] = rng.standard_normal(shape, dtype=np.float32)
        elif name == "clip":
            feeds[name] = np.full(shape, 0.5, np.float32)
        else:
            task = next(task for task in design.tasks if f"{task.name}.target" == name)
            feeds[name] = exported_kind(task).example_target(rng, shape)
    return feeds
