"""The audit log: what people and the server did, append-only and chained by hashes; imports the store's database.

No subject, no sample, no file name: keys, schools, versions and counts. Entry n's digest is the SHA-256 of the digest
before and of the canonical JSON of n, the time (the server's clock, UTC), the event and what it is about. Whoever notes
a digest can later prove that nothing before it was changed, left out or put in.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from homeroom.contract.canonical_json import canonical, digest
from homeroom.system.clock import now
from homeroom.system.sqlite import Database


@dataclass(frozen=True)
class Record:
    number: int
    at: str
    event: str
    about: Mapping[str, Any]
    digest: str


def stamp() -> str:
    """The server's time, UTC, ISO 8601 to the second."""
    return now().replace(microsecond=0).isoformat()


def record(database: Database, event: str, **about: Any) -> None:
    """Append one entry, in the caller's step where there is one."""
    with database.transaction():
        found = database.one("SELECT number, digest FROM audit ORDER BY number DESC LIMIT 1") or (0, "")
        at, number = stamp(), found[0] + 1
        database.write(
            "INSERT INTO audit (number, at, event, about, digest) VALUES (?, ?, ?, ?, ?)",
            (number, at, event, canonical(about).decode(), _chained(found[1], number, at, event, about)),
        )


def records(database: Database, after: int = 0, most: int = -1) -> Iterator[Record]:
    """In order, those after number `after`."""
    sql = "SELECT number, at, event, about, digest FROM audit WHERE number > ? ORDER BY number LIMIT ?"
    for number, at, event, about, found in database.rows(sql, (after, most)):
        yield Record(number, at, event, json.loads(about), found)


def verify(database: Database) -> tuple[int, str, str | None]:
    """(entries, the newest digest, what is wrong or None)."""
    before, count = "", 0
    for entry in records(database):
        if entry.number != count + 1:
            return count, before, f"entry {count + 1} is missing"
        if entry.digest != _chained(before, entry.number, entry.at, entry.event, entry.about):
            return count, before, f"entry {entry.number} is not as it was written"
        before, count = entry.digest, entry.number
    return count, before, None


def _chained(before: str, number: int, at: str, event: str, about: Mapping[str, Any]) -> str:
    return digest(before.encode() + canonical([number, at, event, dict(about)]))
