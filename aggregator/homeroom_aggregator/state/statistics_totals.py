"""Statistics on disk: one current total a member, the sum of all, and what changed since it was released.

A total replaces the one before, whose bytes are erased. A mark says that a cell of a member's total is not as it was
when it was last in a release, under whatever name (`released`), or under its own (`named`); its `base` is the digest of
the cell then. A cell that is again as it was loses its mark: nothing of it would be new.

In secure rounds a member's total is not known: there is the sum, the segments that each member holds, and marks whose
`base` says whether it changed in a sum, or was in an earlier total (`IN_SUM`, `IN_EARLIER_TOTAL`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import msgspec

from homeroom.contract.canonical_json import digest
from homeroom.contract.statistics.encoding import encode, read
from homeroom.contract.statistics.messages import Support
from homeroom.contract.statistics.pooling import Pooling
from homeroom.contract.statistics.secure import StatisticsTerms
from homeroom.contract.statistics.sums import NOTHING, Cell, CellKind, Statistics, merge
from homeroom.system.sqlite import Database

STATISTICS_TABLES = (
    """CREATE TABLE IF NOT EXISTS statistics_totals (
        member TEXT PRIMARY KEY, sequence INTEGER NOT NULL, digest TEXT NOT NULL, included INTEGER NOT NULL DEFAULT 0,
        subjects BLOB NOT NULL, body BLOB NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS statistics_marks (
        member TEXT NOT NULL, cell TEXT NOT NULL, kind TEXT NOT NULL, base TEXT NOT NULL, since TEXT NOT NULL,
        away TEXT, PRIMARY KEY (member, cell, kind)) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS statistics_sums (
        name TEXT PRIMARY KEY, number INTEGER NOT NULL, about BLOB NOT NULL, body BLOB NOT NULL)""",
)
SUM, RELEASE, SECURE = "sum", "release", "secure"  # rows of statistics_sums
IN_SUM, IN_EARLIER_TOTAL = "sum", "total"  # bases of marks in secure rounds
MarkKind = Literal["released", "named"]
Poolings = dict[str, Pooling]


def prepare(database: Database) -> None:
    """Makes the tables where they are not there yet."""
    for table in STATISTICS_TABLES:
        database.write(table)


@dataclass(frozen=True)
class StoredTotal:
    """A member's total. subjects: as it attested them. included: its sequence in the newest release; 0 for none."""

    member: str
    sequence: int
    digest: str
    included: int
    subjects: tuple[Support, ...]


@dataclass(frozen=True)
class StoredRelease:
    """The newest release. body: as it was signed; empty where it is not served any more. poolings: what was shared."""

    number: int
    poolings: Poolings
    body: bytes


class SecureTotal(msgspec.Struct, frozen=True, kw_only=True):
    """How the total stands that secure rounds sum.

    subjects: of all members together. round_id: of the newest sum. filled: whether it holds a sum.
    wrong: why it can be no samples' sums; empty where it can.
    fresh: nothing was released since it began, and an earlier total was.
    """

    terms: StatisticsTerms = StatisticsTerms()
    subjects: tuple[Support, ...] = ()
    round_id: str = ""
    filled: bool = False
    wrong: str = ""
    fresh: bool = False


@dataclass(frozen=True)
class Mark:
    """A cell of a member that changed. since, away: when first, and when first by taking away; ISO 8601, UTC."""

    member: str
    cell: Cell
    kind: MarkKind
    since: str
    away: str | None


class StatisticsTotals:
    """The tables of one log, made by `prepare`; every method is part of the caller's step."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def find(self, member: str) -> StoredTotal | None:
        """What is known of a member's total, or None."""
        found = list(self._each("WHERE member = ?", (member,)))
        return found[0] if found else None

    def each(self) -> Iterator[StoredTotal]:
        """What is known of every total, by member."""
        return self._each("ORDER BY member", ())

    def _each(self, condition: str, parameters: tuple[str, ...]) -> Iterator[StoredTotal]:
        sql = f"SELECT member, sequence, digest, included, subjects FROM statistics_totals {condition}"
        for member, sequence, known, included, subjects in self.database.rows(sql, parameters):
            attested = msgspec.json.decode(subjects, type=tuple[Support, ...])
            yield StoredTotal(member, sequence, known, included, attested)

    def total(self, member: str) -> Statistics:
        """A member's total; nothing where there is none."""
        row = self.database.one("SELECT body FROM statistics_totals WHERE member = ?", (member,))
        return read(row[0]) if row else NOTHING

    def put(self, total: StoredTotal, sums: Statistics) -> None:
        """Stores a total in place of the one before."""
        subjects = msgspec.json.encode(total.subjects)
        facts = (total.member, total.sequence, total.digest, total.included, subjects, encode(sums))
        self.database.write("INSERT OR REPLACE INTO statistics_totals VALUES (?, ?, ?, ?, ?, ?)", facts)

    def remove(self, member: str) -> None:
        """Erases a member's total; its marks stay."""
        self.database.write("DELETE FROM statistics_totals WHERE member = ?", (member,))

    # The sum of all totals, kept as they come

    def sum(self) -> Statistics:
        """The sum of all totals."""
        row = self.database.one("SELECT body FROM statistics_sums WHERE name = ?", (SUM,))
        return read(row[0]) if row else NOTHING

    def put_sum(self, sums: Statistics) -> None:
        """Stores the sum in place of the one before."""
        self.database.write("INSERT OR REPLACE INTO statistics_sums VALUES (?, 0, x'', ?)", (SUM, encode(sums)))

    def computed_sum(self) -> Statistics:
        """The sum, computed anew from every total."""
        return merge(read(body) for (body,) in self.database.each("SELECT body FROM statistics_totals"))

    def secure(self) -> SecureTotal:
        """How the total of secure rounds stands."""
        row = self.database.one("SELECT about FROM statistics_sums WHERE name = ?", (SECURE,))
        return msgspec.json.decode(row[0], type=SecureTotal) if row else SecureTotal()

    def put_secure(self, total: SecureTotal) -> None:
        """Stores how the total of secure rounds stands."""
        row = (SECURE, msgspec.json.encode(total))
        self.database.write("INSERT OR REPLACE INTO statistics_sums VALUES (?, 0, ?, x'')", row)

    # Marks

    def mark_summed(self, member: str, cells: Iterable[Cell], now: str, base: str) -> None:
        """Notes that a member's cells changed in a sum, or were in the total that ends: base is IN_SUM or the other.

        What a member has in a new total may be as it was in the one before, so that mark goes.
        """
        for cell in sorted(cells):
            for kind in get_args(MarkKind):
                key = (member, _name(cell), kind)
                where = "WHERE (member, cell, kind) = (?, ?, ?)"
                known = self.database.one(f"SELECT base FROM statistics_marks {where}", key)
                if base == IN_SUM and known == (IN_EARLIER_TOTAL,):
                    self.database.write(f"DELETE FROM statistics_marks {where}", key)
                elif known is None or base == IN_EARLIER_TOTAL:
                    row = (*key, base, now, now)
                    self.database.write("INSERT OR REPLACE INTO statistics_marks VALUES (?, ?, ?, ?, ?, ?)", row)

    def mark(self, member: str, before: Statistics, after: Statistics, now: str, *, away: bool) -> None:
        """Notes the cells of a member that change, and forgets the marks of those that are again as they were.

        now: ISO 8601, UTC. away: whether samples were taken away.
        """
        where = "WHERE (member, cell, kind) = (?, ?, ?)"
        for cell in sorted(before.cells.keys() | after.cells.keys()):
            old, new = cell_digest(before, cell), cell_digest(after, cell)
            for kind in get_args(MarkKind) if old != new else ():
                key = (member, _name(cell), kind)
                found = self.database.one(f"SELECT base FROM statistics_marks {where}", key)
                if found is None:
                    row = (*key, old, now, now if away else None)
                    self.database.write("INSERT INTO statistics_marks VALUES (?, ?, ?, ?, ?, ?)", row)
                elif found[0] == new:
                    self.database.write(f"DELETE FROM statistics_marks {where}", key)
                elif away:
                    self.database.write(f"UPDATE statistics_marks SET away = COALESCE(away, ?) {where}", (now, *key))

    def forget_marks(self) -> None:
        """Forgets every mark, where nothing was released."""
        self.database.write("DELETE FROM statistics_marks")

    def marks(self) -> Iterator[Mark]:
        """Every mark."""
        for member, cell, *rest in self.database.rows("SELECT member, cell, kind, since, away FROM statistics_marks"):
            yield Mark(member, _cell(cell), *rest)

    # Releases

    def release(self) -> StoredRelease:
        """The newest release; number 0 where there was none."""
        row = self.database.one("SELECT number, about, body FROM statistics_sums WHERE name = ?", (RELEASE,))
        if row is None:
            return StoredRelease(0, {}, b"")
        shared = msgspec.json.decode(row[1], type=dict[str, tuple[list[str], list[tuple[str, str]]]]) if row[1] else {}
        poolings = {task: Pooling(frozenset(named), frozenset(pairs)) for task, (named, pairs) in shared.items()}
        return StoredRelease(row[0], poolings, row[2])

    def put_release(self, release: StoredRelease, shown: Mapping[Cell, bool]) -> None:
        """Stores a release in place of the one before. shown: the cells in it, and whether under their own names."""
        shared = {task: (sorted(p.named), sorted(p.pairs)) for task, p in sorted(release.poolings.items())}
        row = (RELEASE, release.number, msgspec.json.encode(shared), release.body)
        self.database.write("INSERT OR REPLACE INTO statistics_sums VALUES (?, ?, ?, ?)", row)
        sql = "DELETE FROM statistics_marks WHERE cell = ? AND (kind = 'released' OR ?)"
        self.database.write_many(sql, [(_name(cell), named) for cell, named in shown.items()])
        self.database.write("UPDATE statistics_totals SET included = sequence")

    def stop_serving(self) -> bool:
        """Erases the newest release's bytes; False where they are gone. Its number and what was shared stay known."""
        sql = "UPDATE statistics_sums SET body = x'' WHERE name = ? AND body != x''"
        return bool(self.database.write(sql, (RELEASE,)))

    def number_at_least(self, number: int) -> None:
        """Lets the next release have a number above this one."""
        self.database.write("INSERT OR IGNORE INTO statistics_sums VALUES (?, 0, x'', x'')", (RELEASE,))
        self.database.write("UPDATE statistics_sums SET number = max(number, ?) WHERE name = ?", (number, RELEASE))


def cell_digest(statistics: Statistics, cell: Cell) -> str:
    """32 hexadecimal digits of a cell's values; "" where there is none."""
    values = statistics.cells.get(cell)
    return "" if values is None else digest(values.astype("<i8").tobytes())[:32]


def _name(cell: Cell) -> str:
    return msgspec.json.encode((cell.task, cell.kind, cell.row, cell.blocks)).decode()


def _cell(name: str) -> Cell:
    return Cell(*msgspec.json.decode(name, type=tuple[str, CellKind, str, tuple[str, ...]]))
