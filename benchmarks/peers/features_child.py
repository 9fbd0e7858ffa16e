"""Runs one graph over batches from a file, wherever there is numpy and onnxruntime: real or emulated processors.

`python features_child.py GRAPH FEEDS.npz OUT.npz`; feeds are named `<batch>/<input>`, results `<batch>`.
"""

from __future__ import annotations

import sys

import numpy as np
import onnxruntime


def main(graph: str, feeds: str, out: str) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    batches: dict[str, dict[str, np.ndarray]] = {}
    with np.load(feeds) as stored:
        for key in stored.files:
            batch, name = key.split("/")
            batches.setdefault(batch, {})[name] = stored[key]
    np.savez(out, **{batch: session.run(["features"], one)[0] for batch, one in batches.items()})


if __name__ == "__main__":
    main(*sys.argv[1:])
