"""A mark of the entry that is being read, so that one that kills its reader is known at the next start.

The mark is written before the try and removed after it, however it ends; only the end of the process leaves it.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec

from homeroom.system.clock import timestamp
from homeroom.system.files import read_small, write_durable

TOO_LONG_EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h
ENDED = (
    "its reader ended without a word (a crash, too little memory, too long a time, or the power went); "
    "give it back to have it tried again"
)


class Attempt(msgspec.Struct, frozen=True):
    """The entry that was being read, and since when."""

    name: str
    at: str


@contextlib.contextmanager
def attempt(mark: Path, name: str, limit_s: float | None = None) -> Iterator[None]:
    """Keeps a mark with an entry's name in a file while the entry is read.

    limit_s: after which this process ends, for a service that is then started again; None is no limit.
    """
    write_durable(mark, msgspec.json.encode(Attempt(name, timestamp())))
    watch = threading.Timer(limit_s or 0.0, os._exit, (TOO_LONG_EXIT_CODE,))
    watch.daemon = True
    if limit_s is not None:
        watch.start()
    try:
        yield
    finally:
        watch.cancel()
        mark.unlink(missing_ok=True)


def cut_short(mark: Path) -> Attempt | None:
    """The entry whose reader ended with its process; None if there is none."""
    with contextlib.suppress(OSError, msgspec.DecodeError):
        return msgspec.json.decode(read_small(mark), type=Attempt)
    return None
