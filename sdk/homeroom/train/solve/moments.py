"""Sums of a task as arrays: counts, class sums and second moments over all its blocks side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from homeroom.contract.statistics.sums import ONE, Cell, Statistics, square

LEAST_VARIANCE = 1e-9  # of a direction that no sample varies in


@dataclass(frozen=True)
class Moments:
    """Sums in units of norm 1, float64; D is the sum of the blocks' dimensions.

    cuts: where each block stands in D
    counts: [rows, blocks, blocks], samples of a row that have both blocks
    sums: [rows, D]
    second: [D, D], sums of outer products over all rows
    """

    cuts: tuple[slice, ...]
    counts: np.ndarray
    sums: np.ndarray
    second: np.ndarray

    def of(self, numbers: Sequence[int]) -> Moments:
        """The sub-blocks of some of the blocks."""
        columns, numbers = self.columns(numbers), list(numbers)
        ends = np.cumsum([0, *(self.cuts[n].stop - self.cuts[n].start for n in numbers)])
        return replace(
            self,
            cuts=tuple(slice(first, last) for first, last in pairwise(ends)),
            counts=self.counts[:, numbers][:, :, numbers],
            sums=self.sums[:, columns],
            second=self.second[np.ix_(columns, columns)],
        )

    def columns(self, numbers: Sequence[int]) -> np.ndarray:
        """The columns of D that belong to these blocks."""
        return np.concatenate([np.arange(self.cuts[n].start, self.cuts[n].stop) for n in numbers])

    @property
    def column_counts(self) -> np.ndarray:
        """[rows, D]: the samples of a row that have a column's block."""
        widths = [cut.stop - cut.start for cut in self.cuts]
        return np.asarray(np.repeat(np.diagonal(self.counts, axis1=1, axis2=2), widths, axis=1))

    @property
    def means(self) -> np.ndarray:
        """[rows, D], zeros where a row has no sample."""
        return np.asarray(self.sums / np.maximum(1, self.column_counts))

    def covariance(self, rows: Sequence[int]) -> np.ndarray:
        """[D, D]: second moments less those of the rows' means, over the samples that have both blocks.

        rows: the rows that `second` was summed over, each sample in one
        """
        rows = [row for row in rows if self.counts[row].any()]  # a row without samples changes no bit
        means, counts = self.means[rows], self.counts[rows]
        between = np.zeros_like(self.second)
        for a, first in enumerate(self.cuts):
            for b, second in enumerate(self.cuts):
                between[first, second] = (means[:, first].T * counts[:, a, b]) @ means[:, second]
        return np.asarray((self.second - between) / np.maximum(1, self._both(counts)))

    def plus(self, other: Moments, weight: float = 1.0) -> Moments:
        """These sums and those of others over the same blocks and rows, whose samples count `weight` times."""
        pairs = ((getattr(self, name), getattr(other, name)) for name in ("counts", "sums", "second"))
        counts, sums, second = (first + weight * more for first, more in pairs)
        return replace(self, counts=counts, sums=sums, second=second)

    def without_last_row(self) -> Moments:
        """The other rows, with the covariance within all of them: the last one is a row without a name."""
        every, fewer = len(self.sums), range(len(self.sums) - 1)
        within = self.covariance(range(every))
        rest = replace(self, counts=self.counts[:-1], sums=self.sums[:-1], second=np.zeros_like(self.second))
        samples = np.maximum(1, self._both(rest.counts))
        return replace(rest, second=(within - rest.covariance(fewer)) * samples)

    def _both(self, counts: np.ndarray) -> np.ndarray:
        """[D, D]: the samples of some rows that have both columns' blocks."""
        widths = [cut.stop - cut.start for cut in self.cuts]
        return np.asarray(np.repeat(np.repeat(counts.sum(0), widths, 0), widths, 1))


def read_moments(statistics: Statistics, task: str, rows: Sequence[str], blocks: Sequence[tuple[str, int]]) -> Moments:
    """The sums of a task. rows: names; blocks: `statistics_id` and dimension, in the order of the columns."""
    ends = np.cumsum([0, *(width for _, width in blocks)])
    cuts = tuple(slice(first, last) for first, last in pairwise(ends))
    counts = np.zeros((len(rows), len(blocks), len(blocks)))
    sums, second = np.zeros((len(rows), ends[-1])), np.zeros((ends[-1], ends[-1]))
    for a, (first, width) in enumerate(blocks):
        for r, row in enumerate(rows):
            sums[r, cuts[a]] = _values(statistics, Cell(task, "vector", row, (first,)), width) / ONE
        for b, (other, _) in enumerate(blocks):
            counts[:, a, b] = [statistics.count(task, row, first, other) for row in rows]
            second[cuts[a], cuts[b]] = _second(statistics, task, blocks[a], blocks[b]) / ONE**2
    return Moments(cuts, counts, sums, second)


def _second(statistics: Statistics, task: str, first: tuple[str, int], other: tuple[str, int]) -> np.ndarray:
    """[a, b]; a block with itself is unpacked, two blocks stand in the order of their ids."""
    if first[0] == other[0]:
        triangle = _values(statistics, Cell(task, "moment", "", (first[0], first[0])), first[1] * (first[1] + 1) // 2)
        return square(triangle)
    if first[0] > other[0]:
        return _second(statistics, task, other, first).T
    cell = Cell(task, "moment", "", (first[0], other[0]))
    return np.asarray(_values(statistics, cell, first[1] * other[1]).reshape(first[1], other[1]))


def _values(statistics: Statistics, cell: Cell, size: int) -> np.ndarray:
    values = statistics.cells.get(cell)
    return np.zeros(size) if values is None else values.astype(np.float64)


def standardized(covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(correlations [D, D], spreads [D]) of a covariance made positive semi-definite first.

    Blocks that different samples have need not fit together; a direction without variance gets LEAST_VARIANCE.
    """
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    proper = (vectors * np.maximum(values, LEAST_VARIANCE)) @ vectors.T
    spread = np.sqrt(np.diag(proper))
    return proper / spread[:, None] / spread, spread
