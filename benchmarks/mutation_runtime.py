"""What an instrumented check calls: notes that it refused, and lets pass what it would refuse while it is removed.

`benchmarks/mutations.py` copies this file into the package `homeroom` of its copy of the house. The file `state` beside
the copy holds two integers for every process of a test: the removed check (-1: none), and how many runs began.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[3]
with open(FOLDER / "state", "rb") as _file:
    _state = memoryview(mmap.mmap(_file.fileno(), 16, access=mmap.ACCESS_READ)).cast("q")
_noted: set[tuple[int, int]] = set()


def condition(check: int, value: Any, neutral: bool) -> Any:
    """The value of a condition; `neutral`, which refuses nothing, while the check is removed."""
    try:
        differs = bool(value) != neutral
    except ValueError:  # an array: some of its values may differ
        differs = not (value == neutral).all()
    if differs:
        note(check)
        if _state[0] == check:
            return neutral if isinstance(value, bool) or not hasattr(value, "all") else value == value
    return value


def removed(check: int) -> bool:
    """Whether a call that checks is left out."""
    return bool(_state[0] == check)


def note(check: int) -> None:
    """Writes down, once a process and test, that a check refused."""
    if (check, _state[1]) not in _noted:
        _noted.add((check, _state[1]))
        with contextlib.suppress(OSError):  # a process that may open no file
            log = os.open(FOLDER / "log", os.O_WRONLY | os.O_APPEND)
            os.write(log, b"%d\n" % check)
            os.close(log)
