"""Time and peak memory of one graph, measured in a process of its own, which loads numpy and the runtime only."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from homeroom.errors import ExportError

MOST_RUNS, LEAST_RUNS, ENOUGH_S = 12, 3, 1.0  # the time after which the fewest runs are enough


@dataclass(frozen=True)
class Footprint:
    """`ms`: median of a run; `peak_mb`: of the whole process, Python included, or None where it cannot be read."""

    ms: float
    peak_mb: float | None


@dataclass(frozen=True)
class RuntimeComparison:
    """One graph in both runtimes, each in fresh processes. `difference`: how their results compare."""

    name: str
    difference: str
    onnx: Footprint
    litert: Footprint


def run_footprint(graph: Path, feeds: Mapping[str, np.ndarray], threads: int) -> Footprint:
    """Runs the graph a few times in a fresh process; ExportError where it cannot be run."""
    with tempfile.TemporaryDirectory(prefix="homeroom-measure-") as folder:
        inputs = Path(folder) / "feeds.npz"
        np.savez(inputs, allow_pickle=False, **feeds)
        worker = subprocess.run(
            [sys.executable, "-m", __name__, str(graph), str(inputs), str(threads)],
            capture_output=True,
            text=True,
            check=False,
        )
    if worker.returncode:
        raise ExportError(f"the graph cannot be run: {worker.stderr.strip()[-300:]}", where=graph.name)
    return Footprint(**json.loads(worker.stdout.splitlines()[-1]))


def _measure_here(graph: str, inputs: str, threads: str) -> None:
    from homeroom.runtime.backend import load

    run = load(Path(graph), threads=int(threads))
    with np.load(inputs) as stored:
        feeds = dict(stored)
    seconds: list[float] = []
    while len(seconds) < MOST_RUNS and (len(seconds) < LEAST_RUNS or sum(seconds) < ENOUGH_S):
        start = time.perf_counter()
        run(feeds)
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"ms": float(np.median(seconds)) * 1e3, "peak_mb": _peak_mb()}))


def _peak_mb() -> float | None:
    status = Path("/proc/self/status")
    if status.exists():  # Linux: getrusage would give the parent's peak, which a child inherits
        line = next((line for line in status.read_text().splitlines() if line.startswith("VmHWM:")), None)
        if line is not None:
            return int(line.split()[1]) / 1024
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


if __name__ == "__main__":
    _measure_here(*sys.argv[1:])
