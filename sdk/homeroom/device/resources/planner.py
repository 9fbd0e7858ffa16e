"""What a training should use so that it fits its budget, and what that will take; imports measures, dataset, budget.

A prediction is arithmetic on rates that were measured on this machine (`homeroom doctor`) and on facts of the bundle;
where nothing was measured, nothing is predicted. What does not fit is given up in this order: large batches, tiers of
the adapter, up to half of the samples (the oldest), modalities (the heaviest first), more samples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np

from homeroom.contract.layout import FULL_TIER
from homeroom.contract.manifest import Graph, Modality, Runtime
from homeroom.data.preprocess.raw_inputs import token_bytes
from homeroom.data.samples import StoredInput, StoredSample
from homeroom.device.resources.budget import Budget
from homeroom.device.resources.costs import Costs
from homeroom.device.resources.plan import TrainingPlan
from homeroom.errors import TrainError
from homeroom.runtime.bundle import Bundle
from homeroom.runtime.graphs import parallel_runs
from homeroom.system import hardware
from homeroom.train.features.buffer import OBJECT_BYTES, LazySamples, buffer_bytes, input_at

MEMORY_SLACK = 1.15  # what runs took beside the sum of their parts: 146 MB for 131 (300 short answers, MiniLM int8)
THETA_COPIES = 8  # of theta's size: theta, start, best, gradient, two moments, and what numpy holds between
LEAST_TRAINING_SAMPLES = 8  # fewer are no training
SAMPLE_BYTES = 250  # of the columns for one training example


@dataclass(frozen=True)
class Workload:
    """What there is to do, [samples, inputs] each. `tokens`: int32, 0 where there is no input, estimated for a text.

    `fresh`: bool, whether features are to be computed. `sizes`: int32, characters of a text, else 0.
    """

    tokens: np.ndarray
    fresh: np.ndarray
    sizes: np.ndarray


@dataclass
class CostEstimate:
    """Seconds and bytes of one choice."""

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
    """Choose tier, batch, threads, modalities and samples for a budget, and predict what they take.

    fresh: bool [samples, inputs], where features are to be computed. tier: the largest to use. Raises
    TrainError where nothing fits, with the least that would.
    """
    names = tuple(m.name for m in bundle.manifest.modalities)
    first = step_shapes(bundle, tier)[0]
    threads = budget.threads or (costs.threads if costs else None)
    if costs is None:
        unknown = "nothing was measured here yet: `homeroom doctor DIRECTORY` does, and the next plan predicts"
        return TrainingPlan(threads, first.batch, names, len(samples), tier, why=(unknown,))
    table = _workload(bundle, costs, samples, fresh)
    limit = budget.limit_bytes
    choice = _PlanSearch(bundle, costs, table, epochs, validation, tier, threads or 1, runtime)
    found = choice.search(limit)
    if found is None:
        least = choice.least()
        raise TrainError(
            f"nothing fits {(limit or 0) / 1e6:.0f} MB: the least is {_megabytes(least.bytes)} ({_parts(least)})",
            remedy=f"give it megabytes={math.ceil(least.bytes / 1e6)} or more, or a bundle with a smaller backbone",
        )
    estimate, why = found.estimate, list(found.why)
    seconds = estimate.feature_s + estimate.step_s
    if seconds > 60 * budget.minutes:
        runs = math.ceil(seconds / 60 / budget.minutes)
        why.append(f"about {seconds / 60:.1f} minutes: {runs} runs of {budget.minutes:g}, each going on from the last")
    return TrainingPlan(
        threads,
        found.shape.batch,
        found.modalities,
        found.samples,
        found.shape.tier,
        seconds=seconds,
        feature_seconds=estimate.feature_s,
        megabytes=estimate.bytes / 1e6,
        why=tuple(why),
    )


def step_shapes(bundle: Bundle, tier: str) -> list[StepShape]:
    """Tiers from `tier` down, and in each the batches that its training step was exported with, the largest first."""
    names = [*(t.name for t in bundle.manifest.tiers), FULL_TIER]
    found = []
    for name in reversed(names[: names.index(tier) + 1]):
        batches = {g.batch for g in bundle.manifest.graphs if (g.role, g.tier) == ("grad", name)}
        found += [StepShape(name, batch) for batch in sorted(batches, reverse=True)]
    return found


def apply_plan(chosen: TrainingPlan, bundle: Bundle, samples: Sequence[StoredSample]) -> Sequence[StoredSample]:
    """The samples that the plan keeps, the newest, without the inputs of modalities that it leaves out."""
    kept = {slot.name for slot in bundle.manifest.slots if slot.modality in chosen.modalities}
    newest = samples[len(samples) - min(chosen.samples, len(samples)) :]
    if len(kept) == len(bundle.manifest.slots):
        return newest

    def without(sample: StoredSample) -> StoredSample:
        return msgspec.structs.replace(sample, inputs={name: v for name, v in sample.inputs.items() if name in kept})

    return LazySamples(newest, without)


@dataclass(frozen=True)
class StepShape:
    """Which steps are used: an adapter's tier, and the largest batch."""

    tier: str
    batch: int


