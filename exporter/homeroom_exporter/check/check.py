"""The self-check of an export, by the graphs that will be shipped: a bundle that fails it is not written.

For each backbone: size, cosine of int8 with float32 features, accuracy of a linear probe on both, time. For each
variant of the step: gradients against torch's autograd, finite results at the edges, time and peak memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from homeroom.contract.graph_io import AUGMENTED, FEATURES, INPUT_IDS, MASK, PIXELS, PRESENCE, THETA, WEIGHTS
from homeroom.contract.layout import FULL_TIER
from homeroom.contract.manifest import Modality, Precision, Slot, Task
from homeroom.data.preprocess import Prepared, collate, hashed_content, prepare
from homeroom.data.samples import StoredSample
from homeroom.inference.golden import cosines
from homeroom.runtime.backend import LoadedGraph, load
from homeroom.runtime.external_data import bytes_with_external_data
from homeroom_exporter.bundle import golden
from homeroom_exporter.bundle.write import BundleContents, GraphFile
from homeroom_exporter.check import linear_probe
from homeroom_exporter.check.footprint import Footprint, RuntimeComparison, run_footprint
from homeroom_exporter.check.lora_agreement import LoraCheck, check_lora
from homeroom_exporter.check.tap_probe import TapChoice
from homeroom_exporter.encoders.backbone import Backbone
from homeroom_exporter.model.design import Design
from homeroom_exporter.quantize.fidelity import problems, unsteady
from homeroom_exporter.trace.example_inputs import example
from homeroom_exporter.trace.reference import by_autograd

# Largest relative error against torch, by role.
PARITY = {"predict": 1e-5, "grad": 1e-5, "grad_heads": 1e-5, "saliency": 1e-5, "grad_clipped": 1e-4}
COMPARED_VALUES = 150  # values of a modality that features are compared on
CHECK_BATCH = 16  # inputs that a features graph is run on at once
EDGES = ("zeros", "saturated", "empty", "longest")


@dataclass(frozen=True)
class BackboneCheck:
    """Sizes in bytes; `cosine` (mean, worst) over `values` inputs; `lowest`: the precision that is compared."""

    modality: str
    lowest: Precision
    float_bytes: int
    bytes: dict[str, int]
    values: int
    cosine: tuple[float, float]
    probes: tuple[linear_probe.LinearProbe, ...]
    footprint: dict[str, Footprint]
    batch: int
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class StepCheck:
    """One variant of a step. `parity`: relative error against torch; `unfinite`: edges with a bad result."""

    name: str
    role: str
    parity: float
    unfinite: tuple[str, ...]
    footprint: Footprint


@dataclass(frozen=True)
class SelfCheck:
    """What an export measured of itself, and what failed.

    inside: where LoRA is inside an encoder. litert: graphs that LiteRT runs too; unconverted: those that it does not,
    and why. taps: layers chosen by probes.
    """

    backbones: tuple[BackboneCheck, ...]
    steps: tuple[StepCheck, ...]
    parameters: int
    failures: tuple[str, ...]
    inside: LoraCheck | None = None
    litert: tuple[RuntimeComparison, ...] = ()
    unconverted: Mapping[str, str] = field(default_factory=dict)
    taps: tuple[TapChoice, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return not self.failures


def check(
    contents: BundleContents, backbones: Mapping[str, Backbone], samples: Sequence[StoredSample], *, threads: int
) -> SelfCheck:
    """Runs every check; `samples` are those of the calibration, with labels where the user gave some."""
    design = contents.design
    checked = tuple(check_backbone(design, backbone, samples, threads) for backbone in backbones.values())
    theta = contents.theta + np.random.default_rng(0).standard_normal(contents.theta.size).astype(np.float32) * 0.02
    tiers = {FULL_TIER: (design, theta), **{name: (t.design, theta[t.index]) for name, t in contents.tiers.items()}}
    graphs = [graph for graph in contents.graphs if graph.role != "features"]
    steps = tuple(check_step(*tiers[graph.tier], graph, threads) for graph in graphs)
    failures = [message for one in checked for message in _failures(one, design.modality(one.modality))]
    for step in steps:
        if step.parity > PARITY[step.role]:
            failures.append(f"{step.name} differs from torch by {step.parity:.1e}")
        failures += [f"{step.name} gives values that are not finite on {edge} inputs" for edge in step.unfinite]
    inside = check_lora(contents, samples) if design.adapter else None
    return SelfCheck(checked, steps, design.layout.size, tuple(failures), inside)


def _failures(checked: BackboneCheck, modality: Modality) -> list[str]:
    failures = list(checked.problems)
    (mean, worst), limit = checked.cosine, modality.tolerance
    if mean < limit.mean or worst < limit.worst:
        failures.append(
            f"{checked.modality}: quantized features are too far from float32 (cosine {mean:.4f}, worst {worst:.4f}; "
            f"tolerance {limit.mean:.4f}, {limit.worst:.4f})"
        )
    failures += [
        f"{checked.modality}: the probe of {p.task} falls from {p.float32:.3f} to {p.int8:.3f} when quantized"
        for p in checked.probes
        if p.worse
    ]
    return failures


def check_backbone(design: Design, backbone: Backbone, samples: Sequence[StoredSample], threads: int) -> BackboneCheck:
    """Compares the two precisions of a backbone on real values."""
    modality = backbone.modality
    labelled = [s for s in samples if s.labels][: linear_probe.MOST_PROBE_SAMPLES]
    chosen = _values(design, modality, labelled, samples)
    ready = {key: prepare(modality, value, backbone.files.__getitem__) for key, value in chosen.items()}
    features = {
        precision: compute(modality, load(path, threads=threads), ready)
        for precision, path in sorted(backbone.graphs.items())
    }
    int8 = features[backbone.lowest]
    feeds = collate(modality, list(ready.values())[:CHECK_BATCH])
    return BackboneCheck(
        modality=modality.name,
        lowest=backbone.lowest,
        float_bytes=backbone.float_bytes,
        bytes={p: bytes_with_external_data(path, path.name) for p, path in backbone.graphs.items()},
        values=len(chosen),
        cosine=cosines([(int8[key], features["float32"][key]) for key in chosen]),
        probes=tuple(
            probe
            for task in design.tasks
            if (probe := _probe(design, task, modality, labelled, features["float32"], int8)) is not None
        ),
        footprint={
            precision: run_footprint(path, feeds, threads) for precision, path in sorted(backbone.graphs.items())
        },
        batch=min(CHECK_BATCH, len(ready)),
        problems=tuple(
            f"{modality.name} {precision}: {problem}"
            for precision, path in sorted(backbone.graphs.items())
            for problem in (
                *problems(modality, path),
                *unsteady(modality, path, backbone.graphs["float32"], list(ready.values()), threads),
            )
        ),
    )


def _values(
    design: Design, modality: Modality, labelled: Sequence[StoredSample], samples: Sequence[StoredSample]
) -> dict[bytes, Any]:
    """By content: every value that a probe needs, and others until there are COMPARED_VALUES."""
    slots = [slot for slot in design.slots if slot.modality == modality.name]
    read = {name for task in design.tasks if linear_probe.is_probed(task) for name in task.reads}
    chosen: dict[bytes, Any] = {}
    for sample in labelled:
        chosen |= {
            hashed_content(v): v for slot in slots if slot.name in read for _, v in golden.slot_values(slot, sample)
        }
    for sample in samples:
        if len(chosen) < COMPARED_VALUES:
            chosen |= {hashed_content(v): v for slot in slots for _, v in golden.slot_values(slot, sample)}
    return chosen


def compute(modality: Modality, run: LoadedGraph, values: Mapping[bytes, Prepared]) -> dict[bytes, np.ndarray]:
    """Features int8 [taps, n, dim] of each value, short ones with short ones."""
    keys = sorted(values, key=lambda key: values[key].tokens)
    features: dict[bytes, np.ndarray] = {}
    for start in range(0, len(keys), CHECK_BATCH):
        part = keys[start : start + CHECK_BATCH]
        outputs = run(collate(modality, [values[key] for key in part]))[FEATURES]
        for key, one in zip(part, outputs, strict=True):
            features[key] = np.ascontiguousarray(one[:, : values[key].tokens])
    return features


def _probe(
    design: Design,
    task: Task,
    modality: Modality,
    samples: Sequence[StoredSample],
    reference: Mapping[bytes, np.ndarray],
    int8: Mapping[bytes, np.ndarray],
) -> linear_probe.LinearProbe | None:
    slots = [design.slot(name) for name in task.reads if design.slot(name).modality == modality.name]
    if not linear_probe.is_probed(task) or not slots:
        return None
    rows = [s for s in samples if task.name in s.labels and any(golden.slot_values(slot, s) for slot in slots)]
    labels = np.array([task.labels.index(str(s.labels[task.name])) for s in rows])

    def table(features: Mapping[bytes, np.ndarray]) -> np.ndarray:
        scale = design.scales[modality.name][:, None]
        width = design.scales[modality.name].size

        def vectors(sample: StoredSample, slot: Slot) -> list[np.ndarray]:
            return [(features[hashed_content(v)] * scale).mean(1).ravel() for _, v in golden.slot_values(slot, sample)]

        return np.array([linear_probe.sample_row([vectors(sample, slot) for slot in slots], width) for sample in rows])

    return linear_probe.compare(task.name, table(reference), table(int8), labels) if len(rows) else None


def check_step(design: Design, theta: np.ndarray, graph: GraphFile, threads: int) -> StepCheck:
    """Checks one variant of a step against torch, and at the edges of what a device may feed it."""
    run, tokens = load(graph.path, threads=threads), dict(graph.tokens or {})
    feeds = example(design, graph.role, graph.batch, tokens, seed=1)
    results = run({THETA: theta, **feeds})
    expected = by_autograd(design, graph.role, theta, feeds)
    parity = max(relative_error(results[name], value) for name, value in expected.items())
    unfinite = []
    for edge in EDGES:
        results = run({THETA: theta, **edge_feeds(feeds, edge)})
        if not all(np.isfinite(value).all() for value in results.values()):
            unfinite.append(edge)
    footprint = run_footprint(graph.path, {THETA: theta, **feeds}, threads)
    return StepCheck(Path(graph.name).stem, graph.role, parity, tuple(unfinite), footprint)


def edge_feeds(feeds: Mapping[str, np.ndarray], edge: str) -> dict[str, np.ndarray]:
    """`feeds` with all inputs zero, all at +-127 (or the largest), all absent, or all at full length; weights are 1."""
    result = dict(feeds)
    for name, value in feeds.items():
        kind = name.rpartition(".")[2]
        if kind in (FEATURES, AUGMENTED) and edge != "longest":
            sign = np.where(np.arange(value.shape[-1]) % 3, 127, -127).astype(np.int8)
            result[name] = np.zeros_like(value) + (sign if edge == "saturated" else np.int8(0))
        elif kind in (INPUT_IDS, PIXELS) and edge != "longest":
            result[name] = np.full_like(value, value.max() if edge == "saturated" else 0)
        elif kind in (MASK, PRESENCE):
            result[name] = np.full_like(value, 0.0 if edge == "empty" else 1.0)
        elif kind == WEIGHTS:
            result[name] = np.ones_like(value)
    return result


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """The norm of the difference over that of the expected value."""
    return float(np.linalg.norm(actual - expected) / max(float(np.linalg.norm(expected)), 1e-12))
