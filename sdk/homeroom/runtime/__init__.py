"""Graphs of a bundle, loaded when first needed, behind an interface of one call; imports bundle and a runtime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, get_args

import numpy as np

from homeroom.bundle import Bundle
from homeroom.contract.layout import FULL
from homeroom.contract.manifest import Graph as GraphFacts
from homeroom.contract.manifest import Precision
from homeroom.errors import BundleError


class Graph(Protocol):
    """A loaded graph: arrays by input name in, arrays by output name out."""

    def __call__(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]: ...


def load(path: Path, *, threads: int | None = None, lasting: bool = False) -> Graph:
    from homeroom.runtime.onnx import OnnxGraph

    return OnnxGraph(path, threads, lasting=lasting)


class Graphs:
    """The graphs of one bundle and tier.

    `precision`: which backbone of each modality is used here, the lowest if absent.
    """

    def __init__(
        self,
        bundle: Bundle,
        precision: Mapping[str, Precision] | None = None,
        threads: int | None = None,
        tier: str = FULL,
    ):
        self.bundle, self.threads, self.tier = bundle, threads, tier
        lowest = sorted(bundle.manifest.graphs, key=lambda graph: -get_args(Precision).index(graph.precision))
        self.precision: dict[str, Precision] = {g.modality: g.precision for g in lowest if g.modality is not None}
        self.precision.update(precision or {})
        self.largest_batch: int | None = None  # of a step of training, where memory is short
        self._loaded: dict[str, Graph] = {}

    def use(self, threads: int | None, largest_batch: int | None) -> None:
        """From now on run on so many threads, and train in batches of at most so many."""
        if threads is not None and threads != self.threads:
            self.threads = threads
            self._loaded.clear()
        self.largest_batch = largest_batch

    def features_graph(self, modality: str) -> GraphFacts:
        for graph in self.bundle.manifest.graphs:
            if (graph.role, graph.modality, graph.precision) == ("features", modality, self.precision[modality]):
                return graph
        raise BundleError(f"has no {self.precision[modality]} backbone for {modality}", where="manifest.json")

    def features(self, modality: str) -> Graph:
        return self.loaded(self.features_graph(modality))

    def release(self, modality: str) -> None:
        """Give a backbone's memory back; it is loaded again when needed."""
        self._loaded.pop(self.features_graph(modality).file, None)

    def steps(self, role: str) -> list[GraphFacts]:
        """The tier's variants of a step, the one with the smallest bucket first."""
        found = [graph for graph in self.bundle.manifest.graphs if (graph.role, graph.tier) == (role, self.tier)]
        if role == "grad" and self.largest_batch is not None:
            found = [graph for graph in found if graph.batch <= self.largest_batch]
        if not found:
            raise BundleError(f"has no {role} graph", where="manifest.json", remedy="export the bundle again")
        return sorted(found, key=lambda graph: (sorted(graph.tokens.items()), graph.batch))

    def narrow(self, theta: np.ndarray) -> np.ndarray:
        """What the tier's graphs read of theta float32 [P]: theta[index]; what is narrow already stays as it is."""
        index = self._index()
        theta = np.ascontiguousarray(theta, np.float32)
        return theta if index is None or len(theta) == len(index) else theta[index]

    def widen(self, narrow: np.ndarray, theta: np.ndarray) -> np.ndarray:
        """A copy of theta float32 [P] with the tier's values in their places."""
        index = self._index()
        if index is None:
            return narrow
        whole = np.array(theta, np.float32)
        whole[index] = narrow
        return whole

    def _index(self) -> np.ndarray | None:
        if self.tier == FULL:
            return None
        tiers = dict(self.bundle.layout.tiers)
        if self.tier not in tiers:
            raise BundleError(f"has no tier {self.tier}", where="manifest.json", remedy=f"one of {[*tiers, FULL]}")
        return tiers[self.tier]

    def loaded(self, facts: GraphFacts) -> Graph:
        if facts.file not in self._loaded:
            self._loaded[facts.file] = load(
                self.bundle.file(facts.file), threads=self.threads, lasting=facts.role != "features"
            )
        return self._loaded[facts.file]
