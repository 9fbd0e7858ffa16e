"""Adds up the grid vectors of samples: from one vector a block to the cells of a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np

from homeroom.contract.statistics.sums import NUMBER_LIMIT, ONE, Cell, Statistics

SUM_ROWS = 1 << 20  # rows added at once: their sums of products stay below 2^53, where float64 is exact


@dataclass(frozen=True)
class BlockVectors:
    """Vectors of some samples in one block.

    values: integers [n, d] on the grid, zeros where it is absent
    present: bool [n]
    """

    statistics_id: str
    values: np.ndarray
    present: np.ndarray

    def subset(self, rows: np.ndarray) -> BlockVectors:
        """The vectors of the samples with these numbers."""
        return BlockVectors(self.statistics_id, self.values[rows], self.present[rows])


def to_grid(vectors: np.ndarray) -> np.ndarray:
    """int64 [n, d]: vectors [n, d] cut to norm 1 and rounded once to the grid; their norm stays at most 1.

    Rounds to the nearest; where that would pass norm 1, towards zero.
    """
    norms = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))
    cut = vectors.astype(np.float64) / np.maximum(1.0, norms)[:, None] * ONE
    grid = np.rint(cut).astype(np.int64)
    long = np.einsum("nd,nd->n", grid, grid) > ONE**2
    grid[long] = np.trunc(cut[long] * (1 - 1e-12)).astype(np.int64)
    return np.asarray(grid)


def numbers_to_grid(numbers: np.ndarray) -> np.ndarray:
    """int64 [n]: numbers in units of the task's scale, cut to NUMBER_LIMIT and rounded once to the grid."""
    return np.asarray(np.rint(np.clip(numbers.astype(np.float64), -NUMBER_LIMIT, NUMBER_LIMIT) * ONE), np.int64)


def sum_samples(
    task: str,
    blocks: Sequence[BlockVectors],
    rows: Mapping[str, np.ndarray],
    *,
    moments: np.ndarray,
    numbers: np.ndarray | None = None,
) -> Statistics:
    """The sums of a task's samples.

    rows: bool [n] by the label's name, the samples of each row
    moments: bool [n], the samples whose second moments count
    numbers: int64 [n] of `numbers_to_grid`, where the labels are numbers
    """
    cells: dict[Cell, np.ndarray] = {}
    for first, second in combinations_with_replacement(sorted(blocks, key=lambda b: b.statistics_id), 2):
        ids = (first.statistics_id, second.statistics_id)
        both = first.present & second.present
        for name, chosen in rows.items():
            cells[Cell(task, "count", name, ids)] = np.array([np.count_nonzero(both & chosen)])
        shared = np.flatnonzero(both & moments)
        product = exact_product(first.values[shared], second.values[shared])
        same = first is second
        cells[Cell(task, "moment", "", ids)] = product[np.triu_indices(len(product))] if same else product.ravel()
    for block in blocks:
        one = (block.statistics_id,)
        for name, chosen in rows.items():
            cells[Cell(task, "vector", name, one)] = block.values[block.present & chosen].sum(0, np.int64)
        if numbers is not None:
            y = numbers[block.present]
            cells[Cell(task, "number", "", one)] = np.array([y.sum(), (y * y).sum()])
            cells[Cell(task, "product", "", one)] = exact_product(y[:, None], block.values[block.present])[0]
    return Statistics({cell: values for cell, values in cells.items() if values.any()})


def exact_product(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """int64 [a, b] = first.T @ second of integers [n, a] and [n, b] on the grid.

    By float64, which is exact below 2^53 in whatever order a library adds, and many times as fast as int64.
    """
    total = np.zeros((first.shape[1], second.shape[1]), np.int64)
    for start in range(0, len(first), SUM_ROWS):
        part = slice(start, start + SUM_ROWS)
        total += (first[part].T.astype(np.float64) @ second[part].astype(np.float64)).astype(np.int64)
    return total
