"""Durable file writes: a temporary file is written and synced, then renamed over the old one."""

from __future__ import annotations

import errno
import io
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath

from homeroom.errors import DiskFullError, StoreError

SMALL_FILE_LIMIT_BYTES = 1 << 20
DISK_FULL_ERRNOS = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


def refusal(problem: OSError, where: Path) -> StoreError:
    """The StoreError or DiskFullError for an operating system error while writing `where`."""
    if problem.errno in DISK_FULL_ERRNOS:
        return DiskFullError(
            "no space left; nothing was changed", where=str(where), remedy="free some space, try again"
        )
    if problem.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return StoreError("cannot be written here", where=str(where), remedy="make it writable for this user")
    return StoreError(f"cannot be written: {problem.strerror}", where=str(where), remedy="check the disk")


def sync_directory(path: Path) -> None:
    """Makes renames and deletions in a directory durable. Windows cannot sync directories: nothing happens there."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path) -> None:
    """Creates a directory (mode 0700) and its parents, durably."""
    if path.is_dir():
        return
    make_directory(path.parent)
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        sync_directory(path.parent)
    except OSError as problem:
        raise refusal(problem, path) from None


def open_regular(path: Path) -> io.BufferedReader:
    """Opens a file to read it; OSError for a folder, pipe or device, which could block or never end."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    return _regular(os.open(path, flags), path)


def open_below(folder: Path, name: str | Path) -> io.BufferedReader:
    """Opens a file below a folder that somebody else filled; OSError as `open_regular`.

    PermissionError where the name is absolute or leads out of the folder, or where any part of it is a link.
    """
    relative = PurePath(name)
    if relative.anchor or ".." in relative.parts:
        raise PermissionError(errno.EACCES, "it leads out of its own folder", str(name))
    if sys.platform == "win32":  # without openat: a link made in between is followed
        if any((folder / part).is_symlink() for part in (relative, *relative.parents)[:-1]):
            raise PermissionError(errno.EACCES, "it is a link", str(name))
        return open_regular(folder / relative)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    for number, part in enumerate(relative.parts, 1):
        flags = os.O_DIRECTORY if number < len(relative.parts) else os.O_NONBLOCK
        try:
            inner = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | flags, dir_fd=descriptor)
        except OSError as problem:
            if problem.errno == errno.ELOOP or (folder / Path(*relative.parts[:number])).is_symlink():
                raise PermissionError(errno.EACCES, "it is a link", str(name)) from None
            raise
        finally:
            os.close(descriptor)
        descriptor = inner
    return _regular(descriptor, folder / relative)


def _regular(descriptor: int, path: Path) -> io.BufferedReader:
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return open(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "it is a pipe or a device, not a file", str(path))


def read_bounded(path: Path, limit_bytes: int) -> bytes:
    """At most `limit_bytes` + 1 bytes of a regular file, so that the caller can refuse more; OSError as above."""
    return _read(open_regular(path), limit_bytes)


def read_below(folder: Path, name: str | Path, limit_bytes: int) -> bytes:
    """As `read_bounded`, of a file that `open_below` opens."""
    return _read(open_below(folder, name), limit_bytes)


def read_small(path: Path, limit_bytes: int = SMALL_FILE_LIMIT_BYTES) -> bytes:
    """The content of a small file, such as a key or a status; OSError (EFBIG) where it is larger."""
    data = read_bounded(path, limit_bytes)
    if len(data) > limit_bytes:
        raise OSError(errno.EFBIG, f"it is larger than {limit_bytes:,} bytes", str(path))
    return data


def _read(file: io.BufferedReader, limit_bytes: int) -> bytes:
    with file:
        size = max(os.fstat(file.fileno()).st_size, 1 << 16)  # some systems' files say 0
        return file.read(min(limit_bytes, size) + 1)


@contextmanager
def removed_on_failure(folder: Path) -> Iterator[None]:
    """On an exception, removes `folder` and those of its parents that did not exist before."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    except BaseException:
        if missing:
            shutil.rmtree(missing[-1], ignore_errors=True)
        raise


def write_durable(path: Path, data: bytes) -> None:
    """Replaces a file's content durably; after a power cut the file holds all of the old content or all of the new.

    Raises StoreError, or DiskFullError where there is no space.
    """
    make_directory(path.parent)
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.new")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        replace_durable(temporary, path)
    except OSError as problem:
        temporary.unlink(missing_ok=True)
        raise refusal(problem, path) from None


def replace_durable(source: Path, target: Path) -> None:
    """Renames a synced file over another, durably."""
    os.replace(source, target)
    sync_directory(target.parent)
