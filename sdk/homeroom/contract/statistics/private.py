"""Private statistics: class sums alone, everything of a unit under one clip, with noise in every number once.

**Norm**: L2 over the numbers of all tasks, classes and blocks together, of one unit (a device, or a subject). There are
no counts and no second moments: neither who has how many samples nor how these spread is told.
**Neighbouring relation, sensitivity, conversion to epsilon**: as in `contract.privacy`, on the grid of the statistics;
one unit more or less moves the vector by at most `clip_grid`. **When it does not hold**: for a class that one unit
alone named, since the labels are the bundle's and each has its numbers; for a unit under two names; where exact
statistics of the same samples leave too. The head of a release needs a covariance, which must come from public samples
(`homeroom.train.solve.directions`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from homeroom.contract.manifest import Task
from homeroom.contract.privacy import Privacy, clip
from homeroom.contract.statistics.sums import GRID_BITS, Cell, Statistics
from homeroom.errors import InputError

PRIVATE_KINDS = ("classification",)


@dataclass(frozen=True)
class PrivateShape:
    """The numbers of a release in order, taught or not: what is absent would tell who has which class.

    cells: names and dimensions
    """

    cells: tuple[tuple[Cell, int], ...]

    @property
    def size(self) -> int:
        """How many numbers there are."""
        return sum(width for _, width in self.cells)

    def vector(self, total: Statistics) -> np.ndarray:
        """int64 [size]: the class sums of a total, zeros where it has none; counts and moments stay out."""
        parts = [total.cells.get(cell, np.zeros(width, np.int64)) for cell, width in self.cells]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def statistics(self, vector: np.ndarray) -> Statistics:
        """The class sums that stand in int64 [size]."""
        ends = np.cumsum([0, *(width for _, width in self.cells)])
        cuts = zip(self.cells, pairwise(ends.tolist()), strict=True)
        return Statistics({cell: vector[a:b] for (cell, _), (a, b) in cuts if vector[a:b].any()})


def private_shape(tasks: Iterable[Task], blocks: Mapping[str, Sequence[tuple[str, int]]]) -> PrivateShape:
    """The shape of these tasks. blocks: by task, `statistics_id` and dimension; InputError for a kind not offered."""
    cells = list[tuple[Cell, int]]()
    for task in sorted(tasks, key=lambda task: task.name):
        if task.kind not in PRIVATE_KINDS:
            what = f"{task.name} is {task.kind}, and private statistics are of {' and '.join(PRIVATE_KINDS)}"
            raise InputError(what, remedy="leave the task out: theta learns it in private rounds")
        cells += [
            (Cell(task.name, "vector", row, (name,)), width) for row in task.labels for name, width in blocks[task.name]
        ]
    return PrivateShape(tuple(cells))


def clipped_sums(shape: PrivateShape, parts: Iterable[Statistics], privacy: Privacy) -> np.ndarray:
    """int64 [size]: what a device sends; the sum of its parts, each clipped as a whole.

    parts: the sums of each subject where that is the unit of privacy, else the device's, once
    privacy: clip_norm is in samples, whose vectors have norm 1 in each block
    """
    limit = privacy.part_grid(GRID_BITS, shape.size)
    if limit < 1:
        what = f"clip_norm {privacy.clip_norm:g} is less than what rounding {shape.size:,} numbers takes"
        raise InputError(what, remedy="raise it")
    total = np.zeros(shape.size, np.int64)
    for part in parts:
        total += clip(shape.vector(part), limit, 0)
    return clip(total, privacy.limit_grid(GRID_BITS), 0).astype(np.int64)
