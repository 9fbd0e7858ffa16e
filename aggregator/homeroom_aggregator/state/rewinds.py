"""Rewinds of a log: which of its entries and versions are void, and what waits to be unlearned by the next one."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from homeroom.contract.round import UnlearningRules
from homeroom.contract.version import MOST_VOID
from homeroom.system.sqlite import Database
from homeroom_aggregator.state import audit, secure_sum

REWINDS, SINCE = "rewinds", "unlearning since"  # names of facts
ASKED = """SELECT gone.update_id, came.number AS number, came.version
           FROM log AS gone CROSS JOIN log AS came USING (update_id)
           WHERE came.kind = 'update' AND gone.kind = 'unlearn' AND gone.number > ?1
           UNION ALL
           SELECT gone.update_id, came.number AS number, came.version FROM log AS gone CROSS JOIN bodies USING (number)
           CROSS JOIN log AS came ON came.number = CAST(CAST(body AS TEXT) AS INTEGER)
           WHERE came.kind = 'secure' AND gone.kind = 'unlearn' AND gone.number > ?1 ORDER BY number"""
WENT_BACK = "rollback "  # and the version: what a `carried` entry names where an officer went back before it
VOID_KINDS = "kind != 'configuration'"  # what a rewind makes void: all but the rules


class Rewind(msgspec.Struct, frozen=True, array_like=True):
    """One rewind: entries between `after` and `entry` are void, and the versions between `to` and `version`.

    One that was taken over from a lost log has no entries here (0, 0).
    """

    after: int
    entry: int
    to: int
    version: int


@dataclass(frozen=True)
class WaitingRewind:
    """What the next rewind would do.

    update_ids: that it unlearns. to: the version from before the first of them came, made by entry `after`.
    versions: that become void. updates: that do, beside those unlearned, each of a secure sum counted.
    due: the day from which it is done. sums: secure sums that become void.
    """

    update_ids: tuple[str, ...]
    to: int
    after: int
    versions: int
    updates: int
    due: datetime.date
    sums: int = 0


def rewinds(database: Database) -> list[Rewind]:
    """All rewinds of a log, the oldest first."""
    row = database.one("SELECT value FROM facts WHERE name = ?", (REWINDS,))
    return msgspec.json.decode(row[0], type=list[Rewind]) if row else []


def void_versions(database: Database) -> list[tuple[int, int]]:
    """The void versions, in ranges of the first and the last, in order; ranges that touch are one."""
    ranges: list[tuple[int, int]] = []
    for first, last in sorted((one.to + 1, one.version - 1) for one in rewinds(database)):
        if ranges and first <= ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], max(last, ranges[-1][1]))
        else:
            ranges.append((first, last))
    return ranges


def told_void(database: Database) -> list[tuple[int, int]]:
    """As `void_versions`, in no more ranges than a version's header may have.

    Beyond, the oldest are told as one, with what is between them: who has learned on that trains anew too.
    """
    ranges = void_versions(database)
    if over := len(ranges) - MOST_VOID + 1 if len(ranges) > MOST_VOID else 0:
        ranges = [(ranges[0][0], ranges[over - 1][1]), *ranges[over:]]
    return ranges


def not_void(database: Database) -> str:
    """The condition of an entry that is not void, in SQL."""
    spans = "".join(f" AND NOT (number > {one.after} AND number < {one.entry})" for one in rewinds(database))
    return f"(NOT ({VOID_KINDS}) OR (TRUE{spans}))"


def is_void(database: Database, number: int) -> bool:
    """Whether an entry is void."""
    return any(one.after < number < one.entry for one in rewinds(database))


def holder(number: int) -> bytes:
    """The body of an entry that asks to unlearn an update which a secure sum holds. number: of the sum's entry."""
    return str(number).encode()


def rewound_after(database: Database, version: int) -> bool:
    """Whether a rewind made a newer version than this one."""
    return any(one.version > version for one in rewinds(database))


def ask(database: Database, today: datetime.date) -> None:
    """Note when the first request came that waits for a rewind."""
    database.write("INSERT OR IGNORE INTO facts (name, value) VALUES (?, ?)", (SINCE, today.isoformat().encode()))


