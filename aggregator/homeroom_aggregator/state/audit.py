"""The audit log: what people and the server did, append-only and chained by hashes.

It holds keys, schools, versions and counts; no subject, no sample, no file name. Entry n's digest is the SHA-256 of
the digest before and of the canonical JSON of n, the time (the server's clock, UTC), the event and its details. Whoever
notes a digest can later prove that no entry before it was changed, left out or put in.
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
class AuditRecord:
    """One entry. `about`: the details of the event; `digest`: of the chain up to it, hexadecimal."""

    number: int
    at: str
    event: str
    about: Mapping[str, Any]
    digest: str


def timestamp() -> str:
    """The server's time, UTC, ISO 8601 to the second."""
    return now().replace(microsecond=0).isoformat()


def record(database: Database, event: str, **about: Any) -> None:
    """Appends one entry, in the caller's transaction where there is one."""
    with database.transaction():
        last, before = database.one("SELECT number, digest FROM audit ORDER BY number DESC LIMIT 1") or (0, "")
        at, number = timestamp(), last + 1
        database.write(
            "INSERT INTO audit (number, at, event, about, digest) VALUES (?, ?, ?, ?, ?)",
            (number, at, event, canonical(about).decode(), _chained(before, number, at, event, about)),
        )


def records(database: Database, after: int = 0, most: int = -1) -> Iterator[AuditRecord]:
    """Entries after number `after`, in order; at most `most` of them, all if it is -1."""
    sql = "SELECT number, at, event, about, digest FROM audit WHERE number > ? ORDER BY number LIMIT ?"
    for number, at, event, about, chained in database.rows(sql, (after, most)):
        yield AuditRecord(number, at, event, json.loads(about), chained)


def newest_time(database: Database) -> str:
    """When the newest entry was written; "" where there is none."""
    row = database.one("SELECT at FROM audit ORDER BY number DESC LIMIT 1")
    return str(row[0]) if row else ""


def verify(database: Database) -> tuple[int, str, str | None]:
    """Checks the chain; returns (number of entries, the newest digest, a sentence about an error or None)."""
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