@dataclass(frozen=True)
class PlannedChoice:
    """A choice that fits, what it takes, and what was given up for it."""

    estimate: CostEstimate
    shape: StepShape
    modalities: tuple[str, ...]
    samples: int
    why: tuple[str, ...]


class _PlanSearch:
    """Estimates for one bundle, machine and set of samples."""

    def __init__(
        self,
        bundle: Bundle,
        costs: Costs,
        table: Workload,
        epochs: int,
        validation: float,
        tier: str,
        threads: int,
        runtime: Runtime,
    ) -> None:
        self.runtime = runtime
        self.bundle, self.costs, self.table = bundle, costs, table
        self.epochs, self.validation, self.threads = epochs, validation, threads
        self.samples = len(table.tokens)
        self.shapes = step_shapes(bundle, tier)
        self.measured = [m.name for m in bundle.manifest.modalities if m.name in costs.features]

    def search(self, limit: int | None) -> PlannedChoice | None:
        """The first choice, from the largest down, that fits the limit in bytes."""
        kept, why = list(self.measured), [f"{m.name} cannot be computed right here" for m in self._unmeasured()]
        everything, least = self.samples, self.shapes[-1]
        while kept:
            for shape in self.shapes:
                found = self.estimate(everything, shape, kept)
                if limit is None or found.bytes <= limit:
                    return self._found(found, shape, kept, everything, why)
            count = self._most(kept, limit or 0)
            enough = everything / 2 if len(kept) > 1 else max(LEAST_TRAINING_SAMPLES, everything // 10)
            if count >= enough:
                why.append(f"the newest {count} of {everything} samples, to fit the memory")
                found = self.estimate(count, least, kept)
                return self._found(found, least, kept, count, why)
            heaviest = max(kept, key=lambda name: self._weight(name))
            kept.remove(heaviest)
            why.append(f"without {heaviest}, to fit the memory")
        return None

    def _found(
        self, estimate: CostEstimate, shape: StepShape, kept: Sequence[str], count: int, why: Sequence[str]
    ) -> PlannedChoice:
        return PlannedChoice(estimate, shape, tuple(kept), count, (*why, *self._smaller(shape)))

    def least(self) -> CostEstimate:
        """What the smallest choice takes: one modality, the smallest tier and batch, a tenth of the samples."""
        count = min(max(LEAST_TRAINING_SAMPLES, self.samples // 10), self.samples)
        choices = [self.estimate(count, self.shapes[-1], [name]) for name in self.measured]
        return min(choices, key=lambda estimate: estimate.bytes)

    def _smaller(self, shape: StepShape) -> list[str]:
        """What a shape gives up against the first."""
        first, found = self.shapes[0], []
        if shape.tier != first.tier:
            found.append(f"the adapter's tier {shape.tier} in place of {first.tier}, to fit the memory")
        if shape.batch < first.batch:
            found.append(f"batches of {shape.batch} in place of {first.batch}, to fit the memory")
        return found

    def estimate(self, count: int, shape: StepShape, kept: Sequence[str]) -> CostEstimate:
        """Seconds and bytes for the newest `count` samples in steps of a shape with some modalities."""
        table = Workload(
            *(part[self.samples - count :] for part in (self.table.tokens, self.table.fresh, self.table.sizes))
        )
        features = {name: self.costs.features[name] for name in kept}
        fresh = {name: table.fresh[:, self._columns(name)] for name in kept}
        found = CostEstimate()
        for name, chosen in fresh.items():
            cost, inputs = features[name], int(np.count_nonzero(chosen))
            share = table.sizes[:, self._columns(name)][chosen].sum() / cost.size if cost.size else inputs
            found.feature_s += float(share) * cost.seconds + (cost.load_s if inputs else 0.0)
        longest = {name: table.tokens[:, self._columns(name)].max(1, initial=0) for name in kept}
        variants = self._variants("grad", shape), self._variants("predict", shape)
        grads, predicts = (_samples_by_graph(longest, count, graphs) for graphs in variants)
        train = 1 - self.validation
        for use, share, graphs in ((grads, train, variants[0]), (predicts, self.validation, variants[1])):
            for index, rows in use.items():
                graph = graphs[index]
                found.step_s += self.epochs * math.ceil(rows * share / graph.batch) * self._step(graph)
        used = [graphs[i] for graphs, use in zip(variants, (grads, predicts), strict=True) for i in use]
        if self.bundle.manifest.training.nested:  # the smaller tiers' steps, quicker ones, are held beside its own
            names = [tier.name for tier in self.bundle.manifest.tiers]
            names = names[: names.index(shape.tier)] if shape.tier in names else names
            used += [graph for name in names for graph in self._variants("grad", StepShape(name, shape.batch))]
        if self.bundle.manifest.settled:  # once the trunk has settled, the heads' steps are held beside the whole ones
            used += [variants[0][i] for i in grads]
        known = [(self.costs.steps[g.file], self._at_once(g)) for g in used if g.file in self.costs.steps]
        found.step_s += sum(step.load_s / count for step, count in known)  # side by side, as they run
        found.parts = {
            "process": max(self.costs.base_bytes, hardware.resident()),
            "samples": SAMPLE_BYTES * count,
            "features": min(buffer_bytes(count), sum(self._held(table.tokens, name) for name in kept)),
        }
        backbone = max((features[name].bytes for name, chosen in fresh.items() if chosen.any()), default=0)
        steps = sum(step.held_bytes for step, _ in known)
        steps += max((count * (step.bytes - step.held_bytes) for step, count in known), default=0)
        steps += THETA_COPIES * 4 * self.bundle.manifest.layout.size
        found.parts["backbone" if backbone > steps else "steps"] = max(backbone, steps)
        found.bytes = round(MEMORY_SLACK * sum(found.parts.values()))
        return found

    def _held(self, tokens: np.ndarray, name: str) -> int:
        """Bytes of all features of a modality."""
        own = tokens[:, self._columns(name)]
        one = token_bytes(self.bundle.manifest.modality(name))
        return int(own.sum()) * one + int(np.count_nonzero(own)) * OBJECT_BYTES

    def _columns(self, name: str) -> list[int]:
        return [column for column, (_, modality, _) in enumerate(self.bundle.manifest.inputs) if modality == name]

    def _most(self, kept: Sequence[str], limit: int) -> int:
        """How many of the newest samples fit, by bisection."""
        low, high = 0, self.samples
        while low < high:
            middle = (low + high + 1) // 2
            if self.estimate(middle, self.shapes[-1], kept).bytes <= limit:
                low = middle
            else:
                high = middle - 1
        return low

    def _weight(self, name: str) -> int:
        """Bytes that a modality adds to the whole."""
        rest = [other for other in self.measured if other != name]
        count, shape = self.samples, self.shapes[-1]
        return self.estimate(count, shape, self.measured).bytes - self.estimate(count, shape, rest).bytes

    def _unmeasured(self) -> list[Modality]:
        return [m for m in self.bundle.manifest.modalities if m.name not in self.costs.features]

    def _variants(self, role: str, shape: StepShape) -> list[Graph]:
        """The tier's graphs of a role with the largest batch up to the shape's, the smallest tokens first."""
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
                sizes[row, column] = len(value) if isinstance(value, str) else 0
                tokens[row, column] = _estimate_tokens(modality, costs, value)
    return Workload(tokens, fresh & (tokens > 0), sizes)


def _samples_by_graph(longest: Mapping[str, np.ndarray], count: int, graphs: Sequence[Graph]) -> dict[int, int]:
    """How many of `count` samples each graph would hold; longest: tokens int32 [samples] by modality."""
    index = np.full(count, len(graphs) - 1)
    for number in reversed(range(len(graphs))):
        sizes: Mapping[str, int] = {**graphs[number].tokens}
        index[np.all([sizes.get(name, 0) >= tokens for name, tokens in longest.items()], axis=0)] = number
    return {int(number): int(rows) for number, rows in zip(*np.unique(index, return_counts=True), strict=True)}


def _estimate_tokens(modality: Modality, costs: Costs, value: StoredInput) -> int:
    """Of a text by its length, as the golden samples' texts had tokens for characters; of a sequence its own."""
    if isinstance(value, list):
        return min(modality.buckets[-1], len(value) + 1)
    cost = costs.features.get(modality.name)
    if not isinstance(value, str) or cost is None or not cost.size:
        return modality.buckets[-1]
    return min(modality.buckets[-1], max(1, round(len(value) * cost.tokens / cost.size)))


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.0f} MB"


def _parts(estimate: CostEstimate) -> str:
    return ", ".join(f"{name} {_megabytes(size)}" for name, size in estimate.parts.items())
