"""The log on disk: what happened, in order, and the versions that followed; SQLite through the store's Database.

Kinds of entry: `update` (its bytes as they were signed), `secure` (the sum of a cohort), `withdraw` (an update to
unlearn), `release` (a new version), `private_release` (a new version, with its sums after noise; its updates' bytes
are gone from then on), `rollback` (a new version with the theta of an older one), `restored` (the same theta under a
number that nobody has seen, after a backup was put back). Sums and theta are computed from it (`replay`), from the last
checkpoint on; a released version is kept as it was signed. One process writes rounds (`lock`); any other may read the
file meanwhile.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from homeroom.errors import StoreError
from homeroom.system.sqlite import DamagedError, Database, refusal
from homeroom_aggregator.state import schema

BASES = """CREATE TABLE IF NOT EXISTS bases (
    member TEXT NOT NULL, base INTEGER NOT NULL, update_id TEXT NOT NULL, PRIMARY KEY (member, base)) WITHOUT ROWID"""
Kind = Literal["update", "withdraw", "release", "private_release", "secure", "rollback", "restored"]


@dataclass(frozen=True)
class Entry:
    """One entry. `version`: the newest version when it happened, for a release or a rollback the one it made.

    `body`: the update's bytes (none of one that was released privately), the sums of a cohort or of a private release,
    the theta that was gone back to, else empty.
    """

    number: int
    kind: Kind
    update_id: str
    device: str
    version: int
    body: bytes


class Log:
    """Every write is durable when it returns. `path` may be `:memory:`."""

    def __init__(self, path: Path, *, alone: bool = True) -> None:
        """alone: hold the lock that one process at a time has; without it, read (and write devices) only."""
        with contextlib.ExitStack() as opened:
            if alone and str(path) != ":memory:":
                opened.enter_context(contextlib.closing(lock(path)))
            try:
                self.database = Database(path, any_thread=True, shared=True)
                opened.callback(self.database.close)
                schema.prepare(self.database, path)
                schema.check(self.database)
            except DamagedError as problem:
                raise StoreError(
                    f"is damaged: {problem.what}",
                    where=str(path),
                    remedy="put the last backup of the folder in its place",
                ) from None
            self._opened = opened.pop_all()

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """What is written inside is written together, or not at all; inside another step, which may go on after."""
        if not self.stepping:
            with self.database.transaction():
                yield
            return
        self.database.write("SAVEPOINT part")
        try:
            yield
        except BaseException:
            if self.stepping:  # a full disk ends the whole step
                self.database.write("ROLLBACK TO part")
                self.database.write("RELEASE part")
            raise
        self.database.write("RELEASE part")

    @property
    def stepping(self) -> bool:
        return self.database.connection.in_transaction

    def close(self) -> None:
        self._opened.close()

    # Entries

    def append(
        self, kind: Kind, version: int, *, update_id: str | None = None, device: str = "", body: bytes = b""
    ) -> int:
        with self.database.transaction():
            self.database.write(
                "INSERT INTO log (kind, update_id, device, version) VALUES (?, ?, ?, ?)",
                (kind, update_id, device, version),
            )
            number = int(self.database.one("SELECT last_insert_rowid()")[0])
            if body:
                self.database.write("INSERT INTO bodies (number, body) VALUES (?, ?)", (number, body))
            return number

    def entries(self, after: int = 0) -> Iterator[Entry]:
        """In order; one body in memory at a time."""
        for (number,) in self.database.rows("SELECT number FROM log WHERE number > ? ORDER BY number", (after,)):
            yield self.entry(number)

    def entry(self, number: int) -> Entry:
        """StoreError if it is an update whose body is gone, other than erased."""
        sql = """SELECT number, kind, COALESCE(update_id, ''), COALESCE(device, ''), version, body
                 FROM log LEFT JOIN bodies USING (number) WHERE number = ?"""
        _, kind, update_id, device, version, body = self.database.one(sql, (number,))
        if kind in ("update", "secure") and body is None:
            raise StoreError(f"entry {number} has lost its body", where="log.db", remedy="restore the last backup")
        return Entry(number, kind, update_id, device, version, body or b"")

    def entry_version(self, number: int) -> int:
        """The newest version when an entry happened."""
        return int(self.database.one("SELECT version FROM log WHERE number = ?", (number,))[0])

    def sender(self, update_id: str) -> str | None:
        """The device whose update has this id, or None."""
        found = self.database.one("SELECT device FROM log WHERE kind = 'update' AND update_id = ?", (update_id,))
        return found[0] if found else None

    def number(self, update_id: str) -> int | None:
        """The number of an update's entry, or None."""
        found = self.database.one("SELECT number FROM log WHERE kind = 'update' AND update_id = ?", (update_id,))
        return found[0] if found else None

    def has(self, kind: Kind, update_id: str) -> bool:
        sql = "SELECT 1 FROM log WHERE kind = ? AND update_id = ?"
        return self.database.one(sql, (kind, update_id)) is not None

    def sums(self) -> Iterator[Entry]:
        """The entries of cohorts' sums whose bodies are kept, the newest first; one body in memory at a time."""
        sql = "SELECT number FROM log JOIN bodies USING (number) WHERE kind = 'secure' ORDER BY number DESC"
        for (number,) in self.database.rows(sql):
            yield self.entry(number)

    def withdrawn(self, update_id: str) -> bool:
        return (
            self.database.one("SELECT 1 FROM log WHERE kind = 'withdraw' AND update_id = ?", (update_id,)) is not None
        )

    def all_withdrawn(self) -> frozenset[str]:
        rows = self.database.rows("SELECT update_id FROM log WHERE kind = 'withdraw' AND update_id IS NOT NULL")
        return frozenset(row[0] for row in rows)

    def erase_updates(self, update_id: str | None = None) -> None:
        """Empty the body of one update, or of every one so far; that they came, and from whom, stays."""
        chosen = "SELECT number FROM log WHERE kind = 'update' AND (?1 IS NULL OR update_id = ?1)"
        sql = f"UPDATE bodies SET body = x'' WHERE body != x'' AND number IN ({chosen})"
        self.database.write(sql, (update_id,))

    def last_private(self) -> int:
        """The number of the newest private release; 0 where there is none."""
        return int(self.database.one("SELECT COALESCE(max(number), 0) FROM log WHERE kind = 'private_release'")[0])

    def last_restored(self) -> int:
        """The version that the newest restore from a backup released; 0 where there was none."""
        return int(self.database.one("SELECT COALESCE(max(version), 0) FROM log WHERE kind = 'restored'")[0])

    def count(self, kind: Kind) -> int:
        return int(self.database.one("SELECT count(*) FROM log WHERE kind = ?", (kind,))[0])

    def last(self) -> int:
        """The number of the newest entry; 0 where there is none."""
        return int(self.database.one("SELECT COALESCE(max(number), 0) FROM log")[0])

    # Who has sent what on which version, as far back as updates are taken

    def sent_on(self, member: str, base: int) -> str | None:
        """The id of the update that a member sent on a base version, or None."""
        found = self.database.one("SELECT update_id FROM bases WHERE member = ? AND base = ?", (member, base))
        return found[0] if found else None

    def note_sent(self, member: str, base: int, update_id: str) -> None:
        self.database.write("INSERT OR REPLACE INTO bases VALUES (?, ?, ?)", (member, base, update_id))

    def forget_sent(self, before: int) -> None:
        """What was sent on older versions than `before`, on which none is taken any more."""
        self.database.write("DELETE FROM bases WHERE base < ?", (before,))

    # Versions

    def put_version(self, version: int, number: int, body: bytes) -> None:
        self.database.write("INSERT INTO versions (version, number, body) VALUES (?, ?, ?)", (version, number, body))

    def version(self, version: int) -> bytes | None:
        found = self.database.one("SELECT body FROM versions WHERE version = ?", (version,))
        return found[0] if found else None

    def newest(self) -> int:
        """The number of the newest version; 0 is the bundle's own theta."""
        return int(self.database.one("SELECT COALESCE(max(version), 0) FROM versions")[0])

    # Checkpoints: the state after an entry, so that what came before need not be computed again

    def put_checkpoint(self, number: int, body: bytes) -> None:
        self.database.write("INSERT OR REPLACE INTO checkpoints (number, body) VALUES (?, ?)", (number, body))

    def checkpoint(self, number: int) -> bytes:
        return bytes(self.database.one("SELECT body FROM checkpoints WHERE number = ?", (number,))[0])

    def checkpoints(self) -> list[int]:
        """Their entries' numbers, the oldest first."""
        return [row[0] for row in self.database.rows("SELECT number FROM checkpoints ORDER BY number")]

    def drop_checkpoints(self, first: int, last: int) -> None:
        """Those from number `first` to `last`."""
        self.database.write("DELETE FROM checkpoints WHERE number BETWEEN ? AND ?", (first, last))

    def checkpoint_before(self, *, versions: int) -> int | None:
        """The newest one whose state is that of a version before so many newest ones."""
        left = self.database.one("SELECT version FROM versions ORDER BY version DESC LIMIT 1 OFFSET ?", (versions,))
        sql = "SELECT max(number) FROM checkpoints JOIN log USING (number) WHERE log.version <= ?"
        found: int | None = self.database.one(sql, left)[0] if left else None
        return found

    @property
    def base(self) -> int:
        """The entry up to which bodies and versions may be gone; 0 where everything is kept."""
        return int(self.fact("base") or 0)

    def move_base(self, number: int) -> None:
        """From now on keep what came after entry `number`, which has a checkpoint."""
        with self.database.transaction():
            self.put_fact("base", str(number).encode())
            self.drop_checkpoints(0, number - 1)

    def prune(self, most: int) -> None:
        """Delete at most so many of the bodies, and of the versions, that the base has left behind."""
        if base := self.base:
            version = self.entry_version(base)
            for table, column, bound in (("bodies", "number", base + 1), ("versions", "version", version)):
                chosen = f"SELECT {column} FROM {table} WHERE {column} < ? ORDER BY {column} LIMIT ?"
                self.database.write(f"DELETE FROM {table} WHERE {column} IN ({chosen})", (bound, most))

    # Facts

    def fact(self, name: str) -> bytes | None:
        found = self.database.one("SELECT value FROM facts WHERE name = ?", (name,))
        return found[0] if found else None

    def put_fact(self, name: str, value: bytes) -> None:
        self.database.write("INSERT OR REPLACE INTO facts (name, value) VALUES (?, ?)", (name, value))


def lock(path: Path) -> sqlite3.Connection:
    """Hold `path`'s lock until the connection or the process ends; StoreError if another process has it.

    SQLite's own file lock, on a file of its own: it is the same everywhere and never outlives a killed process.
    """
    beside = path.with_suffix(".lock")
    try:
        held = sqlite3.connect(beside, isolation_level=None, timeout=0.5, check_same_thread=False)
        try:
            held.execute("PRAGMA journal_mode = MEMORY")  # nothing is ever written
            held.execute("BEGIN EXCLUSIVE")
        except BaseException:
            held.close()
            raise
    except sqlite3.DatabaseError as problem:
        raise refusal(problem, beside) from None
    return held
