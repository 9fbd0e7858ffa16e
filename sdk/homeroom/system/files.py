"""Files that survive a power cut: written beside, synced, then renamed; imports errors only."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from homeroom.errors import DiskFullError, StoreError

DISK_FULL_ERRNOS = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


def refusal(problem: OSError, where: Path) -> StoreError:
    """The error that a user can act on, for an operating system error while writing `where`."""
    if problem.errno in DISK_FULL_ERRNOS:
        return DiskFullError(
            "no space left; nothing was changed", where=str(where), remedy="free some space, try again"
        )
    if problem.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return StoreError("cannot be written here", where=str(where), remedy="make it writable for this user")
    return StoreError(f"cannot be written: {problem.strerror}", where=str(where), remedy="check the disk")


def sync_directory(path: Path) -> None:
    """Make renames and deletions in a directory durable; where directories cannot be synced (Windows) do nothing."""
    if os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_directory(path: Path) -> None:
    """Create a directory, private to this user, and its parents, durably."""
    if path.is_dir():
        return
    make_directory(path.parent)
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        sync_directory(path.parent)
    except OSError as problem:
        raise refusal(problem, path) from None


@contextmanager
def whole_or_gone(folder: Path) -> Iterator[None]:
    """Where the work in it fails, a folder that was not there before goes again, and so do the parents made for it."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    except BaseException:
        if made:
            shutil.rmtree(made[-1], ignore_errors=True)
        raise


def write_durable(path: Path, data: bytes) -> None:
    """Replace a file's content: afterwards, and after a power cut at any moment, it is all old or all new."""
    make_directory(path.parent)
    beside = path.with_name(f"{path.name}.{secrets.token_hex(4)}.new")
    try:
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        replace_durable(beside, path)
    except OSError as problem:
        beside.unlink(missing_ok=True)
        raise refusal(problem, path) from None


def replace_durable(source: Path, target: Path) -> None:
    """Rename a synced file over another, durably."""
    os.replace(source, target)
    sync_directory(target.parent)
