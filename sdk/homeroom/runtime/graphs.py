"""Graphs of a bundle, loaded when first needed, and run on a share of the threads."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from functools import cached_property
from typing import get_args

import numpy as np

from homeroom.contract.continuation import MASKED_LOGIT, label_columns
from homeroom.contract.layout import FULL_TIER
from homeroom.contract.manifest import Graph, Manifest, Precision, Runtime
from homeroom.errors import BundleError, InputError
from homeroom.runtime.backend import LoadedGraph, load
from homeroom.runtime.bundle import Bundle
from homeroom.system.hardware import cores

GRADIENT_ROLES = ("grad", "grad_heads")
MOST_THREADS = 256
OPENED_BIAS = np.float32(2.0**-20)  # not zero, and no evidence


class Graphs:
    """The graphs of one bundle and tier.

    precision: of the backbone used, by modality; the lowest if absent. threads: up to MOST_THREADS, None for all cores.
    runtime: what runs the graphs; one that the bundle does not have for it runs in onnxruntime.
    """

    def __init__(
        self,
        bundle: Bundle,
        precision: Mapping[str, Precision] | None = None,
        threads: int | None = None,
        tier: str = FULL_TIER,
        runtime: Runtime = "onnx",
    ):
        check_threads(threads)
        self.bundle, self.threads, self.tier, self.runtime = bundle, threads, tier, runtime
        offered = {modality.name: precisions(bundle, modality.name, runtime) for modality in bundle.manifest.modalities}
        self.precision: dict[str, Precision] = {name: chosen[0] for name, chosen in offered.items() if chosen}
        self.precision.update(precision or {})
        self.largest_batch: int | None = None  # of a step of training, where memory is short
        self._loaded: dict[str, LoadedGraph] = {}
        self._columns: dict[tuple[str, str], dict[int, np.ndarray]] = {}

    def configure(self, threads: int | None, largest_batch: int | None) -> None:
        """Sets the number of threads and, where memory is short, the largest batch of a training step."""
        if threads is not None and threads != self.threads:
            self.threads = threads
            self._loaded.clear()
            self.__dict__.pop("_pool", None)
        self.largest_batch = largest_batch

    def nested_tiers(self) -> list[tuple[Graphs, np.ndarray | slice]]:
        """The graphs of each tier up to this one, the smallest first, and its indices in this one's theta.

        They share loaded graphs and threads.
        """
        names = [*(tier.name for tier in self.bundle.manifest.tiers), FULL_TIER]
        own, smaller_tiers = self._index(), list[tuple[Graphs, np.ndarray | slice]]()
        for name in names[: names.index(self.tier)]:
            smaller, index = copy(self), dict(self.bundle.layout.tiers)[name]
            smaller.tier, smaller._pool = name, self._pool
            smaller_tiers.append((smaller, index if own is None else np.searchsorted(own, index)))
        return [*smaller_tiers, (self, slice(None))]

    def features_graph(self, modality: str) -> Graph:
        """The modality's backbone in the precision in use; BundleError if there is none."""
        for graph in backbones(self.bundle, modality, self.runtime):
            if graph.precision == self.precision[modality]:
                return graph
        raise BundleError(f"has no {self.precision[modality]} backbone for {modality}", where="manifest.json")

    def features(self, modality: str) -> LoadedGraph:
        """The modality's backbone, loaded."""
        return self.loaded(self.features_graph(modality))

    def release(self, modality: str) -> None:
        """Frees a backbone's memory; it is loaded again when needed."""
        self._loaded.pop(self.features_graph(modality).file, None)

    def steps(self, role: str) -> list[Graph]:
        """The tier's variants of a step, the smallest bucket first; BundleError if there is none.

        Those of `grad` serve for `grad_heads` too, where the bundle or the runtime has none.
        """
        graphs = (*self.bundle.manifest.graphs, *self.bundle.manifest.settled)
        steps = [graph for graph in graphs if (graph.role, graph.tier) == (role, self.tier)]
        if role == "grad_heads" and (self.runtime != "onnx" or not steps):
            return self.steps("grad")
        if role in GRADIENT_ROLES and self.largest_batch is not None:
            steps = [graph for graph in steps if graph.batch <= self.largest_batch]
        if not steps:
            raise BundleError(f"has no {role} graph", where="manifest.json", remedy="export the bundle again")
        return sorted(steps, key=lambda graph: (sorted(graph.tokens.items()), graph.batch))

    def narrow(self, theta: np.ndarray) -> np.ndarray:
        """The tier's values of theta float32 [P]: theta[index]; a narrow vector stays as it is."""
        index = self._index()
        theta = np.ascontiguousarray(theta, np.float32)
        return theta if index is None or len(theta) == len(index) else theta[index]

    def widen(self, narrow: np.ndarray, theta: np.ndarray) -> np.ndarray:
        """A copy of theta float32 [P] with the tier's values put in; `narrow` itself at the full tier."""
        index = self._index()
        if index is None:
            return narrow
        full = np.array(theta, np.float32)
        full[index] = narrow
        return full

    def masked(self, theta: np.ndarray, before: np.ndarray | None = None) -> np.ndarray:
        """The tier's theta float32 [p] as graphs read it: a new label that nobody has taught yet cannot be an answer.

        Its column of the head is all zeros; its logit becomes one of probability 0, so that other answers and their
        gradients are as without it. Theta itself, and its gradient there, stay zero.

        before: an earlier theta of the tier, to mask what nobody had taught that one.
        """
        known = theta if before is None else before
        untaught = [indices[-1] for indices in self._masked_columns() if not known[indices].any()]
        if not untaught:
            return theta
        theta = theta.copy()
        theta[untaught] = MASKED_LOGIT
        return theta

    def opened(self, theta: np.ndarray, taught: Mapping[str, np.ndarray]) -> np.ndarray:
        """A copy of the tier's theta in which labels that training samples have are masked no more.

        taught: by task, bool [width], whether any sample has the label.
        """
        theta = theta.copy()
        for task, columns in taught.items():
            for number, indices in self._columns_of(task).items():
                if columns[number] and not theta[indices].any():
                    theta[indices[-1]] = OPENED_BIAS
        return theta

    def _masked_columns(self) -> list[np.ndarray]:
        return [one for task in self.bundle.manifest.tasks for one in self._columns_of(task.name).values()]

    def _columns_of(self, task: str) -> dict[int, np.ndarray]:
        """By target column of a task, where a label that is masked until it is taught stands in the tier's theta."""
        key = (self.tier, task)
        if key not in self._columns:
            index, manifest = self._index(), self.bundle.manifest
            masked = manifest.masked.get(task, ())
            every = label_columns(manifest.layout, f"head.{task}") if masked else []
            columns = {n: every[n] for n, label in enumerate(manifest.task(task).labels) if label in masked}
            if index is not None:
                columns = {n: np.flatnonzero(np.isin(index, one)) for n, one in columns.items()}
            self._columns[key] = columns
        return self._columns[key]

    def _index(self) -> np.ndarray | None:
        if self.tier == FULL_TIER:
            return None
        tiers = dict(self.bundle.layout.tiers)
        if self.tier not in tiers:
            raise BundleError(f"has no tier {self.tier}", where="manifest.json", remedy=f"one of {[*tiers, FULL_TIER]}")
        return tiers[self.tier]

    def loaded(self, facts: Graph) -> LoadedGraph:
        """Loads a graph, or what it was converted to for the runtime in use, unless it is loaded already."""
        file = converted_graph(self.bundle, facts, self.runtime).file
        if (graph := self._loaded.get(file)) is None:
            share = self.parallel_runs(facts)
            threads = max(1, (self.threads or cores()) // share) if share > 1 else self.threads
            graph = load(self.bundle.file(file), threads=threads, lasting=facts.role != "features")
            graph = self._loaded.setdefault(file, graph)  # another thread may have loaded it meanwhile
        return graph

    def preload(self, graphs: Iterable[Graph]) -> None:
        """Loads, in parallel, graphs that are about to run in parallel."""
        parallel = [facts for facts in graphs if self.parallel_runs(facts) > 1]
        files = {converted_graph(self.bundle, facts, self.runtime).file: facts for facts in parallel}
        missing = [facts for file, facts in files.items() if file not in self._loaded]
        for _ in self._pool.map(self.loaded, missing):
            pass

    def run_all(self, work: Iterable[tuple[Graph, Mapping[str, np.ndarray]]]) -> Iterator[dict[str, np.ndarray]]:
        """Yields the outputs of many runs, in their order; they run in parallel where that is quicker.

        At most one item of `work` more than run in parallel is taken ahead.
        """
        running: deque[Future[dict[str, np.ndarray]]] = deque()
        for facts, feeds in work:
            run, most = self.loaded(facts), self.parallel_runs(facts)
            while len(running) >= most:
                yield running.popleft().result()
            if most == 1:
                yield run(feeds)
            else:
                running.append(self._pool.submit(run, feeds))
        while running:
            yield running.popleft().result()

    def parallel_runs(self, facts: Graph) -> int:
        """How many runs of a graph are best made in parallel."""
        return parallel_runs(self.bundle.manifest, facts, self.threads or cores(), self.runtime)

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.threads or cores(), "graph")


