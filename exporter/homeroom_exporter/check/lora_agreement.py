"""Compares the quantized encoder with LoRA inside with the float32 one: gradients on real samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from homeroom.contract.graph_io import GRADIENT, WEIGHTS
from homeroom.data.preprocess import prepare
from homeroom.data.preprocess.raw_inputs import raw_input
from homeroom.data.samples import StoredSample
from homeroom_exporter.bundle import golden
from homeroom_exporter.bundle.write import BundleContents
from homeroom_exporter.model.lora.adapter import PREFIX
from homeroom_exporter.trace.example_inputs import example
from homeroom_exporter.trace.reference import by_autograd

THETA_NOISE = 0.02  # theta away from its start, where every B is zero and A has no gradient


@dataclass(frozen=True)
class LoraCheck:
    """`bytes` of the frozen file against the float32 encoder's; `cosine` of the factors' gradient with float32's."""

    modality: str
    precision: str
    float_bytes: int
    bytes: int
    parameters: int
    rows: int
    cosine: float


def check_lora(contents: BundleContents, samples: Sequence[StoredSample]) -> LoraCheck:
    """Compares on the inputs of as many samples as a batch holds, with random targets."""
    design = contents.design
    adapter = design.adapter
    assert adapter is not None
    slots = [slot for slot in design.slots if slot.modality == adapter.modality.name]
    rows: list[golden.Features] = []
    graph = next(g for g in contents.graphs if g.role == "grad")
    for sample in samples:
        ready = {
            (slot.name, place): prepare(adapter.modality, value, contents.files.__getitem__)
            for slot in slots
            for place, value in golden.slot_values(slot, sample)
        }
        if ready and len(rows) < graph.batch:
            rows.append({key: raw_input(adapter.modality, one) for key, one in ready.items()})
    tokens = golden.bucket(design, rows)
    feeds = {**example(design, "grad", graph.batch, tokens), **golden.feeds(design, rows, graph.batch, tokens)}
    feeds[WEIGHTS] = np.ones_like(feeds[WEIGHTS])
    noise = np.random.default_rng(0).standard_normal(contents.theta.size).astype(np.float32)
    theta = contents.theta + THETA_NOISE * noise
    reference = {PREFIX + name: value for name, value in adapter.reference.items()}
    quantized, exact = (
        by_autograd(design, "grad", theta, inputs)[GRADIENT] for inputs in (feeds, {**feeds, **reference})
    )
    factors = np.concatenate(
        [np.arange(part.start, part.stop) for name, part in design.layout.slices.items() if name.startswith("lora.")]
    )
    a, b = quantized[factors].astype(np.float64), exact[factors].astype(np.float64)
    return LoraCheck(
        modality=adapter.modality.name,
        precision=adapter.precision,
        float_bytes=adapter.modality.float_bytes,
        bytes=contents.files[f"graphs/frozen.{adapter.modality.name}.bin"].stat().st_size,
        parameters=len(factors),
        rows=len(rows),
        cosine=float(a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-30)),
    )
