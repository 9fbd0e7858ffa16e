"""Processes of `benchmarks/device.py`'s workers, each fresh; standard library only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]
LIMIT_S = 3600


@dataclass(frozen=True)
class Workers:
    """Where workers run: `homeroom` is the interpreter without torch; `work` keeps bundles and devices."""

    data: Path
    work: Path
    homeroom: str
    threads: int
    quick: bool
    seeds: int

    def start(self, python: str, arguments: list[str]) -> None:
        """Run a worker to its end; its own words go to stderr."""
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH")))),
            "OMP_NUM_THREADS": str(self.threads),
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_VERBOSITY": "error",
            "HOMEROOM_KEYS": str(self.work / "keys"),
            "HOMEROOM_STARTED": repr(time.monotonic()),
        }
        done = subprocess.run([python, *arguments], env=environment, cwd=HERE, timeout=LIMIT_S, stdout=sys.stderr)
        if done.returncode:
            sys.exit(f"{' '.join(arguments[:2])} failed with code {done.returncode}")

    def result(self, python: str, arguments: list[str], name: str) -> dict[str, Any]:
        """What a worker writes to its `--out`."""
        out = self.work / f"{name}.json"
        self.start(python, [*arguments, "--data", str(self.data), "--out", str(out)])
        return dict(json.loads(out.read_text()))


def device_python() -> str:
    """The interpreter of the environment without torch, as `make` builds it; else this one, with a warning."""
    named = os.environ.get("HOMEROOM_DEVICE_PYTHON") or str(HERE.parent / ".venv-device" / "bin" / "python")
    if Path(named).exists():
        return named
    print("no device environment (`make bench-device` makes it): this one, which has torch, stands in", file=sys.stderr)
    return sys.executable


def installed_mb(python: str, names: list[str]) -> float:
    done = subprocess.run([python, "-m", "peers.measure", *names], cwd=HERE, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout)["installed_mb"])
