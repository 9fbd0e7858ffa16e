"""Downloads in parts: versions of theta, their differences, the bundle as one file.

A part is asked for with Range (RFC 9110, section 14); a file never changes under its address, where one school's
devices may get another theta than others (`school_segments`). Reading versions and comparing them takes a thread of
its own, so that polls are answered meanwhile.
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.types import Message, Receive, Scope, Send

from homeroom.contract import http_signatures
from homeroom.contract.canonical_json import digest, digest_file
from homeroom.contract.delta import make_delta, values_of
from homeroom.runtime.bundle import zip_bundle
from homeroom.runtime.fallback import second_file, zip_second
from homeroom_aggregator.merge.rounds import Rounds
from homeroom_aggregator.state.log import Log
from homeroom_aggregator.state.rewinds import REWINDS
from homeroom_aggregator.state.statistics_totals import StatisticsTotals

DeferredResponse = Callable[[], Response]  # called in the downloads' thread
OCTET_STREAM = "application/octet-stream"
CACHED_FILES, CACHED_BYTES = 8, 64 << 20  # files computed for one device and kept for the next
RANGE_HEADER = re.compile(r"bytes=(\d{1,18})-(\d{0,18})")


class StoredFile(FileResponse):
    """A file or a part of it, signed once its status is known; without a digest: `/v1/keys` names the file's hash.

    sign: the headers that sign an answer of this status and digest.
    """

    sign: Callable[[int, str], Mapping[str, str]]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the file."""

        async def send_signed(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(raw=message["headers"]).update(self.sign(message["status"], ""))
            await send(message)

        await super().__call__(scope, receive, send_signed)


class Downloads:
    """Of one aggregator; `archive` is the bundle's `.homeroom` file, made anew where it is missing, and so is its
    second file beside it, where the folder has that.

    reader: the downloads' own connection, which sees what is durable; used inside `in_thread` only.
    """

    def __init__(self, rounds: Rounds, reader: Log, archive: Path) -> None:
        self.rounds, self.reader, self.archive = rounds, reader, archive
        self._thread = ThreadPoolExecutor(1, "downloads")
        bundle, self.second = rounds.bundle, second_file(archive)
        if not archive.exists():
            zip_bundle(bundle.path, archive, leave_out=bundle.manifest.fallback_files, private=True)
        path = f"/v1/bundles/{bundle.bundle_id}"
        self.bundle, self.fallback = _parcel_of(path, archive), None
        if bundle.fallback_graphs:
            if not self.second.exists():
                zip_second(bundle, self.second, private=True)
            self.fallback = _parcel_of(f"{path}/fallback", self.second)
        self._kept: OrderedDict[tuple[int, int, str], bytes] = OrderedDict()
        self._rewinds = reader.fact(REWINDS)

    async def in_thread(self, work: Callable[[], Response]) -> Response:
        """Run `work` in the downloads' thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def close(self) -> None:
        """End the thread and close its connection."""
        self._thread.shutdown()
        self.reader.close()

    def version(self, number: int, school: str) -> bytes | None:
        """A version's file as the devices of this school get it."""
        if not (school and self.rounds.configuration.by_school):
            return self._cached((number, -1, ""), lambda: self.reader.version(number))
        return self._cached((number, -1, school), lambda: self.rounds.version_in(self.reader, number, school))

    def statistics(self, number: int) -> bytes | None:
        """A release of statistics; None unless it is the one that is served."""
        release = StatisticsTotals(self.reader.database).release()
        return release.body if release.body and release.number == number else None

    def offer(self, after: int, school: str) -> dict[str, Any] | None:
        """The newest version, whole and as a difference if that is smaller, for a device that has version `after`."""
        number = self.reader.newest()
        body = self.version(number, school) if number > after else None
        if body is None:
            return None
        whole = _parcel(f"/v1/versions/{number}", body)
        delta = self.delta(number, after, school)
        part = None if delta is None else _parcel(f"/v1/versions/{number}/from/{after}", delta)
        return {"version": number, "whole": whole, "delta": part}

    def delta(self, number: int, base: int, school: str) -> bytes | None:
        """The difference of version `number` from `base`; None where there is none, or it is no smaller."""
        return self._cached((number, base, school), lambda: self._make(number, base, school)) or None

    def _cached(self, name: tuple[int, int, str], make: Callable[[], bytes | None]) -> bytes | None:
        if (rewinds := self.reader.fact(REWINDS)) != self._rewinds:  # void versions are served no more
            self._kept.clear()
            self._rewinds = rewinds
        body = self._kept.get(name)
        if body is None and (body := make()) is not None:
            self._kept[name] = body
            while len(self._kept) > CACHED_FILES or (
                len(self._kept) > 1 and sum(map(len, self._kept.values())) > CACHED_BYTES
            ):
                self._kept.popitem(last=False)
        return body

    def _make(self, number: int, base: int, school: str) -> bytes | None:
        """None where a version is not there, empty where the difference is no smaller."""
        body, old = self.version(number, school), self._theta(base, school)
        if body is None or old is None or number <= base:
            return None
        delta = make_delta(old, body)
        return delta if len(delta) < len(body) else b""

    def _theta(self, number: int, school: str) -> np.ndarray | None:
        if number == 0:
            return self.rounds.rules.start
        body = self.version(number, school)
        return None if body is None else values_of(body, self.rounds.rules.layout.size)

    def bundle_file(self) -> Response:
        """The bundle's file; starlette serves its parts."""
        return StoredFile(self.archive, media_type=OCTET_STREAM)

    def second_file(self) -> Response | None:
        """The bundle's second file; None where this folder was made without it."""
        return StoredFile(self.second, media_type=OCTET_STREAM) if self.fallback else None


def range_response(request: Request, body: bytes, tag: str) -> Response:
    """The body, or the one part of it that the request's Range names; several parts at once are not served.

    tag: the body's ETag.
    """
    headers = {"etag": tag, "accept-ranges": "bytes"}
    asked = RANGE_HEADER.fullmatch(request.headers.get("range", ""))
    if asked is None or request.headers.get("if-range", tag) != tag:
        headers["content-digest"] = http_signatures.content_digest(body)  # here: it takes long for the event loop
        return Response(body, media_type=OCTET_STREAM, headers=headers)
    first, last = int(asked[1]), min(int(asked[2] or len(body)), len(body) - 1)
    if first > last:
        return Response(status_code=416, headers={**headers, "content-range": f"bytes */{len(body)}"})
    headers["content-range"] = f"bytes {first}-{last}/{len(body)}"
    headers["content-digest"] = http_signatures.content_digest(part := body[first : last + 1])
    return Response(part, 206, media_type=OCTET_STREAM, headers=headers)


def _parcel_of(path: str, file: Path) -> dict[str, Any]:
    return {"path": path, "size": file.stat().st_size, "sha256": digest_file(file)}


def _parcel(path: str, body: bytes) -> dict[str, Any]:
    return {"path": path, "size": len(body), "sha256": digest(body)}
