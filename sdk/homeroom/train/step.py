"""A step of training: the inputs of a batch's graphs, made while the step before still runs, and the gradient."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice

import numpy as np

from homeroom.contract import graph_io
from homeroom.contract.manifest import Graph, Manifest
from homeroom.runtime.graphs import Graphs
from homeroom.train.distillation import Distillation
from homeroom.train.features.batches import Batch
from homeroom.train.features.dataset import Dataset, fused_slots
from homeroom.train.masking import augmented
from homeroom.train.settings import Settings

GraphFeeds = tuple[Graph, dict[str, np.ndarray]]  # a graph and its inputs
PartFeeds = tuple[Graph, dict[str, np.ndarray], bool]  # the same, but for theta; whether targets are answers of before


@dataclass
class Step:
    """One batch of one tier.

    tier: its number, from 0 for the smallest
    size: what the sums over the batch are divided by
    parts: the batch in pieces that a graph holds, each made when it is taken
    ahead: parts that are made already
    before: float32 [P], the theta whose answers are learned too
    """

    tier: int
    size: int
    parts: Iterator[PartFeeds]
    ahead: list[PartFeeds] = field(default_factory=list)
    before: np.ndarray | None = None


@dataclass(frozen=True)
class Steps:
    """The steps of one epoch, by their number.

    plans: the batches of each tier, the smallest tier first, as many of each
    weights: float32 [examples, tasks + objectives], of `sample_weights`
    """

    train: Dataset
    plans: Sequence[Sequence[Batch]]
    weights: np.ndarray
    settings: Settings
    epoch: int
    distilled: Distillation | None = None

    def __len__(self) -> int:
        return len(self.plans[-1])

    def __getitem__(self, number: int) -> Step:
        """The step of a tier drawn at random; IndexError beyond the last."""
        tier = 0 if len(self.plans) == 1 else int(self._rng(number, 3).integers(len(self.plans)))
        batch = self.plans[tier][number]
        before = self.distilled.theta if self.distilled else None
        return Step(tier, batch.size if self.settings.clip_norm else 1, self._parts(number, batch), before=before)

    def _rng(self, number: int, purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.settings.seed, self.epoch, number, purpose, self.settings.draw])

    def _parts(self, number: int, batch: Batch) -> Iterator[PartFeeds]:
        train, settings = self.train, self.settings
        presence, weights = None, self.weights[batch.rows]
        kept = self.distilled.weights[batch.rows] if self.distilled else None
        if settings.modality_dropout and droppable(train.manifest):
            rate, rng = settings.modality_dropout, self._rng(number, 1)
            presence = drop_inputs(train.presence[batch.rows], train.manifest, rate, rng)
            usable = np.stack([train.usable(task, presence) for task in train.manifest.tasks], 1)
            usable = np.hstack([usable, train.paired(presence)])
            weights, kept = weights * usable, None if kept is None else kept * usable
        if not settings.clip_norm:
            weights, kept = weights / batch.size, None if kept is None else kept / batch.size
        start, masking_rng = 0, self._rng(number, 2) if train.manifest.objectives else None
        for part in batch.parts():
            end = start + len(part.positions)
            shown = None if presence is None else presence[start:end]
            feeds = _feeds(train, part, shown, weights[start:end], settings.clip_norm, masking_rng)
            yield part.graph, feeds, False
            if self.distilled and kept is not None and kept[start:end].any():
                yield part.graph, feeds | _answers_before(self.distilled, part, kept[start:end]), True
            start = end


def gradient(
    graphs: Graphs, step: Step, theta: np.ndarray, positions: np.ndarray | slice, following: Step | None = None
) -> tuple[float, np.ndarray]:
    """Loss and gradient float32 [P] of a step at theta float32 [P].

    graphs: of the step's tier
    positions: of that tier's values in theta
    following: a step whose first parts are made while the last of this one run
    """
    tier_theta = graphs.masked(theta[positions])
    as_before = tier_theta if step.before is None else graphs.masked(theta[positions], step.before[positions])

    def runs() -> Iterator[GraphFeeds]:
        parallel = 1
        for graph, feeds, distilled in chain(step.ahead, step.parts):
            parallel = graphs.parallel_runs(graph)
            yield graph, feeds | {graph_io.THETA: as_before if distilled else tier_theta}
        if following and parallel > 1:
            following.ahead += islice(following.parts, parallel)

    loss, total = 0.0, np.zeros_like(theta)
    for outputs in graphs.run_all(runs()):
        loss += float(outputs[graph_io.LOSSES].sum())
        total[positions] += outputs[graph_io.GRADIENT]
    if step.size > 1:
        loss, total = loss / step.size, total / np.float32(step.size)
    return loss, total


def _feeds(
    train: Dataset,
    part: Batch,
    presence: np.ndarray | None,
    weights: np.ndarray,
    clip_norm: float,
    masking_rng: np.random.Generator | None,
) -> dict[str, np.ndarray]:
    """The inputs of a gradient graph for a part of a batch, but for theta.

    presence: float32 [rows, inputs], None as in the dataset
    weights: float32 [rows, tasks + objectives]
    masking_rng: given where there are objectives without labels
    """
    size = part.graph.batch
    feeds = train.feeds(part, presence) | train.targets_of(part)
    if masking_rng:
        for slot in graph_io.owners((tensor.name for tensor in part.graph.inputs), graph_io.AUGMENTED):
            features, mask = feeds[graph_io.named(slot, graph_io.FEATURES)], feeds[graph_io.named(slot, graph_io.MASK)]
            feeds[graph_io.named(slot, graph_io.AUGMENTED)] = augmented(features, mask, masking_rng)
    feeds[graph_io.WEIGHTS] = np.zeros((size, weights.shape[1]), np.float32)
    feeds[graph_io.WEIGHTS][: len(weights)] = weights
    if clip_norm:
        feeds |= _clipping(train, part.rows, size, clip_norm)
    return feeds


def _answers_before(distilled: Distillation, part: Batch, weights: np.ndarray) -> dict[str, np.ndarray]:
    """The targets and weights of a part of a batch that are learned beside its labels. weights: of its rows."""
    size, feeds = part.graph.batch, dict[str, np.ndarray]()
    for task, answers in distilled.targets.items():
        feeds[graph_io.named(task, graph_io.TARGET)] = targets = np.zeros((size, answers.shape[1]), np.float32)
        targets[: len(weights)] = answers[part.rows]
    feeds[graph_io.WEIGHTS] = padded = np.zeros((size, weights.shape[1]), np.float32)
    padded[: len(weights)] = weights
    return feeds


def _clipping(train: Dataset, rows: np.ndarray, size: int, clip_norm: float) -> dict[str, np.ndarray]:
    """`groups` int32 [size], the number of each row's subject within the batch (-1: padding), and `clip` [1]."""
    groups = np.full(size, -1, np.int32)
    groups[: len(rows)] = np.unique([train.examples[row].subject for row in rows], return_inverse=True)[1]
    return {graph_io.GROUPS: groups, graph_io.CLIP: np.array([clip_norm], np.float32)}


def droppable(manifest: Manifest) -> list[int]:
    """Columns of the inputs that may be left out: those of tasks over any subset; empty where there is only one."""
    names = fused_slots(manifest)
    columns = [column for column, (slot, _, _) in enumerate(manifest.inputs) if slot in names]
    return columns if len(columns) > 1 else []


def drop_inputs(presence: np.ndarray, manifest: Manifest, rate: float, rng: np.random.Generator) -> np.ndarray:
    """Modality dropout: sets each droppable input to 0 with probability `rate`, but never the last one of a row.

    presence: float32 [rows, inputs]
    """
    columns = droppable(manifest)
    if not columns:
        return presence
    draws = rng.random((len(presence), len(columns)))
    present = presence[:, columns] > 0
    stays = present & ((draws >= rate) | (draws == np.where(present, draws, -1.0).max(1, keepdims=True)))
    dropped = presence.copy()
    dropped[:, columns] *= stays
    return dropped
