"""Example inputs of every step graph, to trace and to check it with."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from homeroom.contract import graph_io
from homeroom.contract.graph_io import FEATURES, INPUT_IDS, MASK, named
from homeroom.contract.manifest import SequencePreprocess
from homeroom.data.preprocess.sequence import FIRST_SKILL_COLUMN, GAP_COLUMN
from homeroom_exporter.model.design import Design
from homeroom_exporter.model.tasks import kind_of as exported_kind
from homeroom_exporter.quantize.compress import INT8_LIMIT


def example(
    design: Design, role: str, batch: int, tokens: Mapping[str, int], *, seed: int = 0
) -> dict[str, np.ndarray]:
    """Random inputs of a batch (but theta) that a device could make: masks of any length, some inputs absent."""
    rng = np.random.default_rng(seed)
    feeds: dict[str, np.ndarray] = {}
    presence = np.ones((batch, len(design.inputs)), np.float32)
    for tensor in graph_io.step_inputs(design, role, batch, tokens, design.per_token, design.asked):
        name, shape = tensor.name, tensor.shape
        owner, _, kind = name.rpartition(".")
        if kind == FEATURES:
            spec = design.modality(design.slot(owner).modality).preprocess
            feeds[name] = _features(rng, spec, shape).astype(tensor.dtype)
        elif kind == graph_io.PIXELS:
            feeds[name] = rng.integers(0, 256, shape).astype(tensor.dtype)
            presence[:, design.columns(owner)] = rng.random(shape[:2]) < 0.8
        elif kind == graph_io.REFERENCE and tensor.dtype == "uint8":
            feeds[name] = rng.integers(0, 256, shape).astype(tensor.dtype)
        elif kind in (INPUT_IDS, graph_io.REFERENCE):
            assert design.adapter is not None
            feeds[name] = rng.integers(0, design.adapter.shape.words, shape)
        elif kind == MASK:
            here = (rng.random(shape[:2]) < 0.8).astype(np.float32)
            lengths = rng.integers(1, shape[2] + 1, (*shape[:2], 1))
            feeds[name] = (np.arange(shape[2]) < lengths).astype(np.float32) * here[..., None]
            if (features := named(owner, FEATURES)) in feeds:
                feeds[features] *= feeds[name].astype(np.int8)[:, :, None, :, None]
            else:
                feeds[named(owner, INPUT_IDS)] *= feeds[name].astype(np.int64)
            presence[:, design.columns(owner)] = here
        elif kind == graph_io.PRESENCE:
            feeds[name] = presence
        elif kind == graph_io.AUGMENTED:
            whole = feeds[named(owner, FEATURES)]
            feeds[name] = whole * (rng.random((*shape[:2], 1, shape[3], 1 if shape[3] > 1 else shape[4])) < 0.7)
        elif kind == graph_io.ALONG:
            feeds[name] = rng.random(shape, dtype=np.float32)
        elif kind == graph_io.WEIGHTS:
            feeds[name] = rng.random(shape, dtype=np.float32) * (rng.random(shape) < 0.8).astype(np.float32)
        elif kind == graph_io.GROUPS:
            feeds[name] = rng.integers(-1, max(1, batch // 2), shape).astype(tensor.dtype)
        elif kind == graph_io.SELECT:
            feeds[name] = rng.standard_normal(shape, dtype=np.float32)
        elif kind == graph_io.CLIP:
            feeds[name] = np.full(shape, 0.5, np.float32)
        else:
            task = next(task for task in design.tasks if task.name == owner)
            size = (*shape, task.width) if owner in design.asked else shape
            feeds[name] = exported_kind(task).example_target(rng, size)
    return feeds


def _features(rng: np.random.Generator, spec: object, shape: tuple[int, ...]) -> np.ndarray:
    """Features of any size; of a sequence tokens of one skill each, right or wrong, and any time since the last."""
    if not isinstance(spec, SequencePreprocess):
        return rng.integers(-90, 91, shape)
    features = np.zeros(shape)
    features[..., GAP_COLUMN] = rng.integers(0, INT8_LIMIT + 1, shape[:-1])
    answered = rng.integers(FIRST_SKILL_COLUMN, spec.width, (*shape[:-1], 1))
    np.put_along_axis(features, answered, INT8_LIMIT, -1)
    return features
