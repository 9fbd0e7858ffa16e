"""Plans a training that fits its budget, and predicts its time and memory.

Predictions are arithmetic on rates measured on this machine (`homeroom doctor`) and on facts of the bundle; without a
measurement nothing is predicted. To fit, it gives up in this order: large batches, tiers of the adapter, up to half of
the samples (the oldest), modalities (the largest first), more samples.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np

from homeroom.contract.layout import FULL_TIER
from homeroom.contract.manifest import Graph, Modality, Runtime
from homeroom.data.decoder import client
from homeroom.data.preprocess.raw_inputs import token_bytes
from homeroom.data.samples import StoredInput, StoredSample, input_kind, input_length
from homeroom.device.resources.budget import Budget
from homeroom.device.resources.costs import Costs, StepCost
from homeroom.device.resources.plan import TrainingPlan
from homeroom.errors import TrainError
from homeroom.runtime.bundle import Bundle
from homeroom.runtime.graphs import parallel_runs
from homeroom.system import hardware
from homeroom.train.features.buffer import OBJECT_BYTES, LazySamples, buffer_bytes, input_at

MEMORY_SLACK = 1.15  # measured over predicted sum of parts: 146 MB for 131 (300 short answers, MiniLM int8)
THETA_COPIES = 8  # theta, start, best, gradient, two moments, and numpy's temporaries
LEAST_TRAINING_SAMPLES = 8  # below which no plan goes
SAMPLE_BYTES = 250  # of the columns for one training example

GraphUse = tuple[Sequence[Graph], Mapping[int, int]]  # graphs of a role, and samples by index of the graph


@dataclass(frozen=True)
class Workload:
    """The inputs of all samples, arrays [samples, inputs].

    `tokens`: int32, estimated for texts, 0 where there is no input. `fresh`: bool, whether features are to be computed.
    `sizes`: int32, characters of a text, else 0.
    """

    tokens: np.ndarray
    fresh: np.ndarray
    sizes: np.ndarray


@dataclass
class CostEstimate:
    """Predicted seconds and peak bytes of a choice; `parts` of the bytes by what they are for."""

    feature_s: float = 0.0
    step_s: float = 0.0
    bytes: int = 0
    parts: dict[str, int] = field(default_factory=dict)


def plan_costs(
    bundle: Bundle,
    costs: Costs | None,
    samples: Sequence[StoredSample],
    fresh: np.ndarray,
    budget: Budget,
    epochs: int,
    validation: float,
    tier: str = FULL_TIER,
    runtime: Runtime = "onnx",
) -> TrainingPlan:
    """Chooses tier, batch, threads, modalities and samples for a budget, and predicts their cost.

    Raises TrainError where nothing fits, with the least memory that would.

    bundle: in use.
    costs: measured on this machine; None predicts nothing.
    samples: to train on, oldest first.
    fresh: bool [samples, inputs], where features are to be computed.
    budget: to fit.
    epochs: of the training.
    validation: share of the samples that is not trained on.
    tier: the largest to use.
    runtime: of the graphs.
    """
    names = tuple(m.name for m in bundle.manifest.modalities)
    first = step_shapes(bundle, tier)[0]
    threads = budget.threads or (costs.threads if costs else None)
    if costs is None:
        unknown = "nothing was measured here yet: `homeroom doctor DIRECTORY` does, and the next plan predicts"
        return TrainingPlan(threads, first.batch, names, len(samples), tier, why=(unknown,))
    workload = _workload(bundle, costs, samples, fresh)
    limit = budget.limit_bytes
    search = _PlanSearch(bundle, costs, workload, epochs, validation, tier, threads or 1, runtime)
    choice = search.search(limit)
    if choice is None:
        least = search.least()
        raise TrainError(
            f"nothing fits {(limit or 0) / 1e6:.0f} MB: the least is {_megabytes(least.bytes)} ({_parts(least)})",
            remedy=f"give it megabytes={math.ceil(least.bytes / 1e6)} or more, or a bundle with a smaller backbone",
        )
    estimate, why = choice.estimate, list(choice.why)
    seconds = estimate.feature_s + estimate.step_s
    if seconds > 60 * budget.minutes:
        runs = math.ceil(seconds / 60 / budget.minutes)
        why.append(f"about {seconds / 60:.1f} minutes: {runs} runs of {budget.minutes:g}, each going on from the last")
    return TrainingPlan(
        threads,
        choice.shape.batch,
        choice.modalities,
        choice.samples,
        choice.shape.tier,
        seconds=seconds,
        feature_seconds=estimate.feature_s,
        megabytes=estimate.bytes / 1e6,
        why=tuple(why),
    )


def step_shapes(bundle: Bundle, tier: str) -> list[StepShape]:
    """Step shapes from `tier` down; in each tier the batches of its exported training steps, the largest first."""
    names = [*(t.name for t in bundle.manifest.tiers), FULL_TIER]
    shapes = []
    for name in reversed(names[: names.index(tier) + 1]):
        batches = {g.batch for g in bundle.manifest.graphs if (g.role, g.tier) == ("grad", name)}
        shapes += [StepShape(name, batch) for batch in sorted(batches, reverse=True)]
    return shapes


def apply_plan(chosen: TrainingPlan, bundle: Bundle, samples: Sequence[StoredSample]) -> Sequence[StoredSample]:
    """The newest samples that the plan keeps, without the inputs of modalities that it leaves out."""
    kept = {slot.name for slot in bundle.manifest.slots if slot.modality in chosen.modalities}
    newest = samples[len(samples) - min(chosen.samples, len(samples)) :]
    if len(kept) == len(bundle.manifest.slots):
        return newest

    def without(sample: StoredSample) -> StoredSample:
        return msgspec.structs.replace(sample, inputs={name: v for name, v in sample.inputs.items() if name in kept})

    return LazySamples(newest, without)


@dataclass(frozen=True)
class StepShape:
    """The steps to use: the adapter's tier, and the largest batch."""

    tier: str
    batch: int


