"""Bounds of the decoder's own process. Windows has none: there the parent watches alone (`decoder.client`)."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

MEMORY_LIMIT_BYTES = 448 << 20  # beyond what Python and numpy take
BOUNDS_TIME = sys.platform != "win32"  # whether the system bounds a process's processor time

_tell: Callable[[float], object] | None = None  # None in another process than the decoder


def bound_memory(tell: Callable[[float], object]) -> None:
    """Bounds the address space where the system keeps to it (Linux), and writes no core, which would hold the file.

    tell: has the parent end this process after so much more processor time, in seconds
    """
    global _tell
    _tell = tell
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if sys.platform == "linux":
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            _lower(resource.RLIMIT_AS, pages * resource.getpagesize() + MEMORY_LIMIT_BYTES)


def bound_time(limit_s: float) -> None:
    """Ends this process (SIGXCPU) after so much processor time from now on, where the parent cannot."""
    if sys.platform != "win32":
        import resource

        _lower(resource.RLIMIT_CPU, math.ceil(time.process_time() + limit_s))


def narrow_time(limit_s: float) -> None:
    """Bounds the rest of a request, by the parent where the system cannot; nothing outside of the decoder."""
    if _tell is not None:
        (bound_time if BOUNDS_TIME else _tell)(limit_s)


def _lower(kind: int, limit: int) -> None:
    """Sets a soft limit, but not above the hard one."""
    if sys.platform != "win32":
        import resource

        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
