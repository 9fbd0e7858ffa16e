"""Starts the work of `work_device.py` in a process of its own and ends it with `kill -9` at a chosen moment."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from homeroom_aggregator.server.service import Service

WORK = Path(__file__).with_name("work_device.py")

Waiting = Callable[[IO[str]], object]


def killed_after(seconds: float | None, *arguments: object, wait: Waiting | None = None) -> list[str]:
    """Start the work, kill it so long after it is ready (None: let it end), and return the lines it had printed.

    With `wait`, the time counts from its return; it is called with the work's output.
    """
    command = [sys.executable, str(WORK), *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        first = process.stdout.readline()
        assert first == "ready\n", process.stderr.read()
        if wait is not None:
            wait(process.stdout)
        if seconds is not None:
            time.sleep(seconds)
            process.kill()
        return process.stdout.read().splitlines()


def lines(count: int) -> Waiting:
    """Wait for so many lines of the work's output."""
    return lambda output: [output.readline() for _ in range(count)]


def counted(service: Service, version: int) -> Waiting:
    """Wait until the aggregator has merged to this version; the device may not know it yet."""

    def wait(_: IO[str]) -> None:
        while service.rounds.state.version < version:
            time.sleep(0.001)

    return wait


def seconds_of_a_whole_sync(home: Path) -> float:
    """From ready to its end, in a process of its own; sends the update that waits."""
    began = time.monotonic()
    killed_after(0.0, "status", home)
    start_s = time.monotonic() - began
    began = time.monotonic()
    assert killed_after(None, "sync", home) == ["sent 1"]
    return max(0.1, time.monotonic() - began - start_s)
