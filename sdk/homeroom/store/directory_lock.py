"""The lock of a device directory: one process at a time changes it, and a note beside the lock says which."""

from __future__ import annotations

import contextlib
import datetime
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec

from homeroom.errors import Code, StoreError
from homeroom.system import clock
from homeroom.system.files import open_private, read_small
from homeroom.system.sqlite import lock_file

HOLDER_FILE = "holder.json"
CLOCK_TOLERANCE_S = 2.0  # of a process's start, which systems round


class Holder(msgspec.Struct, frozen=True):
    """The process that holds a lock, by number, and since when; no command line, which may name a pupil."""

    pid: int
    since: datetime.datetime


def take_lock(directory: Path) -> sqlite3.Connection:
    """Locks a directory for this process; StoreError (`in_use`), which names the holder, if another has it."""
    try:
        lock = lock_file(directory / "lock", where=directory)
    except StoreError as problem:
        raise in_use_error(directory) if problem.code == Code.IN_USE else problem from None
    with contextlib.suppress(OSError), open_private(directory / HOLDER_FILE) as file:
        file.write(msgspec.json.encode(Holder(os.getpid(), clock.now())))
    return lock


def release_lock(directory: Path, lock: sqlite3.Connection) -> None:
    """Unlocks a directory, and removes the note."""
    with contextlib.suppress(OSError):
        directory.joinpath(HOLDER_FILE).unlink(missing_ok=True)
    lock.close()


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keeps other processes out of a device directory."""
    lock = take_lock(directory)
    try:
        yield
    finally:
        release_lock(directory, lock)


def in_use_error(directory: Path) -> StoreError:
    """The error of a directory that another process has open."""
    return StoreError(
        f"is in use by {_holder(directory)}",
        code=Code.IN_USE,
        where=str(directory),
        remedy="wait until it ends, or stop it; `Device.read` answers meanwhile",
    )


def _holder(directory: Path) -> str:
    """The holder in words; without its number where the note is not of a process that runs."""
    import psutil  # 10 ms: only where a directory is in use

    with contextlib.suppress(OSError, msgspec.DecodeError, psutil.Error):
        holder = msgspec.json.decode(read_small(directory / HOLDER_FILE), type=Holder)
        process = psutil.Process(holder.pid)
        if process.create_time() <= holder.since.timestamp() + CLOCK_TOLERANCE_S:
            since = f"since {holder.since:%H:%M} UTC"
            own = holder.pid == os.getpid()
            return f"this process, {since}" if own else f"another process ({process.name()}, {holder.pid}, {since})"
    return "another process"
