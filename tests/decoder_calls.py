"""Functions that tests have the decoder call: what a library at fault does."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from homeroom.data.decoder.limits import narrow_time


def crash(data: bytes) -> int:
    """Ends the process, as a fault in a library does."""
    os.kill(os.getpid(), 11)
    return len(data)


def sleep(seconds: float) -> int:
    time.sleep(seconds)
    return 1


def hoard(size_bytes: int) -> int:
    return len(bytearray(size_bytes))


def leave(code: int) -> int:
    os._exit(code)


def wrong_type(size: int) -> str:
    return size  # type: ignore[return-value]


def trickle(count: int, seconds: float) -> Iterator[str]:
    """Items so long that each is sent by itself, each after a while."""
    for number in range(count):
        time.sleep(seconds)
        yield f"{number:5}" * 1_000_000


def burn(limit_s: float) -> int:
    """Computes for ever after it has narrowed its time."""
    narrow_time(limit_s)
    while True:
        pass


def rest(limit_s: float, seconds: float) -> int:
    """Waits after it has narrowed its time, which waiting does not take."""
    narrow_time(limit_s)
    time.sleep(seconds)
    return 1
