"""onnxruntime backend, with its memory kept low."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from threading import Lock

import numpy as np
import onnxruntime as ort

from homeroom.errors import BundleError, HomeroomError, TrainError

MEMORY_REMEDY = "close other programs; `homeroom device train … --megabytes` chooses what fits"
_arena_lock = Lock()
POWER_OF_TWO_BLOCKS = 0  # arena_extend_strategy; blocks of just the requested size would not fit the next batch


class OnnxGraph:
    """One session. Lasting sessions share an arena; another frees its own arena when it goes.

    Without an arena each intermediate array is mapped anew and its pages faulted in: a step took 17 ms in place of 8.
    IO binding would save the copy of the gradient alone, 1 to 9 % of a step (`benchmarks/device.py`), and needs buffers
    that runs side by side cannot share; a memory pattern saves nothing.
    Threads wait asleep: where other programs run too, a training step of 48 tokens took 18 ms in place of 39 ms.
    """

    def __init__(self, path: Path, threads: int | None = None, *, lasting: bool = False) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 4  # what goes wrong is raised
        options.enable_mem_pattern = False  # with many lengths it only grows (onnxruntime 11627)
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if lasting:
            _share_arena()
            options.add_session_config_entry("session.use_env_allocators", "1")
        if threads:
            options.intra_op_num_threads = threads
        try:
            self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as problem:  # onnxruntime raises many types of its own
            raise _graph_error(
                problem, f"onnxruntime {ort.__version__} cannot load it", path, "update onnxruntime"
            ) from None
        self._path = path
        self._outputs = [output.name for output in self._session.get_outputs()]

    def __call__(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        try:
            return dict(zip(self._outputs, self._session.run(None, dict(feeds)), strict=True))
        except Exception as problem:
            raise _graph_error(problem, "the graph failed", self._path) from None


def _graph_error(problem: Exception, what: str, path: Path, remedy: str = "") -> HomeroomError:
    """TrainError for memory that ran out, which onnxruntime tells by words alone; else BundleError."""
    if any(words in f"{problem}" for words in ("allocate memory", "bad_alloc", "bad allocation")):
        return TrainError("memory ran out", where=path.name, remedy=MEMORY_REMEDY)
    return BundleError(f"{what}: {problem}", where=path.name, remedy=remedy)


def _share_arena() -> None:
    """Makes one arena for all lasting sessions; those that run in parallel have their own part of it."""
    with _arena_lock:
        _make_arena()


@cache
def _make_arena() -> None:
    memory = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(memory, ort.OrtArenaCfg(0, POWER_OF_TWO_BLOCKS, -1, -1))
