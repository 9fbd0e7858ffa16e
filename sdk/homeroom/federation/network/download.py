"""A file that comes in pieces: continued after any break, believed once its hash holds; imports network and durable.

What came so far lies beside, under the hash of what it is to become, so that pieces of two things never mix. Every
SYNC_BYTES are synced; what a new process finds beyond the last whole such piece may be what a power cut left, and comes
again.
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
from homeroom.errors import DiskFullError, NetworkError
from homeroom.federation.network.transport import ReadBody, Response, read_bounded, refuse_stalling
from homeroom.system.files import make_directory, refusal, sync_directory

FSYNC_INTERVAL_BYTES = 256 << 10
SPARE_BYTES = 16 << 20  # of the disk that a download leaves free
ERROR_LIMIT_BYTES = 1 << 16


class DownloadOffer(msgspec.Struct, frozen=True, kw_only=True):
    """Something to fetch, as a server offers it; nothing in it is believed but that what comes must fit."""

    path: Annotated[str, msgspec.Meta(pattern=r"^/v1/[0-9a-z/.]{1,160}$")]
    size: Annotated[int, msgspec.Meta(ge=1)]
    sha256: Hash


Headers = Callable[[], Mapping[str, str]]
Fetch = Callable[[str, Headers, ReadBody], Response]


def download(parcel: DownloadOffer, folder: Path, kind: str, limit_bytes: int, fetch: Fetch) -> Path:
    """The whole file, in `folder`, for the caller to use and remove; one unfinished file of a kind is kept.

    fetch: sends GET for a path with these headers, made anew for each attempt, and lets a function read the answer.
    Raises NetworkError, with what came so far kept for the next time; DiskFullError before the disk is full.
    """
    where = parcel.path
    if parcel.size > limit_bytes:
        raise NetworkError(f"{parcel.size:,} bytes are more than the {limit_bytes:,} allowed", where=where)
    make_directory(folder)
    place = folder / f"{kind}-{parcel.sha256}.part"
    for other in folder.glob(f"{kind}-*.part"):
        if other != place:
            other.unlink()
    _check_room(folder, parcel.size - _size(place))
    if _size(place) < parcel.size:
        _truncate(place, _size(place) // FSYNC_INTERVAL_BYTES * FSYNC_INTERVAL_BYTES)
    while (have := _size(place)) < parcel.size:
        try:
            answer = fetch(parcel.path, lambda: _range_header(place), _reader(place, parcel))
        except NetworkError:
            if _size(place) <= have:
                raise
            continue
        if _size(place) <= have:
            raise NetworkError(f"answered with status {answer.status} in place of the rest", where=where)
    if digest_file(place) != parcel.sha256:
        place.unlink()
        raise NetworkError("is not what was offered; it is fetched anew the next time", where=where)
    return place


def read_and_remove(place: Path) -> bytes:
    """The content of a downloaded file, which is then removed."""
    data = place.read_bytes()
    place.unlink()
    return data


def _range_header(place: Path) -> Mapping[str, str]:
    have = _size(place)
    return {"range": f"bytes={have}-"} if have else {}


def _reader(place: Path, parcel: DownloadOffer) -> ReadBody:
    def read(response: httpx.Response) -> bytes:
        if response.status_code not in (200, 206):
            return read_bounded(ERROR_LIMIT_BYTES, parcel.path)(response)
        start = _part_start(response)
        if start > _size(place):
            raise NetworkError("sends another part than was asked for", where=parcel.path)
        _truncate(place, start)
        try:
            with place.open("ab") as file:
                _write(file, response, parcel.size - start)
        except OSError as problem:
            error = refusal(problem, place)
            if isinstance(error, DiskFullError):
                place.unlink(missing_ok=True)  # what is here needs the room more
            raise error from None
        if start == 0:
            sync_directory(place.parent)
        return b""

    return read


def _write(file: BinaryIO, response: httpx.Response, left: int) -> None:
    unsynced = 0
    try:
        for part in refuse_stalling(response.iter_bytes()):
            if len(part) > left:
                raise NetworkError("sends more than was offered")
            file.write(part)
            left, unsynced = left - len(part), unsynced + len(part)
            if unsynced >= FSYNC_INTERVAL_BYTES:
                file.flush()
                os.fsync(file.fileno())
                unsynced = 0
    finally:
        file.flush()
        os.fsync(file.fileno())


def _part_start(response: httpx.Response) -> int:
    """Where the part that came begins; a server without ranges sends all of it."""
    if response.status_code == 200:
        return 0
    unit, _, rest = response.headers.get("content-range", "").partition(" ")
    first = rest.partition("-")[0]
    if unit != "bytes" or not (first.isascii() and first.isdigit()):
        raise NetworkError("sends a part without saying which")
    return int(first[:18])


def _size(place: Path) -> int:
    try:
        return place.stat().st_size
    except FileNotFoundError:
        return 0


def _truncate(place: Path, size: int) -> None:
    if _size(place) > size:
        with place.open("r+b") as file:
            file.truncate(size)
            os.fsync(file.fileno())


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed + SPARE_BYTES:
        raise DiskFullError(
            f"{needed:,} bytes are to come, {free:,} are free; nothing was changed",
            where=str(folder),
            remedy="free some space, try again",
        )
