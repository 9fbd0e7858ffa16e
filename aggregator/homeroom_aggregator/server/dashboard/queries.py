"""What the pages say of versions, segments, waiting updates and the audit log, read from log.db; imports log's tables.

Every figure is counted here and now from the log; nothing is estimated. Dates come from the audit log, which older logs
began later: where it does not know, nothing is said.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from homeroom.contract.layout import Segment, segment_of
from homeroom.contract.policy import narrowed
from homeroom.system.sqlite import Database
from homeroom_aggregator.merge.rounds import Rounds
from homeroom_aggregator.state import audit, secure_sum

VERSION_EVENTS = ("released", "rolled back", "restored")  # audit events that made a version


@dataclass(frozen=True)
class VersionRow:
    """`devices`: by segment, how many fed its change. `updates` came since the version before, from `senders` devices.

    `to`: the older version whose theta it has, with who went back and why. `after`: the one before it in a backup that
    was put back; it has that one's theta.
    """

    number: int
    at: str
    devices: Mapping[str, int]
    updates: int
    senders: int
    sha256: str
    to: int | None = None
    by: str = ""
    why: str = ""
    after: int | None = None


@dataclass(frozen=True)
class PendingUpdates:
    """What the next version has so far: updates of those it needs, and by segment who fed it."""

    updates: int
    needed: int
    fed: Mapping[str, frozenset[str]]

    @property
    def members(self) -> frozenset[str]:
        return frozenset().union(*self.fed.values())


@dataclass(frozen=True)
class SegmentRow:
    """`history`: (version, devices that fed it), the newest first; `changed` the newest version that changed it."""

    segment: Segment
    merged: bool
    waiting: int
    history: Sequence[tuple[int, int]]
    changed: VersionRow | None


@dataclass(frozen=True)
class AuditChain:
    """How the audit log stands: entries, the newest digest, what is wrong with it."""

    entries: int
    newest: str
    wrong: str | None


def pending_updates(rounds: Rounds) -> PendingUpdates:
    """In the writer's thread, since sums change in place."""
    fed: dict[str, frozenset[str]] = {}
    for ring, devices in rounds.state.sums.devices.items():
        fed[segment_of(ring)] = fed.get(segment_of(ring), frozenset()) | devices
    return PendingUpdates(rounds.state.pending, rounds.configuration.buffer_size, fed)


def newest(database: Database) -> int:
    return int(database.one("SELECT COALESCE(max(version), 0) FROM versions")[0])


def versions(database: Database, most: int, before: int | None = None) -> list[VersionRow]:
    """The newest first, those below `before`."""
    below = before if before is not None else newest(database) + 1
    sql = """SELECT version, number, (SELECT max(number) FROM log AS older
                 WHERE older.kind IN ('release', 'private_release') AND older.number < versions.number)
             FROM versions WHERE version < ? ORDER BY version DESC LIMIT ?"""
    rows = database.rows(sql, (below, most))
    about = _made(database, rows[-1][0], rows[0][0]) if rows else {}
    found = []
    for number, entry, start in rows:
        at, event = about.get(number, ("", {}))
        again = bool(event) and "devices" not in event  # nothing was merged for it
        updates, senders = (0, 0) if again else _came(database, start or 0, entry)
        told = {name: event[name] for name in ("to", "by", "why", "after") if name in event}
        devices, sha256 = event.get("devices", {}), event.get("sha256", "")
        found.append(VersionRow(number, at, devices, updates, senders, sha256, **told))
    return found


def _made(database: Database, first: int, last: int) -> dict[int, tuple[str, dict[str, Any]]]:
    """What the audit log says of the versions from `first` to `last`: when, and about them."""
    sql = """SELECT at, about FROM audit WHERE event IN (?, ?, ?)
             AND json_extract(about, '$.version') BETWEEN ? AND ? ORDER BY number"""
    events = ((at, json.loads(about)) for at, about in database.rows(sql, (*VERSION_EVENTS, first, last)))
    return {event["version"]: (at, event) for at, event in events}


def _came(database: Database, after: int, until: int) -> tuple[int, int]:
    """Updates that came between two entries, those in secure sums included, and how many devices sent them."""
    sql = "SELECT device FROM log WHERE kind = 'update' AND number > ? AND number < ?"
    plain = [device for (device,) in database.rows(sql, (after, until))]
    for header in secure_sum.headers(database, after, until):
        plain += header.updates.values()
    return len(plain), len(set(plain))


def segments(rounds: Rounds, recent: Sequence[VersionRow], held: PendingUpdates) -> list[SegmentRow]:
    """In the layout's order. `recent`: versions, the newest first."""
    merged = {segment.name for segment in rounds.configuration.merged(rounds.rules.layout)}
    rows = []
    for segment in narrowed(rounds.rules.layout, rounds.configuration.scopes):
        changed = next((version for version in recent if segment.name in version.devices), None)
        history = [(version.number, version.devices.get(segment.name, 0)) for version in recent]
        waits = len(held.fed.get(segment.name, ()))
        rows.append(SegmentRow(segment, segment.name in merged, waits, history, changed))
    return rows


def verify_audit(database: Database) -> AuditChain:
    return AuditChain(*audit.verify(database))


def events(database: Database, most: int, before: int | None = None) -> list[audit.AuditRecord]:
    """The audit log's entries, the newest first, those below number `before`."""
    sql = """SELECT number, at, event, about, digest FROM audit WHERE number < ? ORDER BY number DESC LIMIT ?"""
    rows = database.rows(sql, (before if before is not None else 1 << 62, most))
    return [
        audit.AuditRecord(number, at, event, json.loads(about), digest) for number, at, event, about, digest in rows
    ]
