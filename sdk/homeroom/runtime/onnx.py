"""A graph in onnxruntime, with its memory kept low; imports onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort

from homeroom.errors import BundleError
from homeroom.runtime.memory import give_back


class OnnxGraph:
    """One session. The arena and the memory pattern are off: with many lengths they only grow (onnxruntime 11627).

    Threads wait asleep: where other programs run too, a training step of 48 tokens took 18 ms in place of 39 ms.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        give_back()
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.enable_cpu_mem_arena = False
        options.enable_mem_pattern = False
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if threads:
            options.intra_op_num_threads = threads
        try:
            self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as problem:  # onnxruntime raises many types of its own
            raise BundleError(
                f"onnxruntime {ort.__version__} cannot load it: {problem}", where=path.name, remedy="update onnxruntime"
            ) from None
        self._path = path
        self._outputs = [output.name for output in self._session.get_outputs()]

    def __call__(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        try:
            return dict(zip(self._outputs, self._session.run(None, dict(feeds)), strict=True))
        except Exception as problem:
            raise BundleError(f"the graph failed: {problem}", where=self._path.name) from None