@dataclass(frozen=True)
class PlannedChoice:
    """A choice that fits, its estimate, and in `why` what it gives up."""

    estimate: CostEstimate
    shape: StepShape
    modalities: tuple[str, ...]
    samples: int
    why: tuple[str, ...]


@dataclass
class _PlanSearch:
    """Searches choices for one bundle, machine and set of samples."""

    bundle: Bundle
    costs: Costs
    workload: Workload
    epochs: int
    validation: float
    tier: str
    threads: int
    runtime: Runtime

    def __post_init__(self) -> None:
        self.samples, self.shapes = len(self.workload.tokens), step_shapes(self.bundle, self.tier)
        self.measured = [m.name for m in self.bundle.manifest.modalities if m.name in self.costs.features]

    def search(self, limit: int | None) -> PlannedChoice | None:
        """The first choice, from the largest down, that fits a limit of bytes; None if none does."""
        names = [m.name for m in self.bundle.manifest.modalities]
        kept = list(self.measured)
        why = [f"{name} cannot be computed right here" for name in names if name not in kept]
        everything, smallest = self.samples, self.shapes[-1]
        while kept:
            for shape in self.shapes:
                estimate = self.estimate(everything, shape, kept)
                if limit is None or estimate.bytes <= limit:
                    return self._choice(estimate, shape, kept, everything, why)
            count = self._most(kept, limit or 0)
            enough = everything / 2 if len(kept) > 1 else max(LEAST_TRAINING_SAMPLES, everything // 10)
            if count >= enough:
                why.append(f"the newest {count} of {everything} samples, to fit the memory")
                estimate = self.estimate(count, smallest, kept)
                return self._choice(estimate, smallest, kept, count, why)
            heaviest = max(kept, key=lambda name: self._weight(name))
            kept.remove(heaviest)
            why.append(f"without {heaviest}, to fit the memory")
        return None

    def _choice(
        self, estimate: CostEstimate, shape: StepShape, kept: Sequence[str], count: int, why: Sequence[str]
    ) -> PlannedChoice:
        return PlannedChoice(estimate, shape, tuple(kept), count, (*why, *self._smaller(shape)))

    def least(self) -> CostEstimate:
        """Estimate of the smallest choice: one modality, the smallest tier and batch, a tenth of the samples."""
        count = min(max(LEAST_TRAINING_SAMPLES, self.samples // 10), self.samples)
        choices = [self.estimate(count, self.shapes[-1], [name]) for name in self.measured]
        return min(choices, key=lambda estimate: estimate.bytes)

    def _smaller(self, shape: StepShape) -> list[str]:
        """Sentences about what a shape gives up against the largest."""
        first, reasons = self.shapes[0], []
        if shape.tier != first.tier:
            reasons.append(f"the adapter's tier {shape.tier} in place of {first.tier}, to fit the memory")
        if shape.batch < first.batch:
            reasons.append(f"batches of {shape.batch} in place of {first.batch}, to fit the memory")
        return reasons

    def estimate(self, count: int, shape: StepShape, kept: Sequence[str]) -> CostEstimate:
        """Predicts seconds and bytes for the newest `count` samples, in steps of a shape, with the modalities kept."""
        newest = slice(self.samples - count, None)
        tokens, fresh, sizes = (a[newest] for a in (self.workload.tokens, self.workload.fresh, self.workload.sizes))
        work = Workload(tokens, fresh, sizes)
        longest = {name: tokens[:, self._columns(name)].max(1, initial=0) for name in kept}
        grads, predicts = self._variants("grad", shape), self._variants("predict", shape)
        uses = [(graphs, _samples_by_graph(longest, count, graphs)) for graphs in (grads, predicts)]
        loaded = self._loaded(shape, uses)
        parts = self._bytes(work, kept, loaded)
        return CostEstimate(
            feature_s=sum(self._feature_seconds(work, name) for name in kept),
            step_s=self._step_seconds(uses) + sum(step.load_s / runs for step, runs in loaded),  # side by side
            bytes=round(MEMORY_SLACK * sum(parts.values())),
            parts=parts,
        )

    def _feature_seconds(self, work: Workload, name: str) -> float:
        """Seconds for computing a modality's missing features."""
        columns, cost = self._columns(name), self.costs.features[name]
        fresh = work.fresh[:, columns]
        inputs = int(np.count_nonzero(fresh))
        equivalents = work.sizes[:, columns][fresh].sum() / cost.size if cost.size else inputs
        return float(equivalents) * cost.seconds + (cost.load_s if inputs else 0.0)

    def _step_seconds(self, uses: Sequence[GraphUse]) -> float:
        """Seconds of all training and validation steps at most, of the fit on all samples too, without loading."""
        seconds, again = 0.0, 1.0 if self.validation else 0.0
        for (graphs, rows_by_graph), share in zip(uses, (1 - self.validation + again, self.validation), strict=True):
            for index, rows in rows_by_graph.items():
                graph = graphs[index]
                seconds += self.epochs * math.ceil(rows * share / graph.batch) * self._step(graph)
        return seconds

    def _loaded(self, shape: StepShape, uses: Sequence[GraphUse]) -> list[tuple[StepCost, int]]:
        """The measured costs of the graphs that stay loaded, and how many runs of each are made at once."""
        used = [graphs[index] for graphs, rows_by_graph in uses for index in rows_by_graph]
        manifest, (grads, rows_by_grad) = self.bundle.manifest, uses[0]
        if manifest.training.nested:  # the smaller tiers' steps stay loaded beside its own
            names = [tier.name for tier in manifest.tiers]
            names = names[: names.index(shape.tier)] if shape.tier in names else names
            used += [graph for name in names for graph in self._variants("grad", StepShape(name, shape.batch))]
        if manifest.settled:  # once the shared layers are frozen, the heads' steps stay loaded beside the whole ones
            used += [grads[index] for index in rows_by_grad]
        return [(self.costs.steps[g.file], self._at_once(g)) for g in used if g.file in self.costs.steps]

    def _bytes(self, work: Workload, kept: Sequence[str], loaded: Sequence[tuple[StepCost, int]]) -> dict[str, int]:
        """Bytes of memory by what they are for; backbones and steps are not loaded at the same time."""
        count = len(work.tokens)
        fresh = [name for name in kept if work.fresh[:, self._columns(name)].any()]
        backbone = max((self.costs.features[name].bytes for name in fresh), default=0)
        steps = sum(step.held_bytes for step, _ in loaded)
        steps += max((runs * (step.bytes - step.held_bytes) for step, runs in loaded), default=0)
        steps += THETA_COPIES * 4 * self.bundle.manifest.layout.size
        return {
            "process": max(self.costs.base_bytes, hardware.resident()) + client.resident_bytes(),
            "samples": SAMPLE_BYTES * count,
            "features": min(buffer_bytes(count), sum(self._held(work.tokens, name) for name in kept)),
            "backbone" if backbone > steps else "steps": max(backbone, steps),
        }

    def _held(self, tokens: np.ndarray, name: str) -> int:
        """Bytes of all features of a modality; tokens: int32 [samples, inputs]."""
        own = tokens[:, self._columns(name)]
        one = token_bytes(self.bundle.manifest.modality(name))
        return int(own.sum()) * one + int(np.count_nonzero(own)) * OBJECT_BYTES

    def _columns(self, name: str) -> list[int]:
        return [column for column, (_, modality, _) in enumerate(self.bundle.manifest.inputs) if modality == name]

    def _most(self, kept: Sequence[str], limit: int) -> int:
        """How many of the newest samples fit a limit of bytes, by bisection."""
        counts, smallest = range(1, self.samples + 1), self.shapes[-1]
        return bisect_right(counts, limit, key=lambda count: self.estimate(count, smallest, kept).bytes)

    def _weight(self, name: str) -> int:
        """Bytes that a modality adds to the estimate of all."""
        rest = [other for other in self.measured if other != name]
        count, shape = self.samples, self.shapes[-1]
        return self.estimate(count, shape, self.measured).bytes - self.estimate(count, shape, rest).bytes

    def _variants(self, role: str, shape: StepShape) -> list[Graph]:
        """The tier's graphs of a role, by bucket the largest batch up to the shape's, smallest tokens first."""
        by_tokens: dict[tuple[tuple[str, int], ...], Graph] = {}
        for graph in sorted(self.bundle.manifest.graphs, key=lambda g: g.batch):
            if (graph.role, graph.tier) == (role, shape.tier) and (graph.batch <= shape.batch or role == "predict"):
                by_tokens[tuple(sorted(graph.tokens.items()))] = graph
        return [by_tokens[key] for key in sorted(by_tokens, key=lambda key: sum(size for _, size in key))]

    def _step(self, graph: Graph) -> float:
        known = self.costs.steps.get(graph.file)
        return known.seconds / self._at_once(graph) if known else 0.0

    def _at_once(self, graph: Graph) -> int:
        return parallel_runs(self.bundle.manifest, graph, self.threads, self.runtime)


def _workload(bundle: Bundle, costs: Costs, samples: Sequence[StoredSample], fresh: np.ndarray) -> Workload:
    inputs = [(slot, place, bundle.manifest.modality(modality)) for slot, modality, place in bundle.manifest.inputs]
    tokens, sizes = np.zeros((2, len(samples), len(inputs)), np.int32)
    for row, sample in enumerate(samples):
        for column, (slot, place, modality) in enumerate(inputs):
            if (value := input_at(sample, slot, place)) is not None:
                sizes[row, column] = input_length(value) if input_kind(value) == "text" else 0
                tokens[row, column] = _estimate_tokens(modality, costs, value)
    return Workload(tokens, fresh & (tokens > 0), sizes)


def _samples_by_graph(longest: Mapping[str, np.ndarray], count: int, graphs: Sequence[Graph]) -> dict[int, int]:
    """Number of samples by index of the graph that holds them; longest: tokens int32 [samples] by modality."""
    index = np.full(count, len(graphs) - 1)
    for number in reversed(range(len(graphs))):
        sizes: Mapping[str, int] = {**graphs[number].tokens}
        index[np.all([sizes.get(name, 0) >= tokens for name, tokens in longest.items()], axis=0)] = number
    return {int(number): int(rows) for number, rows in zip(*np.unique(index, return_counts=True), strict=True)}


def _estimate_tokens(modality: Modality, costs: Costs, value: StoredInput) -> int:
    """Tokens of an input: of a text by its length, at the golden samples' rate; of a sequence its own."""
    if input_kind(value) == "sequence":
        return min(modality.buckets[-1], input_length(value) + 1)
    cost = costs.features.get(modality.name)
    if input_kind(value) != "text" or cost is None or not cost.size:
        return modality.buckets[-1]
    return min(modality.buckets[-1], max(1, round(input_length(value) * cost.tokens / cost.size)))


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.0f} MB"


def _parts(estimate: CostEstimate) -> str:
    return ", ".join(f"{name} {_megabytes(size)}" for name, size in estimate.parts.items())
