"""Bounds of the decoder's own process. Windows has none: there the parent watches alone (`decoder.client`)."""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path

MEMORY_LIMIT_BYTES = 448 << 20  # beyond what Python and numpy take

_bounded = False


def bound_memory() -> None:
    """Bounds the address space where the system keeps to it (Linux), and writes no core, which would hold the file."""
    global _bounded
    _bounded = True
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
    """As `bound_time` for the rest of a request; in another process than the decoder it does nothing."""
    if _bounded:
        bound_time(limit_s)


def _lower(kind: int, limit: int) -> None:
    """Sets a soft limit, but not above the hard one."""
    if sys.platform != "win32":
        import resource

        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
