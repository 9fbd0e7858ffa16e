"""Large arrays go back to the system when they are freed: matters where a process may hold 200 MB; standard library."""

from __future__ import annotations

import ctypes
import sys
from functools import cache

M_MMAP_THRESHOLD = -3
THRESHOLD_BYTES = 128 << 10


@cache
def give_back() -> bool:
    """Fix glibc's mmap threshold, which else rises with use and leaves freed arrays with the process.

    Features of 2,239 short answers: peak 165 MB in place of 337 MB, for a tenth more processor time. Other systems'
    allocators need no such word; returns whether it was said.
    """
    if sys.platform != "linux":
        return False
    try:
        return bool(ctypes.CDLL("libc.so.6").mallopt(M_MMAP_THRESHOLD, THRESHOLD_BYTES))
    except (OSError, AttributeError):  # another C library
        return False


def trim() -> None:
    """Give freed memory back now (glibc), so that a measurement counts what is used."""
    if give_back():
        ctypes.CDLL("libc.so.6").malloc_trim(0)
