"""Batches: rows of a dataset packed into the shape of a graph."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from homeroom.contract.manifest import Graph


@dataclass(frozen=True)
class Pack:
    """The examples whose inputs fit the same token counts.

    graphs: equal but for their batch, the smallest first
    rows: int32 [n], numbers of the examples in the dataset
    """

    graphs: tuple[Graph, ...]
    rows: np.ndarray


@dataclass(frozen=True)
class Batch:
    """Some examples of a pack.

    positions: integers [n], their positions in the pack
    size: rows of a full batch
    """

    pack: Pack
    positions: np.ndarray
    size: int

    @property
    def graph(self) -> Graph:
        """The smallest graph that holds the batch; the largest where none does, which then runs its `parts`."""
        return next((g for g in self.pack.graphs if g.batch >= len(self.positions)), self.pack.graphs[-1])

    @property
    def rows(self) -> np.ndarray:
        """int32 [n], numbers of the examples in the dataset."""
        return np.asarray(self.pack.rows[self.positions])

    def parts(self) -> list[Batch]:
        """The batch in pieces that its largest graph holds."""
        most = self.pack.graphs[-1].batch
        starts = range(0, len(self.positions), most)
        return [Batch(self.pack, self.positions[start : start + most], self.size) for start in starts]
