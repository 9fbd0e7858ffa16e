"""LiteRT backend (the successor of TensorFlow Lite)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from homeroom.errors import BundleError, HomeroomError, MissingExtraError, TrainError
from homeroom.system.hardware import cores
from homeroom.system.installation import how_to_install

MEMORY_REMEDY = "close other programs; `homeroom device train … --megabytes` chooses what fits"


class LitertGraph:
    """One file with a signature for each shape it was converted for: a text backbone has one a bucket.

    Rows beyond a signature's batch make further runs; the last is padded. Integers are cast to the types that the
    signature takes. Only the signature last used keeps its arrays, so that those of a long text do not stay in memory
    beside those of a short one.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        self._path, self._threads = path, threads or cores()
        interpreter = self._interpreter()
        runners = {name: interpreter.get_signature_runner(name) for name in interpreter.get_signature_list()}
        self._shapes: dict[str, dict[str, tuple[int, ...]]] = {
            name: {key: tuple(map(int, detail["shape"])) for key, detail in runner.get_input_details().items()}
            for name, runner in runners.items()
        }
        self._name = ""
        self._runner: Any = None
        self._one_run = Lock()  # an interpreter has one set of arrays

    def __call__(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with self._one_run:
            return self._run_all(feeds)

    def _run_all(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        name = self._signature(feeds)
        if name != self._name:
            self._name, self._runner = "", None  # before the next one takes its arrays
            self._name, self._runner = name, self._interpreter().get_signature_runner(name)
        shapes = self._shapes[name]
        first, shape = next(iter(shapes.items()))
        rows, batch = len(feeds[first]), shape[0]
        if rows == batch:
            return self._run(feeds)
        parts = [
            self._run({k: _pad_rows(feeds[k][i : i + batch], batch) for k in shapes}) for i in range(0, rows, batch)
        ]
        return {key: np.concatenate([part[key] for part in parts])[:rows] for key in parts[0]}

    def _run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        details = self._runner.get_input_details()
        try:
            return dict(self._runner(**{k: np.ascontiguousarray(feeds[k], d["dtype"]) for k, d in details.items()}))
        except (RuntimeError, ValueError, MemoryError) as problem:
            raise _graph_error(problem, "the graph failed", self._path) from None

    def _signature(self, feeds: Mapping[str, np.ndarray]) -> str:
        """Name of the signature for inputs of these names and shapes, whatever their batch."""
        for name, shapes in self._shapes.items():
            if all(key in feeds and feeds[key].shape[1:] == shape[1:] for key, shape in shapes.items()):
                return name
        fed = {key: list(value.shape) for key, value in feeds.items()}
        raise BundleError(f"the graph takes no inputs of the shapes {fed}", where=self._path.name)

    def _interpreter(self) -> Any:
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError:
            remedy = f'{how_to_install("litert")}, or open the device with runtime="onnx"'
            raise MissingExtraError("LiteRT is not installed", where=self._path.name, remedy=remedy) from None
        try:
            return Interpreter(model_path=str(self._path), num_threads=self._threads)
        except (RuntimeError, ValueError, MemoryError) as problem:
            raise _graph_error(problem, "LiteRT cannot load it", self._path, "pip install -U ai-edge-litert") from None


def _pad_rows(rows: np.ndarray, batch: int) -> np.ndarray:
    missing = batch - len(rows)
    return rows if not missing else np.concatenate([rows, np.zeros((missing, *rows.shape[1:]), rows.dtype)])


def _graph_error(problem: Exception, what: str, path: Path, remedy: str = "") -> HomeroomError:
    if isinstance(problem, MemoryError) or "alloc" in f"{problem}".lower():
        return TrainError("memory ran out", where=path.name, remedy=MEMORY_REMEDY)
    return BundleError(f"{what}: {problem}", where=path.name, remedy=remedy)
