"""Counts of evaluations on disk: what each device told of a version, and the sums that are shown.

A device's own counts are kept while its version is one of the newest; a sum is kept as long, and replaced by a later
one of the same version and task alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from homeroom.contract.evaluation_counts import DeviceCounts, GroupCounts
from homeroom.system.sqlite import Database

KEPT_VERSIONS = 20
EVALUATION_TABLES = (
    """CREATE TABLE IF NOT EXISTS evaluation_counts (
        version INTEGER NOT NULL, member TEXT NOT NULL, body BLOB NOT NULL, PRIMARY KEY (version, member))""",
    """CREATE TABLE IF NOT EXISTS evaluation_sums (
        version INTEGER NOT NULL, task TEXT NOT NULL, body BLOB NOT NULL, PRIMARY KEY (version, task))""",
    "CREATE TABLE IF NOT EXISTS evaluation_rounds (version INTEGER PRIMARY KEY, body BLOB NOT NULL)",
)


class TaskSum(msgspec.Struct, frozen=True, kw_only=True):
    """The counts of one task that are shown, over devices.

    devices: how many. now, before: how many have each tenth of accuracy, by the version and by the one before.
    groups: the sums by group; those that too few have are one named `*`. fed: how many devices fed each, in order.
    members: whose counts these are, by group; empty where a secure round summed them.
    since: the lowest and highest number of the versions before; None where a secure round summed them.
    """

    devices: int
    now: tuple[int, ...]
    before: tuple[int, ...]
    groups: tuple[GroupCounts, ...]
    fed: tuple[int, ...]
    members: tuple[tuple[str, ...], ...] = ()
    since: tuple[int, int] | None = None


class SummedRound(msgspec.Struct, frozen=True, kw_only=True):
    """The secure round that summed a version's counts. offers: id of what each member offered."""

    round_id: str
    offers: dict[str, str]


class Evaluations:
    """The tables of one log; every method is part of the caller's step."""

    def __init__(self, database: Database, *, prepare: bool = True) -> None:
        """prepare: makes the tables where they are not there yet."""
        self.database = database
        for table in EVALUATION_TABLES if prepare else ():
            database.write(table)

    def find(self, version: int, member: str) -> DeviceCounts | None:
        """What a member told of a version."""
        sql = "SELECT body FROM evaluation_counts WHERE (version, member) = (?, ?)"
        row = self.database.one(sql, (version, member))
        return msgspec.json.decode(row[0], type=DeviceCounts) if row else None

    def of_version(self, version: int) -> Iterator[tuple[str, DeviceCounts]]:
        """Each member and what it told of a version, by member."""
        sql = "SELECT member, body FROM evaluation_counts WHERE version = ? ORDER BY member"
        for member, body in self.database.rows(sql, (version,)):
            yield member, msgspec.json.decode(body, type=DeviceCounts)

    def put(self, member: str, counts: DeviceCounts) -> None:
        """Stores what a member told, and erases what is of versions that are not among the newest any more."""
        row = (counts.version, member, msgspec.json.encode(counts))
        first = self.database.one("SELECT 1 FROM evaluation_counts WHERE version = ? LIMIT 1", row[:1]) is None
        self.database.write("INSERT OR REPLACE INTO evaluation_counts VALUES (?, ?, ?)", row)
        if first:
            self._forget_old()

    def sums(self) -> dict[int, dict[str, TaskSum]]:
        """The sums that are shown, by version, the newest first, and task."""
        return read_sums(self.database)

    def sums_of(self, version: int) -> dict[str, TaskSum]:
        """The sums of a version that are shown, by task."""
        rows = self.database.rows("SELECT task, body FROM evaluation_sums WHERE version = ?", (version,))
        return {task: msgspec.json.decode(body, type=TaskSum) for task, body in rows}

    def put_sum(self, version: int, task: str, shown: TaskSum) -> None:
        """Stores a sum in place of the one before."""
        row = (version, task, msgspec.json.encode(shown))
        first = self.database.one("SELECT 1 FROM evaluation_sums WHERE version = ? LIMIT 1", row[:1]) is None
        self.database.write("INSERT OR REPLACE INTO evaluation_sums VALUES (?, ?, ?)", row)
        if first:
            self._forget_old()

    def summed(self, version: int) -> bool:
        """Whether a secure round summed a version's counts."""
        return self.database.one("SELECT 1 FROM evaluation_rounds WHERE version = ?", (version,)) is not None

    def newest_summed(self) -> SummedRound | None:
        """The round that summed the newest version."""
        row = self.database.one("SELECT body FROM evaluation_rounds ORDER BY version DESC LIMIT 1")
        return msgspec.json.decode(row[0], type=SummedRound) if row else None

    def put_summed(self, version: int, round_id: str, offers: dict[str, str]) -> None:
        """Notes the round that summed a version's counts."""
        body = msgspec.json.encode(SummedRound(round_id=round_id, offers=offers))
        self.database.write("INSERT INTO evaluation_rounds VALUES (?, ?)", (version, body))

    def forget(self, members: frozenset[str]) -> bool:
        """Erases what these members told by themselves; whether there was anything."""
        sql = "DELETE FROM evaluation_counts WHERE member = ?"
        return any([self.database.write(sql, (member,)) for member in sorted(members)])

    def forget_every(self) -> bool:
        """Erases what every member told by itself; sums stay. Whether there was anything."""
        return bool(self.database.write("DELETE FROM evaluation_counts"))

    def _forget_old(self) -> None:
        for table in ("evaluation_counts", "evaluation_sums", "evaluation_rounds"):
            kept = f"SELECT DISTINCT version FROM {table} ORDER BY version DESC LIMIT {KEPT_VERSIONS}"
            self.database.write(f"DELETE FROM {table} WHERE version < (SELECT min(version) FROM ({kept}))")


def read_sums(database: Database) -> dict[int, dict[str, TaskSum]]:
    """The sums that are shown in a log, by version, the newest first, and task; through any connection."""
    there = "SELECT 1 FROM sqlite_schema WHERE name = 'evaluation_sums'"
    found: dict[int, dict[str, TaskSum]] = {}
    sql = "SELECT version, task, body FROM evaluation_sums ORDER BY version DESC, task"
    for version, task, body in database.rows(sql) if database.one(there) else ():
        found.setdefault(version, {})[task] = msgspec.json.decode(body, type=TaskSum)
    return found
