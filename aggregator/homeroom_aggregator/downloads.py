"""What devices fetch in pieces: versions of theta, their differences, the bundle as one file; starlette.

A part is asked for with Range (RFC 9110, section 14); what is handed out never changes under its address.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from homeroom.bundle import zip_bundle
from homeroom.contract.canonical import digest, digest_file
from homeroom.contract.delta import make_delta, values_of
from homeroom_aggregator.log import Log
from homeroom_aggregator.rounds import Rounds

BINARY = "application/octet-stream"
KEPT_DELTAS = 8  # computed for one device, handed to the next
PART = re.compile(r"bytes=(\d{1,18})-(\d{0,18})")


class Downloads:
    """Of one aggregator; `archive` is the bundle's `.homeroom` file, made anew where it is missing.

    reader: the event loop's own connection, which sees what is durable.
    """

    def __init__(self, rounds: Rounds, reader: Log, archive: Path) -> None:
        self.rounds, self.reader, self.archive = rounds, reader, archive
        if not archive.exists():
            zip_bundle(rounds.bundle.path, archive)
        path = f"/v1/bundles/{rounds.bundle.bundle_id}"
        self.bundle = {"path": path, "size": archive.stat().st_size, "sha256": digest_file(archive)}
        self._deltas: OrderedDict[tuple[int, int], bytes | None] = OrderedDict()

    def offer(self, after: int) -> dict[str, Any] | None:
        """What a device that has version `after` may fetch: the newest one, whole and as a difference if that helps."""
        number = self.reader.newest()
        body = self.reader.version(number) if number > after else None
        if body is None:
            return None
        whole = _parcel(f"/v1/versions/{number}", body)
        delta = self.delta(number, after)
        part = None if delta is None else _parcel(f"/v1/versions/{number}/from/{after}", delta)
        return {"version": number, "whole": whole, "delta": part}

    def delta(self, number: int, base: int) -> bytes | None:
        """The difference of version `number` from `base`; None where there is none, or it is no smaller."""
        if (number, base) not in self._deltas:
            self._deltas[number, base] = self._make(number, base)
            while len(self._deltas) > KEPT_DELTAS:
                self._deltas.popitem(last=False)
        return self._deltas[number, base]

    def _make(self, number: int, base: int) -> bytes | None:
        body, old = self.reader.version(number), self._theta(base)
        if body is None or old is None or number <= base:
            return None
        delta = make_delta(old, body)
        return delta if len(delta) < len(body) else None

    def _theta(self, number: int) -> np.ndarray | None:
        if number == 0:
            return self.rounds.rules.start
        body = self.reader.version(number)
        return None if body is None else values_of(body, self.rounds.rules.layout.size)

    def bundle_file(self) -> Response:
        return FileResponse(self.archive, media_type=BINARY)


def ranged(request: Request, body: bytes, tag: str) -> Response:
    """All of `body`, or the one part that is asked for; several parts at once are not served."""
    headers = {"etag": tag, "accept-ranges": "bytes"}
    asked = PART.fullmatch(request.headers.get("range", ""))
    if asked is None or request.headers.get("if-range", tag) != tag:
        return Response(body, media_type=BINARY, headers=headers)
    first, last = int(asked[1]), min(int(asked[2] or len(body)), len(body) - 1)
    if first > last:
        return Response(status_code=416, headers={**headers, "content-range": f"bytes */{len(body)}"})
    headers["content-range"] = f"bytes {first}-{last}/{len(body)}"
    return Response(body[first : last + 1], 206, media_type=BINARY, headers=headers)


def _parcel(path: str, body: bytes) -> dict[str, Any]:
    return {"path": path, "size": len(body), "sha256": digest(body)}