def check_threads(threads: int | None) -> None:
    """InputError unless it is None, or a whole number that a machine has cores for."""
    if threads is not None and (type(threads) is not int or not 1 <= threads <= MOST_THREADS):
        what = f"threads is {threads!r}, and has to be a whole number from 1 to {MOST_THREADS}"
        raise InputError(what, remedy="leave it out for all cores")


def parallel_runs(manifest: Manifest, facts: Graph, threads: int, runtime: Runtime) -> int:
    """How many runs of a step are best made in parallel, each on its share of the threads.

    A ladder's step is many small operations: a second thread inside it hardly helps, while two runs in parallel take
    little more than half the time. A step with a backbone inside fills its threads, and takes much memory. LiteRT's
    runs share their buffers, and are made one by one.
    """
    if runtime != "onnx" or any(modality.adapter == "lora" for modality in manifest.modalities):
        return 1
    if facts.role == "predict":
        return threads
    parts = math.ceil(manifest.training.batch / facts.batch) if facts.role in GRADIENT_ROLES else 1
    return max(1, min(threads, parts))


def converted_graph(bundle: Bundle, facts: Graph, runtime: Runtime) -> Graph:
    """The graph converted for a runtime, or the graph itself where the bundle has none."""
    key = (facts.role, facts.modality, facts.precision, facts.batch, facts.tokens, facts.tier)
    for other in bundle.manifest.converted:
        if (other.role, other.modality, other.precision, other.batch, other.tokens, other.tier) == key:
            return other if other.runtime == runtime else facts
    return facts


def backbones(bundle: Bundle, modality: str, runtime: Runtime) -> list[Graph]:
    """The modality's backbones for a runtime, the lowest precision first; onnxruntime's if it has none."""
    graphs = (*bundle.manifest.converted, *bundle.manifest.graphs, *bundle.fallback_graphs)
    candidates = [graph for graph in graphs if (graph.role, graph.modality) == ("features", modality)]
    for supported in (runtime, "onnx"):
        if matching := [graph for graph in candidates if graph.runtime == supported]:
            return sorted(matching, key=lambda graph: get_args(Precision).index(graph.precision))
    return []


def precisions(bundle: Bundle, modality: str, runtime: Runtime) -> list[Precision]:
    """The precisions of a modality's backbones for a runtime, the lowest first."""
    return [graph.precision for graph in backbones(bundle, modality, runtime)]
