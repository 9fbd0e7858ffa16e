"""Several labels: each by a discriminant of its own between the samples that have it and those that do not.

As in `discriminant`, from the same second moments: the covariance within both groups of a label is the second moment
less that of the two means.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from homeroom.contract.manifest import Task
from homeroom.contract.statistics.accumulate import sum_samples
from homeroom.contract.statistics.sums import Statistics
from homeroom.train.solve.base import Blocks, Solver, Strength
from homeroom.train.solve.discriminant import UNTAUGHT, Discriminant, class_means
from homeroom.train.solve.moments import read_moments
from homeroom.train.solve.task_vectors import TaskVectors


@dataclass(frozen=True)
class LabelHead:
    """One discriminant a label, of (without, with)."""

    discriminants: tuple[Discriminant, ...]

    def outputs(self, vectors: TaskVectors) -> np.ndarray:
        """float64 [n, labels]: logits of having each; a label that nobody or everybody has keeps to that."""
        logits = [each.logits(vectors) for each in self.discriminants]
        return np.asarray(np.clip(np.stack([each[:, 1] - each[:, 0] for each in logits], 1), UNTAUGHT, -UNTAUGHT))


def _sums(task: Task, vectors: TaskVectors, targets: np.ndarray) -> Statistics:
    every = np.ones(len(targets), bool)
    rows = {"": every} | {label: targets[:, number] > 0.5 for number, label in enumerate(task.labels)}
    return sum_samples(task.name, vectors.blocks, rows, moments=every)


def _head(task: Task, statistics: Statistics, blocks: Blocks, strength: Strength) -> LabelHead:
    moments = read_moments(statistics, task.name, ("", *task.labels), blocks.asked)
    discriminants = []
    for number in range(1, len(task.labels) + 1):
        counts = np.stack([moments.counts[0] - moments.counts[number], moments.counts[number]])
        sums = np.stack([moments.sums[0] - moments.sums[number], moments.sums[number]])
        two = replace(moments, counts=counts, sums=sums)
        discriminants.append(Discriminant(two, strength, class_means(two)))
    return LabelHead(tuple(discriminants))


def _taught(task: Task, statistics: Statistics) -> np.ndarray:
    """The labels that some samples have and some have not."""
    ids = {block for cell in statistics.cells if cell.task == task.name for block in cell.blocks}

    def most(row: str) -> int:
        return max((statistics.count(task.name, row, block, block) for block in ids), default=0)

    return np.array([0 < most(label) < most("") for label in task.labels])


SOLVE_MULTILABEL = Solver(kind="multilabel", sums=_sums, head=_head, taught=_taught)
