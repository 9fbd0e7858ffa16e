"""Time and memory of a worker of `benchmarks/device.py`; standard library only, it runs in every environment.

The parent sets HOMEROOM_STARTED to its monotonic clock just before it starts the process, so that the interpreter's
own start and all imports count.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import re
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

INSTALLERS = ("pip", "setuptools")


class Clock:
    """Seconds since the process was started; `mark` names what has just ended."""

    def __init__(self) -> None:
        self.started = float(os.environ.get("HOMEROOM_STARTED") or time.monotonic())
        self.marks: dict[str, float] = {}

    def mark(self, name: str) -> float:
        self.marks[name] = time.monotonic() - self.started
        return self.marks[name]


def peak_rss_mb() -> float:
    """Peak resident memory of this process (VmHWM: a child's ru_maxrss would start at its parent's size)."""
    status = Path("/proc/self/status")
    if status.exists():
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        if found:
            return int(found[1]) / 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20) if sys.platform == "darwin" else peak / 1024


def arguments(description: str) -> argparse.ArgumentParser:
    """What every worker takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds short_answers/")
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    return parser


def report(out: Path, clock: Clock, *, predictions: list[str], macro_f1: float, **more: Any) -> None:
    """As `write`, for a worker that graded short answers."""
    write(out, clock, macro_f1=macro_f1, predictions=predictions, **more)


def write(out: Path, clock: Clock, **found: Any) -> None:
    """Write what a worker found; `seconds` is the time since the process was started, to the evaluated model."""
    document = {
        "seconds": clock.mark("evaluated"),
        "marks": clock.marks,
        "cpu_s": time.process_time(),
        "peak_rss_mb": peak_rss_mb(),
        **found,
    }
    out.write_text(json.dumps(document))


def closure(names: Iterable[str]) -> set[str]:
    """The installed distributions that `names` need, themselves included, in this environment.

    pip and setuptools are left out, though torch and sqlite-utils name them: every environment has them.
    """
    todo, found = [(name, frozenset[str]()) for name in names], set()
    seen: set[tuple[str, frozenset[str]]] = set()
    while todo:
        name, extras = todo.pop()
        name = re.sub(r"[-_.]+", "-", name).lower()
        if (name, extras) in seen or name in INSTALLERS:
            continue
        seen.add((name, extras))
        try:
            requires = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # its marker does not hold on this machine
        found.add(name)
        for line in requires:
            head, _, marker = line.partition(";")
            if "extra" in marker and not any(re.search(rf"extra\s*==\s*['\"]{e}['\"]", marker) for e in extras):
                continue
            matched = re.match(r"\s*([A-Za-z0-9._-]+)\s*(?:\[([^\]]*)\])?", head)
            if matched:
                wanted = frozenset(e.strip() for e in (matched[2] or "").split(",") if e.strip())
                todo.append((matched[1], wanted))
    return found


def installed_mb(names: Iterable[str]) -> float:
    """Megabytes (10^6 bytes) of every file of `names` and of what they need, bytecode included."""
    total = 0
    for name in closure(names):
        for file in importlib.metadata.distribution(name).files or []:
            path = Path(str(file.locate()))
            total += path.stat().st_size if path.is_file() else 0
    return total / 1e6


if __name__ == "__main__":
    json.dump({"installed_mb": installed_mb(sys.argv[1:]), "distributions": sorted(closure(sys.argv[1:]))}, sys.stdout)
