"""Backends: loads a graph into onnxruntime or LiteRT, behind one call."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from homeroom.contract.manifest import Runtime

SUFFIXES: dict[Runtime, str] = {"onnx": ".onnx", "litert": ".tflite"}


class LoadedGraph(Protocol):
    """A loaded graph: arrays by input name in, arrays by output name out."""

    def __call__(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]: ...


def load(path: Path, *, threads: int | None = None, lasting: bool = False) -> LoadedGraph:
    """Loads a graph into the runtime that its file is for.

    threads: None for the runtime's choice. lasting: it stays loaded, and may share memory with others that do. Raises
    BundleError if it cannot be loaded, TrainError if memory ran out, MissingExtraError if LiteRT is not installed.
    """
    if path.suffix == SUFFIXES["litert"]:
        from homeroom.runtime.litert import LitertGraph

        return LitertGraph(path, threads)
    from homeroom.runtime.onnx import OnnxGraph

    return OnnxGraph(path, threads, lasting=lasting)
