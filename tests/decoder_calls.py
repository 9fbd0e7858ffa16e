"""Functions that tests have the decoder call: what a library at fault does."""

from __future__ import annotations

import os
import time


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
