"""`.homeroom` zips from outside, read in the decoder: manifest and signature first, then the files that were signed."""

from __future__ import annotations

import hashlib
import os
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from homeroom.contract.manifest import File
from homeroom.contract.manifest_checks import MANIFEST_LIMIT_BYTES
from homeroom.errors import BundleError, DiskFullError, StoreError
from homeroom.system.files import DISK_FULL_ERRNOS, make_directory, open_private, open_regular

BUNDLE_SUFFIX, SECOND_SUFFIX = ".homeroom", ".float32.homeroom"  # of a bundle's file, and of its second file
MANIFEST_FILE, SIGNATURE_FILE = "manifest.json", "signature.json"
SIGNATURE_LIMIT_BYTES = 64 << 10
SIGNED_LIMITS_BYTES = {MANIFEST_FILE: MANIFEST_LIMIT_BYTES, SIGNATURE_FILE: SIGNATURE_LIMIT_BYTES}
ENTRY_LIMIT = 4096
SIZE_LIMIT_BYTES = 8 << 30
READ_BYTES = 1 << 20
GET_AGAIN = "get the bundle again from its source"


def read_signed_zip(source: str) -> tuple[bytes, bytes]:
    """Manifest and signature of a zip, as they stand; BundleError where it is none of a bundle, or leads outside."""
    with _entries(source) as (archive, names):
        if any(name not in names for name in SIGNED_LIMITS_BYTES):
            if source.endswith(SECOND_SUFFIX):
                what, name = "is the second file of a bundle, and nothing alone", source.removesuffix(SECOND_SUFFIX)
                raise BundleError(what, where=source, remedy=f"give {name}{BUNDLE_SUFFIX}, beside which it lies")
            raise BundleError("is a zip, but not of a bundle", where=source, remedy=GET_AGAIN)
        manifest, signature = (_read(archive, names[name], limit) for name, limit in SIGNED_LIMITS_BYTES.items())
        return manifest, signature


def unpack_zip(source: str, into: str, files: dict[str, File]) -> None:
    """Writes the signed files of a zip into a folder, as `copy_signed`."""
    with _entries(source) as (archive, names):
        for name, signed in files.items():
            if name not in names:
                raise BundleError("is missing from the zip", where=name, remedy=GET_AGAIN)
            with archive.open(names[name]) as packed:
                copy_signed(packed, Path(into), name, signed)


def copy_signed(packed: IO[bytes], into: Path, name: str, signed: File) -> None:
    """Writes a file durably while it is hashed, never more than its signed size; BundleError if it is another.

    Raises DiskFullError or StoreError where it cannot be written.
    """
    hasher, remaining_bytes, target = hashlib.sha256(), signed.bytes, into / name
    try:
        make_directory(target.parent)
        with open_private(target, exclusive=True) as file:
            while piece := packed.read(READ_BYTES):
                remaining_bytes -= len(piece)
                if remaining_bytes < 0:
                    raise BundleError("is larger than the manifest says", where=name, remedy="do not use it")
                hasher.update(piece)
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
    except OSError as problem:
        raise not_installed(problem, into) from None
    if remaining_bytes or hasher.hexdigest() != signed.sha256:
        raise BundleError("is not the file that was signed: damaged or altered", where=name, remedy=GET_AGAIN)


def not_installed(problem: OSError, where: Path) -> StoreError:
    """The error of a bundle that cannot be written."""
    if problem.errno in DISK_FULL_ERRNOS:
        return DiskFullError("no space left to install the bundle", where=str(where))
    return StoreError(f"cannot install: {problem.strerror}", where=str(where))


_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    NotImplementedError,  # of a compression that zipfile lacks
    EOFError,
    RuntimeError,
    ValueError,
)


@contextmanager
def _entries(source: str) -> Iterator[tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]]:
    """The files of a zip by name, after checking each name."""
    try:
        with open_regular(Path(source)) as file, zipfile.ZipFile(file) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            _check_entries(entries, source)
            yield archive, {entry.filename: entry for entry in entries}
    except _ZIP_ERRORS as problem:
        raise BundleError(f"is not a readable bundle: {problem}", where=source, remedy=GET_AGAIN) from None
    except OSError as problem:
        raise BundleError(f"cannot be read: {problem.strerror}", where=source, remedy=GET_AGAIN) from None


def _check_entries(entries: list[zipfile.ZipInfo], where: str) -> None:
    if len(entries) > ENTRY_LIMIT or sum(entry.file_size for entry in entries) > SIZE_LIMIT_BYTES:
        raise BundleError("the zip holds more than any bundle does", where=where, remedy="do not use it")
    if len({entry.filename.casefold() for entry in entries}) != len(entries):
        raise BundleError("the zip holds one name twice", where=where, remedy="do not use it")
    for entry in entries:
        path = PurePosixPath(entry.filename)
        if path.is_absolute() or ".." in path.parts or "\\" in entry.filename or ":" in entry.filename:
            raise BundleError(f"{entry.filename!r} leads outside the bundle", where=where, remedy="do not use it")
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise BundleError(f"{entry.filename!r} is a link", where=where, remedy="do not use it")


def _read(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, limit_bytes: int) -> bytes:
    with archive.open(entry) as packed:
        data = packed.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise BundleError(f"is larger than {limit_bytes:,} bytes", where=entry.filename, remedy=GET_AGAIN)
    return data
