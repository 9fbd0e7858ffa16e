"""A step of training: what a batch's graphs read, made while those of the step before still run, and the gradient.

Imports runtime and dataset.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice

import numpy as np

from homeroom.contract.manifest import Graph, Manifest
from homeroom.runtime.graphs import Graphs
from homeroom.train.features.batches import Batch
from homeroom.train.features.dataset import Dataset, fusing
from homeroom.train.masking import augmented
from homeroom.train.settings import Settings

Part = tuple[Graph, dict[str, np.ndarray]]


@dataclass
class Step:
    """A batch of the tier with this number; its sums are divided by `size`. parts: of it, each made when it is taken.

    A part is a graph and what it reads but for theta; `ahead` holds those that are made already.
    """

    tier: int
    size: int
    parts: Iterator[Part]
    ahead: list[Part] = field(default_factory=list)


@dataclass(frozen=True)
class Steps:
    """The steps of one epoch. plans: the batches of each tier, the smallest first; weights: of `sample_weights`."""

    train: Dataset
    plans: Sequence[Sequence[Batch]]
    weights: np.ndarray
    settings: Settings
    epoch: int

    def __getitem__(self, number: int) -> Step:
        """IndexError beyond the last."""
        tier = 0 if len(self.plans) == 1 else int(self._rng(number, 3).integers(len(self.plans)))
        batch = self.plans[tier][number]
        return Step(tier, batch.size if self.settings.clip_norm else 1, self._parts(number, batch))

    def _rng(self, number: int, purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.settings.seed, self.epoch, number, purpose, self.settings.draw])

    def _parts(self, number: int, batch: Batch) -> Iterator[Part]:
        train, settings = self.train, self.settings
        presence, kept = None, self.weights[batch.rows]
        if settings.modality_dropout and droppable(train.manifest):
            rate, chances = settings.modality_dropout, self._rng(number, 1)
            presence = drop_inputs(train.presence[batch.rows], train.manifest, rate, chances)
            usable = np.stack([train.usable(task, presence) for task in train.manifest.tasks], 1)
            kept = kept * np.hstack([usable, train.paired(presence)])
        if not settings.clip_norm:
            kept = kept / batch.size
        start, rng = 0, self._rng(number, 2) if train.manifest.objectives else None
        for part in batch.parts():
            end = start + len(part.places)
            here = None if presence is None else presence[start:end]
            yield part.graph, _feeds(train, part, here, kept[start:end], settings.clip_norm, rng)
            start = end


def gradient(
    graphs: Graphs, step: Step, theta: np.ndarray, places: np.ndarray | slice, following: Step | None = None
) -> tuple[float, np.ndarray]:
    """Loss and gradient [P] of a step at theta float32 [P]; places: where in it the graphs' own values stand.

    following: a step whose first parts are made while the last of this one run.
    """
    own = theta[places]

    def work() -> Iterator[Part]:
        most = 1
        for graph, feeds in chain(step.ahead, step.parts):
            most = graphs.at_once(graph)
            yield graph, feeds | {"theta": own}
        if following and most > 1:
            following.ahead += islice(following.parts, most)

    loss, total = 0.0, np.zeros_like(theta)
    for made in graphs.each(work()):
        loss += float(made["losses"].sum())
        total[places] += made["gradient"]
    if step.size > 1:
        loss, total = loss / step.size, total / np.float32(step.size)
    return loss, total


def _feeds(
    train: Dataset,
    part: Batch,
    presence: np.ndarray | None,
    kept: np.ndarray,
    clip_norm: float,
    rng: np.random.Generator | None,
) -> dict[str, np.ndarray]:
    """What a `grad` graph reads for a part of a batch; kept: weights float32 [rows, tasks + objectives]."""
    size = part.graph.batch
    feeds = train.feeds(part, presence) | train.targets_of(part)
    if rng:  # there are objectives without labels
        for slot in (t.name.removesuffix(".augmented") for t in part.graph.inputs if t.name.endswith(".augmented")):
            feeds[f"{slot}.augmented"] = augmented(feeds[f"{slot}.features"], feeds[f"{slot}.mask"], rng)
    feeds["weights"] = np.zeros((size, kept.shape[1]), np.float32)
    feeds["weights"][: len(kept)] = kept
    if clip_norm:
        feeds |= _clipping(train, part.rows, size, clip_norm)
    return feeds


def _clipping(train: Dataset, rows: np.ndarray, size: int, clip_norm: float) -> dict[str, np.ndarray]:
    """`groups` int32 [size], the number of each row's subject within the batch (-1: padding), and `clip` [1]."""
    groups = np.full(size, -1, np.int32)
    groups[: len(rows)] = np.unique([train.examples[row].subject for row in rows], return_inverse=True)[1]
    return {"groups": groups, "clip": np.array([clip_norm], np.float32)}


def droppable(manifest: Manifest) -> list[int]:
    """Columns of inputs that may be left out, those of fused tasks; none where a task would be left with nothing."""
    names = fusing(manifest)
    columns = [i for i, (slot, _, _) in enumerate(manifest.inputs) if slot in names]
    return columns if len(columns) > 1 else []  # such as answers that are compared with a reference


def drop_inputs(presence: np.ndarray, manifest: Manifest, rate: float, rng: np.random.Generator) -> np.ndarray:
    """presence [rows, inputs] with single slots of fused tasks left out at `rate`, never the last one of a row."""
    columns = droppable(manifest)
    if not columns:
        return presence
    chance = rng.random((len(presence), len(columns)))
    here = presence[:, columns] > 0
    stays = here & ((chance >= rate) | (chance == np.where(here, chance, -1.0).max(1, keepdims=True)))
    dropped = presence.copy()
    dropped[:, columns] *= stays
    return dropped