def due(database: Database, rules: UnlearningRules) -> datetime.date | None:
    """The day from which the next rewind is done; None where no request waits for one."""
    since = database.one("SELECT value FROM facts WHERE name = ?", (SINCE,))
    if since is None:
        return None
    return datetime.date.fromisoformat(since[0].decode()) + datetime.timedelta(days=rules.within_days)


def due_of(database: Database, update_id: str, rules: UnlearningRules) -> datetime.date | None:
    """As `due`, for one update; None where it does not wait to be unlearned."""
    last = max((one.entry for one in rewinds(database)), default=0)
    sql = "SELECT 1 FROM log WHERE kind = 'unlearn' AND update_id = ? AND number > ?"
    return due(database, rules) if database.one(sql, (update_id, last)) else None


def waiting(database: Database, rules: UnlearningRules) -> WaitingRewind | None:
    """The next rewind; None where no update waits to be unlearned."""
    day = due(database, rules)
    if day is None:
        return None
    last = max((one.entry for one in rewinds(database)), default=0)
    found = [row for row in database.rows(ASKED, (last,)) if not is_void(database, row[1])]
    if not found:
        return None
    to = _before_roll_backs(database, int(found[0][2]), int(found[0][1]))
    row = database.one("SELECT number FROM versions WHERE version = ?", (to,))
    after = int(row[0]) if row else 0
    newer = int(database.one("SELECT count(*) FROM versions WHERE version > ?", (to,))[0])  # a restore skips numbers
    sql = f"SELECT count(*) FROM log WHERE kind = 'update' AND number > ? AND {not_void(database)}"
    updates = int(database.one(sql, (after,))[0]) - len(found)
    sums = [header for header in secure_sum.headers(database, after, 1 << 62)]
    updates += sum(len(header.updates) for header in sums)
    return WaitingRewind(tuple(row[0] for row in found), to, after, newer, updates, day, len(sums))


def _before_roll_backs(database: Database, to: int, number: int) -> int:
    """An officer who went back further than `to` after entry `number` wanted nothing newer."""
    sql = "SELECT substr(body, 1, 8) FROM log JOIN bodies USING (number) WHERE kind = 'rollback' AND number > ?"
    targets = [int.from_bytes(head, "little") for (head,) in database.rows(sql, (number,)) if head]
    sql = f"SELECT device FROM log WHERE kind = 'carried' AND device LIKE '{WENT_BACK}%' AND number > ?"
    targets += [int(name[len(WENT_BACK) :]) for (name,) in database.rows(sql, (number,))]
    kept = {0, *(version for (version,) in database.rows("SELECT version FROM versions"))}
    return min([to, *(target for target in targets if target in kept)])


def make_void(database: Database, done: Rewind) -> None:
    """Make entries and versions void: their bytes go, in the caller's step."""
    span = f"number > {done.after} AND number < {done.entry}"
    bodies = f"SELECT number FROM log WHERE {span} AND {VOID_KINDS} AND kind != 'withdraw'"  # that says what stayed
    database.write(f"UPDATE bodies SET body = x'' WHERE number IN ({bodies})")
    database.write(f"DELETE FROM checkpoints WHERE {span}")
    database.write("DELETE FROM versions WHERE version > ? AND version < ?", (done.to, done.version))
    if database.one("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'owned'"):
        database.write("DELETE FROM owned WHERE version > ? AND version < ?", (done.to, done.version))
    _put(database, [*rewinds(database), done])
    database.write("DELETE FROM facts WHERE name = ?", (SINCE,))


def take_over(database: Database, to: int, version: int, *, by: str) -> bool:
    """Name the versions between two void, as a lost log did: devices may have learned on them; False where they are.

    by: who says so, for the audit log.
    """
    if to + 1 >= version or any(first <= to + 1 and version - 1 <= last for first, last in void_versions(database)):
        return False
    _put(database, [*rewinds(database), Rewind(0, 0, to, version)])
    audit.record(database, "rewind taken over", first=to + 1, last=version - 1, by=by)
    return True


def _put(database: Database, known: Sequence[Rewind]) -> None:
    body = msgspec.json.encode(known)
    database.write("INSERT OR REPLACE INTO facts (name, value) VALUES (?, ?)", (REWINDS, body))
