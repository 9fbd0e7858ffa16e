"""Processors that are not here, by QEMU: the command that starts Python on each, numpy and onnxruntime beside it.

The arm64 root, its wheels and the emulators are those of the project's own test of a Raspberry Pi, kept in the user's
cache. What runs there is a child: `peers/features_child.py` needs no more, `peers/golden_child.py` the whole SDK.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parents[1] / "tests" / "examples"))

import arm64  # noqa: E402

UnavailableError = arm64.UnavailableError
PACKAGES = ("numpy", "onnxruntime", "flatbuffers", "protobuf", "packaging")
LIMIT_S = 3600  # of one process


@dataclass(frozen=True)
class Processor:
    """`command`: starts Python there; `runtime`: the version of onnxruntime that it runs."""

    name: str
    command: tuple[str, ...]
    runtime: str
    site: Path | None = None

    def features(self, graph: Path, feeds: Path, out: Path) -> float:
        """Run a graph over every batch in `feeds`; seconds. UnavailableError if it fails or takes LIMIT_S."""
        began = time.monotonic()
        self.run("features_child.py", graph, feeds, out)
        return time.monotonic() - began

    def run(self, child: str, *arguments: Path) -> str:
        """What a script beside this one prints there. UnavailableError if it fails or takes LIMIT_S."""
        environment = os.environ | {"OMP_NUM_THREADS": "1"} | ({"PYTHONPATH": str(self.site)} if self.site else {})
        command = [*self.command, str(HERE / child), *map(str, arguments)]
        try:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            raise UnavailableError(f"{self.name} took more than {LIMIT_S} s") from None
        if done.returncode:
            told = (done.stderr.strip() or f"code {done.returncode}").splitlines()[-1]
            raise UnavailableError(f"{self.name}: {told}")
        return done.stdout


def here() -> Processor:
    return Processor("this machine", (sys.executable,), importlib.metadata.version("onnxruntime"))


def haswell() -> Processor:
    """x86-64 with AVX2 and without VNNI, running this very environment."""
    qemu = arm64.emulator("qemu-x86_64-static")
    command = (str(qemu), "-cpu", "Haswell", sys.executable)
    return Processor("Haswell", command, importlib.metadata.version("onnxruntime"))


def cortex(number: int, folder: Path) -> Processor:
    """An arm64 core, such as 53 or 76; its packages are unpacked into `folder` once."""
    pi = arm64.pi()
    root = pi.python.parents[2]
    qemu = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64") or str(root / "qemu-aarch64-static")
    wheels = [next(pi.wheels.glob(f"{name}-[0-9]*.whl")) for name in PACKAGES]
    if not folder.exists():
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as packed:
                packed.extractall(folder)
    command = (
        qemu,
        "-cpu",
        f"cortex-a{number}",
        "-0",
        str(pi.python),
        "-L",
        str(root),
        str(root / "usr/bin/python3.11"),
    )
    return Processor(f"Cortex-A{number}", command, wheels[1].name.split("-")[1], folder)
