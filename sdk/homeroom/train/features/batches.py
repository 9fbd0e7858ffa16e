"""Batches: rows packed into a graph's shape."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from homeroom.contract.manifest import Graph


@dataclass(frozen=True)
class Pack:
    """The examples that fit one variant. `rows`: their numbers in the dataset."""

    graphs: tuple[Graph, ...]  # equal but for their batch, the smallest first
    rows: np.ndarray


@dataclass(frozen=True)
class Batch:
    """Which rows of a pack make a batch, `size` where it is full; the graph is the smallest that holds them."""

    pack: Pack
    places: np.ndarray
    size: int

    @property
    def graph(self) -> Graph:
        return next((g for g in self.pack.graphs if g.batch >= len(self.places)), self.pack.graphs[-1])

    @property
    def rows(self) -> np.ndarray:
        """Their numbers in the dataset."""
        return np.asarray(self.pack.rows[self.places])

    def parts(self) -> list[Batch]:
        """The batch in pieces that its largest graph holds."""
        most = self.pack.graphs[-1].batch
        return [Batch(self.pack, self.places[at : at + most], self.size) for at in range(0, len(self.places), most)]
