"""Vectors of samples as a task's solver reads them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from homeroom.contract.statistics.accumulate import BlockVectors
from homeroom.contract.statistics.sums import ONE


@dataclass(frozen=True)
class TaskVectors:
    """Vectors of n samples.

    blocks: one vector a sample each; of choice and matching what is asked with
    options: of choice and matching what is compared with it: for each option its vectors, of the same blocks
    """

    blocks: tuple[BlockVectors, ...]
    options: tuple[tuple[BlockVectors, ...], ...] = ()

    def __len__(self) -> int:
        return len(self.blocks[0].present) if self.blocks else 0

    def subset(self, rows: np.ndarray) -> TaskVectors:
        """The vectors of the samples with these numbers."""
        options = tuple(tuple(block.subset(rows) for block in option) for option in self.options)
        return TaskVectors(tuple(block.subset(rows) for block in self.blocks), options)

    def only(self, blocks: Collection[str]) -> TaskVectors:
        """The same samples with these blocks alone, by `statistics_id`."""
        parts = (tuple(b for b in some if b.statistics_id in blocks) for some in (self.blocks, *self.options))
        return TaskVectors(next(parts), tuple(parts))


def all_present(blocks: Sequence[BlockVectors]) -> np.ndarray:
    """bool [n]: the samples that have each of the blocks."""
    return np.asarray(np.logical_and.reduce([block.present for block in blocks]))


def by_presence(blocks: Sequence[BlockVectors]) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
    """Yields (numbers of the blocks that are present, numbers of the samples) for each combination that occurs."""
    present = np.stack([block.present for block in blocks], 1)
    for pattern in np.unique(present, axis=0):
        yield tuple(np.flatnonzero(pattern).tolist()), np.flatnonzero((present == pattern).all(1))


def joined(blocks: Sequence[BlockVectors]) -> np.ndarray:
    """float64 [n, sum of d]: the blocks side by side, in units of norm 1."""
    return np.concatenate([block.values for block in blocks], 1) / ONE
