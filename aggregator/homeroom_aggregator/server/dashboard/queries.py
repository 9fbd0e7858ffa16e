"""Queries for the dashboard: versions, segments, pending updates and the audit log, read from log.db.

Every figure is counted from the log; nothing is estimated. Dates come from the audit log, which older logs began later:
where it has none, the date is empty.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from homeroom.contract.layout import Segment, segment_of
from homeroom.contract.policy import narrowed
from homeroom.contract.statistics.pooling import OTHERS
from homeroom.system.sqlite import Database
from homeroom_aggregator.admin.next_version import NextVersion, next_version
from homeroom_aggregator.merge import round_state
from homeroom_aggregator.merge.rounds import Rounds
from homeroom_aggregator.merge.segment_sums import count_fed
from homeroom_aggregator.server.service import Service
from homeroom_aggregator.state import audit, secure_sum
from homeroom_aggregator.state.log import NOT_CARRIED
from homeroom_aggregator.state.schema import newest_version
from homeroom_aggregator.state.statistics_totals import StatisticsTotals

VERSION_EVENTS = ("released", "rolled back", "rewound", "restored")  # audit events that made a version


@dataclass(frozen=True)
class VersionRow:
    """A version. `updates` came since the version before, from `senders` devices.

    devices: by segment, how many fed its change.
    to, by, why: of a rollback, the older version whose theta it has, who went back, and the reason.
    after: of a restored backup, its newest version, whose theta it has.
    bounds: by segment, of the bounded rule, the largest norm that an update had. shortened: how many were longer.
    longest: by member, how many times the bound, of the longest ones.
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
    bounds: Mapping[str, float] = field(default_factory=dict)
    shortened: int = 0
    longest: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class PendingUpdates:
    """Updates that wait for the next version, of those it needs, and by segment who fed it.

    next: the wait for it; None in secure rounds. ready: whether a segment was fed by enough devices or schools.
    statistics: how they stand, in words; empty where they are off.
    """

    updates: int
    needed: int
    fed: Mapping[str, frozenset[str]]
    next: NextVersion | None = None
    ready: bool = False
    statistics: str = ""

    @property
    def members(self) -> frozenset[str]:
        """Everybody whose update waits."""
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
    """The audit log's check: how many entries hold, the newest digest, and what is wrong, if anything."""

    entries: int
    newest: str
    wrong: str | None


def pending_updates(service: Service) -> PendingUpdates:
    """The updates that wait; in the writer's thread, since sums change in place."""
    rounds, fed = service.rounds, dict[str, frozenset[str]]()
    state, configuration = rounds.state, rounds.configuration
    for key, devices in state.sums.fed().items():
        fed[segment_of(key)] = fed.get(segment_of(key), frozenset()) | devices
    if configuration.secure:
        return PendingUpdates(state.pending, configuration.buffer_size, fed, statistics=statistics_text(rounds))
    statistics = statistics_text(rounds)
    days = service.last_seen.days(rounds.log.database)
    wait = next_version(configuration, state.pending, frozenset().union(*fed.values()), rounds.members, days)
    ready = bool(round_state.ready(state, rounds.rules))
    return PendingUpdates(state.pending, configuration.buffer_size, fed, wait, ready, statistics)


def counted(rounds: Rounds, fed: Collection[str]) -> int:
    """How many of what `min_devices` counts, devices or schools, these members are."""
    return count_fed(fed, rounds.configuration.k_of, rounds.rules.school)


def statistics_text(rounds: Rounds) -> str:
    """How many totals are here, what is served, and what a release waits for; empty where statistics are off."""
    if rounds.configuration.statistics.mode == "off":
        return ""
    status, here = rounds.statistics_status(""), sum(1 for _ in rounds.statistics.totals.each())
    served = f"release {status.release} is served" if status.release else "no release is served"
    waits = f"; the next waits: {status.waits}" if status.waits else ""
    if rounds.configuration.statistics.mode == "secure":
        total = rounds.statistics.totals.secure().terms.total
        said = f"Total {total} holds sums of {here} {'device' if here == 1 else 'devices'}, {served}{waits}."
        return f"{said} {words}" if (words := nameless_words(rounds.statistics.totals)) else said
    return f"Sums of {here} {'device is' if here == 1 else 'devices are'} here, {served}{waits}."


def nameless_words(totals: StatisticsTotals) -> str:
    """Which tasks of the secure total have rows without a name, and what gives them one; empty where none has."""
    holders = Counter(task for known in totals.each() for task in {s.task for s in known.subjects if s.row == OTHERS})
    if not holders:
        return ""
    tasks = ", ".join(
        f"{task} of {devices} {'device' if devices == 1 else 'devices'}" for task, devices in sorted(holders.items())
    )
    return (
        f"Rows without a name hold samples of {tasks}: once more schools teach a class than when the total "
        "began, `homeroom district new-total` gives it one."
    )


