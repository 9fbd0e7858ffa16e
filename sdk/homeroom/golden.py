"""Golden samples: does this machine compute the features that the exporter saw? Imports bundle, runtime, features."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import safetensors.numpy

from homeroom.bundle import Bundle
from homeroom.contract.manifest import Precision
from homeroom.errors import BundleError
from homeroom.features import compute
from homeroom.ingest.jsonl import read_jsonl
from homeroom.runtime import Graphs
from homeroom.samples import StoredSample, resolve


@dataclass(frozen=True)
class Drift:
    """Cosine of this machine's features with the float reference, over the golden samples of one modality."""

    modality: str
    precision: Precision
    mean: float
    worst: float
    within: bool


def samples(bundle: Bundle) -> list[StoredSample]:
    path = bundle.file(bundle.manifest.golden) / "samples.jsonl"
    return [resolve(sample, bundle.manifest, base=path.parent) for sample in read_jsonl(path)]


def expected(bundle: Bundle) -> dict[str, np.ndarray]:
    """`features.<row>.<slot>.<place>` int8 [taps, n, dim] and `output.<row>.<task>` float32 [width]."""
    return dict(safetensors.numpy.load_file(Path(bundle.file(bundle.manifest.golden)) / "expected.safetensors"))


def cosines(pairs: list[tuple[np.ndarray, np.ndarray]]) -> tuple[float, float]:
    """Mean and worst cosine of pairs of arrays; arrays of another shape count 0, two of zeros 1."""
    found = []
    for a, b in pairs:
        if a.shape != b.shape:
            found.append(0.0)
            continue
        x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
        norm = float(np.linalg.norm(x) * np.linalg.norm(y))
        found.append(float(x @ y) / norm if norm else float(np.array_equal(x, y)))
    return (float(np.mean(found)), min(found)) if found else (1.0, 1.0)


def drift(bundle: Bundle, graphs: Graphs, modality: str) -> Drift:
    """Compute the golden samples' features with the variant that `graphs` uses and compare."""
    wanted = expected(bundle)
    slots = {slot.name for slot in bundle.manifest.slots if slot.modality == modality}
    keys, values = [], []
    for row, sample in enumerate(samples(bundle)):
        for slot in slots & sample.inputs.keys():
            for place, value in enumerate(sample.inputs[slot]):
                if value is not None:
                    keys.append(f"features.{row}.{slot}.{place}")
                    values.append(value)
    if missing := [key for key in keys if key not in wanted]:
        raise BundleError(f"lacks the expected {missing[0]}", where=bundle.manifest.golden)
    made = dict(compute(bundle, graphs, modality, values))
    mean, worst = cosines([(made[i], wanted[key]) for i, key in enumerate(keys)])
    limit = bundle.manifest.modality(modality).tolerance
    return Drift(modality, graphs.precision[modality], mean, worst, mean >= limit.mean and worst >= limit.worst)


def choose_precision(bundle: Bundle, *, threads: int | None = None) -> dict[str, Precision]:
    """For each modality the lowest precision whose golden samples come out right on this machine, else BundleError."""
    chosen: dict[str, Precision] = {}
    for modality in bundle.manifest.modalities:
        offered = {g.precision for g in bundle.manifest.graphs if g.role == "features" and g.modality == modality.name}
        tried: list[Drift] = []
        for precision in (p for p in get_args(Precision) if p in offered):
            graphs = Graphs(bundle, {modality.name: precision}, threads)
            tried.append(drift(bundle, graphs, modality.name))
            if tried[-1].within:
                chosen[modality.name] = tried[-1].precision
                break
        else:
            seen = ", ".join(f"{d.precision} {d.mean:.4f} (worst {d.worst:.4f})" for d in tried)
            raise BundleError(
                f"this machine computes other {modality.name} features than the bundle's golden samples: {seen}",
                where=f"features/{modality.name}",
                remedy="update onnxruntime, or ask the exporter for a bundle for this processor",
            )
    return chosen
