"""Files and folders that their user alone can open, made so before a byte is in them, and written durably.

A durable write goes into a temporary file, which is synced and renamed over the old one. Every file that Homeroom makes
is made here or in `system.sqlite` (`tests/sdk/system/test_modes.py`), but for bundles, which are public.
"""

from __future__ import annotations

import errno
import io
import logging
import logging.handlers
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath

from homeroom.errors import DiskFullError, InputError, StoreError

log = logging.getLogger("homeroom.files")
PRIVATE_FILE_MODE, PRIVATE_FOLDER_MODE, OTHERS = 0o600, 0o700, 0o077
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


def check_folder_of(path: Path) -> None:
    """Raises InputError where the folder that a person's file or folder goes into is not there; it may be mistyped."""
    parent = path.absolute().parent
    if not parent.is_dir():
        what = f"the folder {parent} is not there"
        raise InputError(what, where=str(path), remedy="make it first, or name one that is there")


def make_directory(path: Path) -> None:
    """Makes a directory (mode 0700) and its parents, durably."""
    if path.is_dir():
        return
    make_directory(path.parent)
    try:
        path.mkdir(mode=PRIVATE_FOLDER_MODE, exist_ok=True)
        sync_directory(path.parent)
    except OSError as problem:
        raise refusal(problem, path) from None


def open_private(path: Path, *, exclusive: bool = False) -> io.BufferedWriter:
    """Opens an empty file to write it, with mode 0600 before a byte is in it; OSError as `open`.

    exclusive: FileExistsError where it is there.
    """
    flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_BINARY", 0) | (os.O_EXCL if exclusive else 0)
    file = os.fdopen(os.open(path, flags, PRIVATE_FILE_MODE), "wb")
    if not exclusive:
        close_to_others(path)
        file.truncate()
    return file


def make_private(path: Path) -> None:
    """Makes an empty file with mode 0600 where there is none, for a library that would make it with another."""
    try:
        if not path.exists():
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, PRIVATE_FILE_MODE))
    except OSError as problem:
        raise refusal(problem, path) from None


def close_to_others(path: Path) -> None:
    """Takes a file, or a folder with all in it, from other users, and logs it where they could open it.

    StoreError where it belongs to another user; a file system without modes keeps its own.
    """
    if os.name == "nt":
        return
    opened = []
    for entry in (path, *path.rglob("*")) if path.is_dir() else (path,):
        with suppress(FileNotFoundError):
            status = entry.lstat()
            if status.st_mode & OTHERS and not stat.S_ISLNK(status.st_mode):
                _close(entry, status)
                opened.append(entry.name)
    if opened:
        log.warning(
            "homeroom: %s: other users could open %d entries (%s); now they cannot", path, len(opened), opened[0]
        )


def _close(path: Path, status: os.stat_result) -> None:
    try:
        path.chmod(stat.S_IMODE(status.st_mode) & ~OTHERS)
    except PermissionError:
        if status.st_uid != os.geteuid():
            remedy = "make it this user's own, with chown"
            raise StoreError(
                "belongs to another user, and others can open it", where=str(path), remedy=remedy
            ) from None


class PrivateLogFile(logging.handlers.RotatingFileHandler):
    """A log of bounded size that its user alone can read."""

    def _open(self) -> io.TextIOWrapper:
        make_private(Path(self.baseFilename))
        return super()._open()


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
        with open_private(temporary, exclusive=True) as file:
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