def versions(database: Database, most: int, before: int | None = None) -> list[VersionRow]:
    """At most `most` versions below `before`, the newest first."""
    below = before if before is not None else newest_version(database) + 1
    sql = f"""SELECT version, number, (SELECT max(number) FROM log AS older
                 WHERE {NOT_CARRIED} IN ('release', 'private_release') AND older.number < versions.number)
             FROM versions WHERE version < ? ORDER BY version DESC LIMIT ?"""
    rows = database.rows(sql, (below, most))
    about = _made(database, rows[-1][0], rows[0][0]) if rows else {}
    version_rows = []
    for number, entry, start in rows:
        at, event = about.get(number, ("", {}))
        unmerged = bool(event) and "devices" not in event
        updates, senders = (0, 0) if unmerged else _came(database, start or 0, entry)
        more = ("to", "by", "why", "after", "bounds", "shortened", "longest")
        origin = {name: event[name] for name in more if name in event}
        devices, sha256 = event.get("devices", {}), event.get("sha256", "")
        version_rows.append(VersionRow(number, at, devices, updates, senders, sha256, **origin))
    return version_rows


def longest_updates(recent: Sequence[VersionRow]) -> dict[str, tuple[float, int]]:
    """By member, the longest update among these versions' longest: how many times the bound, and of which version."""
    found = dict[str, tuple[float, int]]()
    for version in recent:
        for member, times in version.longest.items():
            found[member] = max(found.get(member, (0.0, 0)), (times, version.number))
    return found


def _made(database: Database, first: int, last: int) -> dict[int, tuple[str, dict[str, Any]]]:
    """The audit log's entries about the versions from `first` to `last`: time and details."""
    sql = """SELECT at, about FROM audit WHERE event IN (?, ?, ?, ?)
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


def segments(rounds: Rounds, recent: Sequence[VersionRow], pending: PendingUpdates) -> list[SegmentRow]:
    """A row for each segment, in the layout's order. `recent`: versions, the newest first."""
    merged = {segment.name for segment in rounds.configuration.merged(rounds.rules.layout)}
    rows = []
    for segment in narrowed(rounds.rules.layout, rounds.configuration.scopes):
        changed = next((version for version in recent if segment.name in version.devices), None)
        history = [(version.number, version.devices.get(segment.name, 0)) for version in recent]
        waits = counted(rounds, pending.fed.get(segment.name, ()))
        rows.append(SegmentRow(segment, segment.name in merged, waits, history, changed))
    return rows


def unchecked_restore(database: Database, action: str) -> tuple[int, str] | None:
    """The version that the newest restored backup had, and since when what it undid is not known ("": nobody knows).

    None where all of it was done again from the lost log, or an officer has chosen this action since.
    """
    sql = """SELECT json_extract(about, '$.after'), coalesce(json_extract(about, '$.since'), '') FROM audit
             WHERE event = 'restored' AND coalesce(json_array_length(about, '$.unknown'), 1) > 0 AND number > coalesce(
             (SELECT max(number) FROM audit WHERE event = 'ordered' AND json_extract(about, '$.action') = ?), 0)
             ORDER BY number DESC LIMIT 1"""
    return next(((after, since) for after, since in database.rows(sql, (action,))), None)


@dataclass(frozen=True)
class RefusedEvaluation:
    """Sums of counts that were refused since the newest one that was shown: the version, how many, and the rosters."""

    version: int
    sums: int
    rosters: tuple[int, ...]


def refused_evaluation(database: Database) -> RefusedEvaluation | None:
    """What was refused of the newest version that sums were made of; None where the newest sum was shown."""
    sql = """SELECT json_extract(about, '$.version'), json_extract(about, '$.roster') FROM audit
             WHERE event = 'evaluation refused' AND number >
             coalesce((SELECT max(number) FROM audit WHERE event = 'evaluated'), 0) ORDER BY number"""
    rows = database.rows(sql)
    rosters = tuple(sorted({roster for _, roster in rows if roster is not None}))
    return RefusedEvaluation(rows[-1][0], len(rows), rosters) if rows else None


def verify_audit(database: Database) -> AuditChain:
    """Check the audit log's chain of digests."""
    return AuditChain(*audit.verify(database))


def events(database: Database, most: int, before: int | None = None) -> list[audit.AuditRecord]:
    """The audit log's entries, the newest first, those below number `before`."""
    sql = """SELECT number, at, event, about, digest FROM audit WHERE number < ? ORDER BY number DESC LIMIT ?"""
    rows = database.rows(sql, (before if before is not None else 1 << 62, most))
    return [
        audit.AuditRecord(number, at, event, json.loads(about), digest) for number, at, event, about, digest in rows
    ]
