"""The self-check of an export, by the graphs that will be shipped: a bundle that fails it is not written; torch.

For each backbone: size, cosine of int8 with float32 features, accuracy of a linear probe on both, time. For each
variant of the step: gradients against torch's autograd, finite results at the edges, time and peak memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from homeroom.contract.manifest import Modality, Precision, Slot, Task
from homeroom.data.preprocess import Prepared, collate, hashed_content, prepare
from homeroom.data.samples import StoredSample
from homeroom.inference.golden import cosines
from homeroom.runtime.backend import LoadedGraph, load
from homeroom_exporter.bundle import golden
from homeroom_exporter.bundle.write import Contents, GraphFile
from homeroom_exporter.check import linear_probe
from homeroom_exporter.check.footprint import Footprint, Twin, measure
from homeroom_exporter.check.lora_agreement import InsideCheck, check_inside
from homeroom_exporter.check.tap_probe import TapChoice
from homeroom_exporter.encoders.backbone import Backbone
from homeroom_exporter.model.design import Design
from homeroom_exporter.quantize.fidelity import problems
from homeroom_exporter.trace.example_inputs import example
from homeroom_exporter.trace.reference import by_autograd

PARITY = {
    "predict": 1e-5,
    "grad": 1e-5,
    "grad_heads": 1e-5,
    "saliency": 1e-5,
    "grad_clipped": 1e-4,
}  # largest relative error against torch, by role
VALUES = 150  # values of a modality that features are compared on
SAMPLES = 240  # labelled samples of a probe
BATCH = 16
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
    probes: tuple[linear_probe.Probe, ...]
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
class Report:
    """`litert`: graphs that LiteRT runs too; `unconverted`: those that it does not, and why; `taps`: by probes."""

    backbones: tuple[BackboneCheck, ...]
    steps: tuple[StepCheck, ...]
    parameters: int
    failures: tuple[str, ...]
    inside: InsideCheck | None = None
    litert: tuple[Twin, ...] = ()
    unconverted: Mapping[str, str] = field(default_factory=dict)
    taps: tuple[TapChoice, ...] = ()

    @property
    def passed(self) -> bool:
        return not self.failures


def check(
    contents: Contents, backbones: Mapping[str, Backbone], samples: Sequence[StoredSample], *, threads: int
) -> Report:
    """Run every check; `samples` are those of the calibration, with labels where the user gave some."""
    design = contents.design
    checked = tuple(check_backbone(design, made, samples, threads) for made in backbones.values())
    theta = contents.theta + np.random.default_rng(0).standard_normal(contents.theta.size).astype(np.float32) * 0.02
    steps = tuple(
        check_step(
            contents.tiers[g.tier].design if g.tier in contents.tiers else design,
            theta[contents.tiers[g.tier].index] if g.tier in contents.tiers else theta,
            g,
            threads,
        )
        for g in contents.graphs
        if g.role != "features"
    )
    failures = [message for made in checked for message in _failures(made, design.modality(made.modality))]
    for step in steps:
        if step.parity > PARITY[step.role]:
            failures.append(f"{step.name} differs from torch by {step.parity:.1e}")
        failures += [f"{step.name} gives values that are not finite on {edge} inputs" for edge in step.unfinite]
    inside = check_inside(contents, samples) if design.adapter else None
    return Report(checked, steps, design.layout.size, tuple(failures), inside)


def _failures(made: BackboneCheck, modality: Modality) -> list[str]:
    failures = list(made.problems)
    (mean, worst), limit = made.cosine, modality.tolerance
    if mean < limit.mean or worst < limit.worst:
        failures.append(
            f"{made.modality}: quantized features are too far from float32 (cosine {mean:.4f}, worst {worst:.4f}; "
            f"tolerance {limit.mean:.4f}, {limit.worst:.4f})"
        )
    failures += [
        f"{made.modality}: the probe of {p.task} falls from {p.float32:.3f} to {p.int8:.3f} when quantized"
        for p in made.probes
        if p.worse
    ]
    return failures


def check_backbone(design: Design, made: Backbone, samples: Sequence[StoredSample], threads: int) -> BackboneCheck:
    """Compare the two precisions of a backbone on real values."""
    modality = made.modality
    labelled = [s for s in samples if s.labels][:SAMPLES]
    chosen = _values(design, modality, labelled, samples)
    ready = {key: prepare(modality, value, made.files.__getitem__) for key, value in chosen.items()}
    features = {
        precision: compute(modality, load(path, threads=threads), ready)
        for precision, path in sorted(made.graphs.items())
    }
    int8 = features[made.lowest]
    feeds = collate(modality, list(ready.values())[:BATCH])
    return BackboneCheck(
        modality=modality.name,
        lowest=made.lowest,
        float_bytes=made.float_bytes,
        bytes={precision: path.stat().st_size for precision, path in made.graphs.items()},
        values=len(chosen),
        cosine=cosines([(int8[key], features["float32"][key]) for key in chosen]),
        probes=tuple(
            found
            for task in design.tasks
            if (found := _probe(design, task, modality, labelled, features["float32"], int8)) is not None
        ),
        footprint={precision: measure(path, feeds, threads) for precision, path in sorted(made.graphs.items())},
        batch=min(BATCH, len(ready)),
        problems=tuple(
            f"{modality.name} {precision}: {problem}"
            for precision, path in sorted(made.graphs.items())
            for problem in problems(modality, path)
        ),
    )


def _values(
    design: Design, modality: Modality, labelled: Sequence[StoredSample], samples: Sequence[StoredSample]
) -> dict[bytes, Any]:
    """By content: every value that a probe needs, and others until there are VALUES."""
    slots = [slot for slot in design.slots if slot.modality == modality.name]
    read = {name for task in design.tasks if task.kind in linear_probe.PROBED for name in task.reads}
    chosen: dict[bytes, Any] = {}
    for sample in labelled:
        chosen |= {hashed_content(v): v for slot in slots if slot.name in read for _, v in golden.places(slot, sample)}
    for sample in samples:
        if len(chosen) < VALUES:
            chosen |= {hashed_content(v): v for slot in slots for _, v in golden.places(slot, sample)}
    return chosen


def compute(modality: Modality, run: LoadedGraph, values: Mapping[bytes, Prepared]) -> dict[bytes, np.ndarray]:
    """Features int8 [taps, n, dim] of each value, short ones with short ones."""
    keys = sorted(values, key=lambda key: values[key].tokens)
    result: dict[bytes, np.ndarray] = {}
    for start in range(0, len(keys), BATCH):
        part = keys[start : start + BATCH]
        made = run(collate(modality, [values[key] for key in part]))["features"]
        for key, one in zip(part, made, strict=True):
            result[key] = np.ascontiguousarray(one[:, : values[key].tokens])
    return result


def _probe(
    design: Design,
    task: Task,
    modality: Modality,
    samples: Sequence[StoredSample],
    reference: Mapping[bytes, np.ndarray],
    int8: Mapping[bytes, np.ndarray],
) -> linear_probe.Probe | None:
    slots = [design.slot(name) for name in task.reads if design.slot(name).modality == modality.name]
    if task.kind not in linear_probe.PROBED or not slots:
        return None
    rows = [s for s in samples if task.name in s.labels and any(golden.places(slot, s) for slot in slots)]
    labels = np.array([task.labels.index(str(s.labels[task.name])) for s in rows])

    def table(features: Mapping[bytes, np.ndarray]) -> np.ndarray:
        scale = design.scales[modality.name][:, None]
        width = design.scales[modality.name].size

        def vectors(sample: StoredSample, slot: Slot) -> list[np.ndarray]:
            return [(features[hashed_content(v)] * scale).mean(1).ravel() for _, v in golden.places(slot, sample)]

        return np.array([linear_probe.joined([vectors(sample, slot) for slot in slots], width) for sample in rows])

    return linear_probe.compare(task.name, table(reference), table(int8), labels) if len(rows) else None


def check_step(design: Design, theta: np.ndarray, graph: GraphFile, threads: int) -> StepCheck:
    """One variant of a step against torch, and at the edges of what a device may feed it."""
    run, tokens = load(graph.path, threads=threads), dict(graph.tokens or {})
    feeds = example(design, graph.role, graph.batch, tokens, seed=1)
    made = run({"theta": theta, **feeds})
    wanted = by_autograd(design, graph.role, theta, feeds)
    parity = max(relative_error(made[name], value) for name, value in wanted.items())
    unfinite = []
    for edge in EDGES:
        results = run({"theta": theta, **edge_feeds(feeds, edge)})
        if not all(np.isfinite(value).all() for value in results.values()):
            unfinite.append(edge)
    footprint = measure(graph.path, {"theta": theta, **feeds}, threads)
    return StepCheck(Path(graph.name).stem, graph.role, parity, tuple(unfinite), footprint)


def edge_feeds(feeds: Mapping[str, np.ndarray], edge: str) -> dict[str, np.ndarray]:
    """`feeds` with all inputs zero, all at +-127 (or the largest), all absent, or all at full length; weights are 1."""
    result = dict(feeds)
    for name, value in feeds.items():
        if name.endswith((".features", ".augmented")) and edge != "longest":
            sign = np.where(np.arange(value.shape[-1]) % 3, 127, -127).astype(np.int8)
            result[name] = np.zeros_like(value) + (sign if edge == "saturated" else np.int8(0))
        elif name.endswith((".input_ids", ".pixels")) and edge != "longest":
            result[name] = np.full_like(value, value.max() if edge == "saturated" else 0)
        elif name.endswith(".mask") or name == "presence":
            result[name] = np.full_like(value, 0.0 if edge == "empty" else 1.0)
        elif name == "weights":
            result[name] = np.ones_like(value)
    return result


def relative_error(made: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(made - wanted) / max(float(np.linalg.norm(wanted)), 1e-12))
