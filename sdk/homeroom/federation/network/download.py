"""Downloads a file with range requests (RFC 9110, section 14), resumed after any break, and checks its hash.

The unfinished file is named by the hash of the whole, so that parts of two files never mix. It is synced every
FSYNC_INTERVAL_BYTES; a new process fetches again what lies beyond the last whole interval, which a power cut may have
damaged.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, BinaryIO

import httpx
import msgspec

from homeroom.contract.canonical_json import digest_file
from homeroom.contract.manifest import Hash
from homeroom.contract.version import VERSION_LIMIT_BYTES
from homeroom.errors import DiskFullError, NetworkError
from homeroom.federation.network.transport import ReadBody, Response, read_bounded, refuse_stalling
from homeroom.system.files import make_directory, make_private, read_small, refusal, sync_directory

FSYNC_INTERVAL_BYTES = 256 << 10
SPARE_BYTES = 16 << 20  # of the disk that a download leaves free
ERROR_LIMIT_BYTES = 1 << 16


class DownloadOffer(msgspec.Struct, frozen=True, kw_only=True):
    """A file that a server offers: its path, size in bytes and SHA-256, which the download must match."""

    path: Annotated[str, msgspec.Meta(pattern=r"^/v1/[0-9a-z/.]{1,160}$")]
    size: Annotated[int, msgspec.Meta(ge=1)]
    sha256: Hash


Headers = Callable[[], Mapping[str, str]]
Fetch = Callable[[str, Headers, ReadBody], Response]
Tell = Callable[[int], None]  # is told how many bytes are here


def download(offer: DownloadOffer, folder: Path, kind: str, limit_bytes: int, fetch: Fetch) -> Path:
    """Downloads an offered file into a folder and returns its path; the caller removes it.

    Raises NetworkError, with the part that came kept for the next time; DiskFullError before the disk is full.

    offer: the server's.
    folder: made if need be.
    kind: of the file; one unfinished file of a kind is kept.
    limit_bytes: refused above.
    fetch: sends GET for a path with headers made for each attempt, and lets a function read the body.
    """
    where = offer.path
    if offer.size > limit_bytes:
        raise NetworkError(f"{offer.size:,} bytes are more than the {limit_bytes:,} allowed", where=where)
    make_directory(folder)
    path = folder / f"{kind}-{offer.sha256}.part"
    for other in folder.glob(f"{kind}-*.part"):
        if other != path:
            other.unlink()
    receive(path, offer.size, where, lambda headers, read: fetch(where, headers, read))
    if digest_file(path) != offer.sha256:
        path.unlink()
        raise NetworkError("is not what was offered; it is fetched anew the next time", where=where)
    return path


def receive(
    path: Path,
    size: int,
    where: str,
    fetch: Callable[[Headers, ReadBody], Response],
    tell: Tell = lambda _: None,
) -> None:
    """Completes a file of `size` bytes from where it ends; errors as of `download`. The caller checks the content.

    path: of the unfinished file, in a folder that is there.
    where: it comes from, for errors.
    fetch: sends GET with headers made for each attempt, and lets a function read the body.
    tell: is called with the bytes that are here.
    """
    needed, free = size - _size(path), shutil.disk_usage(path.parent).free
    if free < needed + SPARE_BYTES:
        what = f"{needed:,} bytes are to come, {free:,} are free; nothing was changed"
        raise DiskFullError(what, where=str(path.parent), remedy="free some space, try again")
    if _size(path) < size:
        _truncate(path, _size(path) // FSYNC_INTERVAL_BYTES * FSYNC_INTERVAL_BYTES)
    while (received := _size(path)) < size:
        try:
            response = fetch(lambda: _range_header(path), _reader(path, size, where, tell))
        except NetworkError:
            if _size(path) <= received:
                raise
            continue
        if _size(path) <= received:
            raise NetworkError(f"answered with status {response.status} in place of the rest", where=where)


def read_and_remove(path: Path) -> bytes:
    """Reads a downloaded version and removes its file."""
    data = read_small(path, VERSION_LIMIT_BYTES)
    path.unlink()
    return data


def _range_header(path: Path) -> Mapping[str, str]:
    received = _size(path)
    return {"range": f"bytes={received}-"} if received else {}


def _reader(path: Path, size: int, where: str, tell: Tell) -> ReadBody:
    def read(response: httpx.Response) -> bytes:
        if response.status_code not in (200, 206):
            return read_bounded(ERROR_LIMIT_BYTES, where)(response)
        start = _part_start(response)
        if start > _size(path):
            raise NetworkError("sends another part than was asked for", where=where)
        _truncate(path, start)
        try:
            make_private(path)
            with path.open("r+b") as file:
                file.seek(start)
                _write(file, response, size - start, lambda left: tell(size - left))
        except OSError as problem:
            error = refusal(problem, path)
            if isinstance(error, DiskFullError):
                path.unlink(missing_ok=True)  # what is here needs the room more
            raise error from None
        if start == 0:
            sync_directory(path.parent)
        return b""

    return read


def _write(file: BinaryIO, response: httpx.Response, left: int, tell: Tell) -> None:
    """Writes a body of at most `left` bytes; `tell` is called with how many are still to come."""
    unsynced = 0
    try:
        for part in refuse_stalling(response.iter_bytes()):
            if len(part) > left:
                raise NetworkError("sends more than was offered")
            file.write(part)
            left, unsynced = left - len(part), unsynced + len(part)
            tell(left)
            if unsynced >= FSYNC_INTERVAL_BYTES:
                file.flush()
                os.fsync(file.fileno())
                unsynced = 0
    finally:
        file.flush()
        os.fsync(file.fileno())


def _part_start(response: httpx.Response) -> int:
    """Offset of the part that a response holds; 0 where the server ignores ranges."""
    if response.status_code == 200:
        return 0
    unit, _, rest = response.headers.get("content-range", "").partition(" ")
    first = rest.partition("-")[0]
    if unit != "bytes" or not (first.isascii() and first.isdigit()):
        raise NetworkError("sends a part without saying which")
    return int(first[:18])


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _truncate(path: Path, size: int) -> None:
    if _size(path) > size:
        with path.open("r+b") as file:
            file.truncate(size)
            os.fsync(file.fileno())
