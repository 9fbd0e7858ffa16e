"""The log on disk: every event in order, and the versions that followed.

Kinds of entry: `update` (its bytes as they were signed), `secure` (the sum of a cohort), `withdraw` (an update to
leave out), `release` (a new version), `private_release` (a new version, with its sums after noise; its updates' bytes
are gone from then on), `rollback` (a new version with the theta of an older one), `restored` (the same theta, under a
number that nobody has seen, after a backup was put back), `unlearn` (an update of a version waits for a rewind),
`rewind` (a new version with an older state, whose checkpoint it holds), `configuration` (the round configuration in
force from then on), `carried` (a version of an earlier bundle, its state mapped to this one; `device` names the kind of
entry that made it there). Sums and theta are computed from it (`replay`), from the last checkpoint on, without what a
rewind made void; a released version is kept as it was signed. One process writes rounds (`lock_file`); any other may
read the file meanwhile.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from homeroom.errors import DamagedError, StoreError
from homeroom.system.sqlite import Database, lock_file
from homeroom_aggregator.state import rewinds, schema

BASES_TABLE = """CREATE TABLE IF NOT EXISTS bases (
    member TEXT NOT NULL, base INTEGER NOT NULL, update_id TEXT NOT NULL, PRIMARY KEY (member, base)) WITHOUT ROWID"""
EARLY_TABLE = """CREATE TABLE IF NOT EXISTS early_withdrawals (
    member TEXT NOT NULL, update_id TEXT NOT NULL, PRIMARY KEY (member, update_id)) WITHOUT ROWID"""
MOST_EARLY_WITHDRAWALS = 100  # of one member: ids of its updates that have not come yet
WAITING_FILE = "waiting.db"
EntryKind = Literal[
    "update",
    "withdraw",
    "release",
    "private_release",
    "secure",
    "rollback",
    "restored",
    "configuration",
    "unlearn",
    "rewind",
    "carried",
]
NOT_CARRIED = "CASE kind WHEN 'carried' THEN device ELSE kind END"  # the kind of entry that made a version first


@dataclass(frozen=True)
class LogEntry:
    """One entry. `version`: the newest version when it happened, for a release or a rollback the one it made.

    `body`: the update's bytes (none of one that was released privately), the sums of a cohort or of a private release,
    the theta that was gone back to, a new round configuration, else empty.
    """

    number: int
    kind: EntryKind
    update_id: str
    device: str
    version: int
    body: bytes


class Log:
    """The log of one folder. Every write is durable when it returns.

    path: the file, or `:memory:`.
    exclusive: hold the lock that one process at a time has; without it, read (and write members) only.
    """

    def __init__(self, path: Path, *, exclusive: bool = True) -> None:
        with contextlib.ExitStack() as resources:
            if exclusive and str(path) != ":memory:":
                resources.enter_context(contextlib.closing(lock_file(path.with_suffix(".lock"))))
            try:
                self.database = Database(path, shared=True)
                self.waiting: Database | None = None
                resources.callback(self.database.close)
                schema.prepare(self.database, path)
                schema.check(self.database)
            except DamagedError as problem:
                remedy = "put the last backup of the folder in its place"
                raise StoreError(f"is damaged: {problem.what}", where=str(path), remedy=remedy) from None
            self._resources = resources.pop_all()

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """All writes inside are made, or none; inside another step it may fail alone."""
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

    def data_version(self) -> int:
        """Another number whenever another connection has written since this was asked last."""
        return int(self.database.one("PRAGMA data_version")[0])

    @property
    def stepping(self) -> bool:
        """Whether a step is open."""
        return self.database.connection.in_transaction

    def close(self) -> None:
        """Closes the database and lets go of the lock."""
        self._resources.close()

    # Entries

    def append(
        self, kind: EntryKind, version: int, *, update_id: str | None = None, device: str = "", body: bytes = b""
    ) -> int:
        """Appends an entry and returns its number; see `LogEntry` for its fields."""
        with self.database.transaction():
            sql = "INSERT INTO log (kind, update_id, device, version) VALUES (?, ?, ?, ?)"
            self.database.write(sql, (kind, update_id, device, version))
            number = int(self.database.one("SELECT last_insert_rowid()")[0])
            if kind == "update" and self.waiting:
                self.waiting.write("INSERT OR REPLACE INTO waiting VALUES (?, ?)", (number, body))
            if body:
                body = b"" if kind == "update" and self.waiting else body
                self.database.write("INSERT INTO bodies (number, body) VALUES (?, ?)", (number, body))
            return number

    def entries(self, after: int = 0) -> Iterator[LogEntry]:
        """Entries after number `after` that are not void, in order; one body in memory at a time."""
        sql = f"SELECT number FROM log WHERE number > ? AND {rewinds.not_void(self.database)} ORDER BY number"
        for (number,) in self.database.rows(sql, (after,)):
            yield self.entry(number)

    def entry(self, number: int) -> LogEntry:
        """One entry by its number; StoreError if its body is lost (an erased one is empty)."""
        sql = """SELECT number, kind, COALESCE(update_id, ''), COALESCE(device, ''), version, body
                 FROM log LEFT JOIN bodies USING (number) WHERE number = ?"""
        _, kind, update_id, device, version, body = self.database.one(sql, (number,))
        if kind in ("update", "secure") and body is None:
            raise StoreError(f"entry {number} has lost its body", where="log.db", remedy="restore the last backup")
        if kind == "update" and not body and self.waiting:
            row = self.waiting.one("SELECT body FROM waiting WHERE number = ?", (number,))
            body = row[0] if row else b""
        return LogEntry(number, kind, update_id, device, version, body or b"")

    def body(self, number: int) -> bytes:
        """The bytes of the update in an entry; empty where they are gone."""
        row = self.database.one("SELECT body FROM bodies WHERE number = ?", (number,))
        return row[0] if row else b""

    def update_at(self, number: int) -> tuple[str, str] | None:
        """The id and device of the update whose entry this is, without its body; None where it is another kind."""
        row = self.database.one("SELECT update_id, device FROM log WHERE number = ? AND kind = 'update'", (number,))
        return (row[0], row[1]) if row else None

    def entry_version(self, number: int) -> int:
        """The newest version when an entry happened."""
        return int(self.database.one("SELECT version FROM log WHERE number = ?", (number,))[0])

    def sender(self, update_id: str) -> str | None:
        """The device whose update has this id, or None."""
        row = self.database.one("SELECT device FROM log WHERE kind = 'update' AND update_id = ?", (update_id,))
        return row[0] if row else None

    def number(self, update_id: str) -> int | None:
        """The number of an update's entry, or None."""
        row = self.database.one("SELECT number FROM log WHERE kind = 'update' AND update_id = ?", (update_id,))
        return row[0] if row else None

    def has(self, kind: EntryKind, update_id: str) -> bool:
        """Whether there is an entry of this kind for an update."""
        sql = "SELECT 1 FROM log WHERE kind = ? AND update_id = ?"
        return self.database.one(sql, (kind, update_id)) is not None

    def sums(self) -> Iterator[LogEntry]:
        """The entries of cohorts' sums that are kept and not void, the newest first; one body in memory at a time."""
        sql = """SELECT number FROM log JOIN bodies USING (number) WHERE kind = 'secure' AND body != x''
                 ORDER BY number DESC"""
        for (number,) in self.database.rows(sql):
            yield self.entry(number)

    def configurations(self, until: int | None = None) -> list[LogEntry]:
        """The changes of the round configuration up to an entry, by default all, the oldest first."""
        sql = "SELECT number FROM log WHERE kind = 'configuration' AND (?1 IS NULL OR number <= ?1) ORDER BY number"
        return [self.entry(number) for (number,) in self.database.rows(sql, (until,))]

    def withdrawn(self, update_id: str) -> bool:
        """Whether an update was withdrawn, or is to be unlearned."""
        return self.has("withdraw", update_id) or self.has("unlearn", update_id)

    def withdrawal_of(self, update_id: str) -> bytes:
        """What the withdrawal of an update says of it; empty where there is none, or it says nothing."""
        sql = "SELECT body FROM log JOIN bodies USING (number) WHERE kind = 'withdraw' AND update_id = ?"
        row = self.database.one(sql, (update_id,))
        return row[0] if row else b""

    def withdrawn_by(self, update_id: str, member: str) -> bool:
        """Whether a member withdrew an update, of its own where it has come; another's word counts for nothing."""
        sql = """SELECT 1 FROM log WHERE kind IN ('withdraw', 'unlearn') AND update_id = ?1 AND device = ?2
                 UNION SELECT 1 FROM early_withdrawals WHERE update_id = ?1 AND member = ?2"""
        return self.database.one(sql, (update_id, member)) is not None

    def withdraw_early(self, update_id: str, member: str) -> bool:
        """Notes that an update which has not come stays out if this member sends it; False where it notes too many."""
        sql = """INSERT OR IGNORE INTO early_withdrawals SELECT ?1, ?2
                 WHERE (SELECT count(*) FROM early_withdrawals WHERE member = ?1) < ?3"""
        self.database.write(sql, (member, update_id, MOST_EARLY_WITHDRAWALS))
        return self.withdrawn_by(update_id, member)

    def newest_update(self, member: str) -> tuple[str, int] | None:
        """The id and entry of a member's newest update that is kept and was not withdrawn, or None."""
        sql = """SELECT update_id, number FROM log AS came WHERE kind = 'update' AND device = ? AND number > ?
                 AND NOT EXISTS (SELECT 1 FROM log WHERE kind IN ('withdraw', 'unlearn') AND update_id = came.update_id)
                 ORDER BY number DESC LIMIT 1"""
        row = self.database.one(sql, (member, self.base))
        return (row[0], row[1]) if row else None

    def last_release(self) -> int:
        """The number of the newest entry that released what waited; 0 where there is none."""
        sql = f"SELECT COALESCE(max(number), 0) FROM log WHERE {NOT_CARRIED} IN ('release', 'private_release')"
        return int(self.database.one(sql)[0])

    def all_withdrawn(self) -> frozenset[str]:
        """Ids of all updates that are left out; those that a rewind unlearns are void with what came after them."""
        rows = self.database.rows("SELECT update_id FROM log WHERE kind = 'withdraw' AND update_id IS NOT NULL")
        return frozenset(row[0] for row in rows)

    # Bodies that are to be erased: in a file that only this process opens, whose log nobody's reading can keep

    def keep_apart(self) -> Database:
        """Keeps updates in `waiting.db` while they wait, from now on and those of before; it is in no backup.

        A write-ahead log cannot be emptied while somebody reads: what was written to log.db may lie in it for long.
        """
        path = self.database.path
        if str(path) != ":memory:":
            path = path.with_name(WAITING_FILE)
        self.waiting = Database(path)
        self._resources.callback(self.waiting.close)
        self.waiting.write("CREATE TABLE IF NOT EXISTS waiting (number INTEGER PRIMARY KEY, body BLOB NOT NULL)")
        sql = "SELECT number, body FROM log JOIN bodies USING (number) WHERE kind = 'update' AND body != x''"
        if rows := self.database.rows(sql):
            self.waiting.write_many("INSERT OR REPLACE INTO waiting VALUES (?, ?)", rows)
            self.erase_updates()
        self.sweep()
        return self.waiting

    def sweep(self) -> bool:
        """Deletes what no longer waits, and empties the write-ahead logs; False while somebody's reading hinders it."""
        if self.waiting:
            sql = """SELECT number FROM log AS came WHERE kind = 'update' AND number > ? AND NOT EXISTS
                     (SELECT 1 FROM log WHERE kind = 'withdraw' AND update_id = came.update_id)"""
            kept = {number for (number,) in self.database.rows(sql, (self.last_private(),))}
            gone = [row for row in self.waiting.rows("SELECT number FROM waiting") if row[0] not in kept]
            self.waiting.write_many("DELETE FROM waiting WHERE number = ?", gone)
            self.waiting.empty_log()
        return self.database.empty_log()

    def erase_updates(self, update_id: str | None = None) -> None:
        """Empties the body of one update, or of every one so far; their entries stay, with their devices."""
        chosen = "SELECT number FROM log WHERE kind = 'update' AND (?1 IS NULL OR update_id = ?1)"
        sql = f"UPDATE bodies SET body = x'' WHERE body != x'' AND number IN ({chosen})"
        self.database.write(sql, (update_id,))

    def empty_body(self, number: int) -> None:
        """Empties the body of an update that cannot be read, or of a sum that is not merged: no replay looks for it."""
        self.database.write("INSERT OR REPLACE INTO bodies (number, body) VALUES (?, x'')", (number,))

    def last_private(self) -> int:
        """The number of the newest private release; 0 where there is none."""
        sql = f"SELECT COALESCE(max(number), 0) FROM log WHERE {NOT_CARRIED} = 'private_release'"
        return int(self.database.one(sql)[0])

    def last_restored(self) -> int:
        """The version that the newest restore from a backup, or rewind, released; 0 where there was none."""
        sql = f"SELECT COALESCE(max(version), 0) FROM log WHERE {NOT_CARRIED} IN ('restored', 'rewind')"
        return int(self.database.one(sql)[0])

    def count(self, kind: EntryKind) -> int:
        """The number of entries of a kind."""
        return int(self.database.one("SELECT count(*) FROM log WHERE kind = ?", (kind,))[0])

    def last(self) -> int:
        """The number of the newest entry; 0 where there is none."""
        return int(self.database.one("SELECT COALESCE(max(number), 0) FROM log")[0])

    # The update of each member on each base version, as far back as updates are accepted

    def sent_on(self, member: str, base: int) -> str | None:
        """The id of the update that a member sent on a base version, or None."""
        row = self.database.one("SELECT update_id FROM bases WHERE member = ? AND base = ?", (member, base))
        return row[0] if row else None

    def note_sent(self, member: str, base: int, update_id: str) -> None:
        """Notes the update that a member sent on a base version."""
        self.database.write("INSERT OR REPLACE INTO bases VALUES (?, ?, ?)", (member, base, update_id))

    def forget_sent(self, before: int) -> None:
        """Forgets the updates on versions older than `before`, on which none is accepted any more."""
        self.database.write("DELETE FROM bases WHERE base < ?", (before,))

    # Versions

    def put_version(self, version: int, number: int, body: bytes) -> None:
        """Stores a version's signed file, and the number of the entry that made it."""
        self.database.write("INSERT INTO versions (version, number, body) VALUES (?, ?, ?)", (version, number, body))

    def version(self, version: int) -> bytes | None:
        """A version's signed file, or None."""
        row = self.database.one("SELECT body FROM versions WHERE version = ?", (version,))
        return row[0] if row else None

    def has_version(self, version: int) -> bool:
        """Whether there is a version of this number."""
        return self.database.one("SELECT 1 FROM versions WHERE version = ?", (version,)) is not None

    def newest(self) -> int:
        """The number of the newest version; 0 is the bundle's own theta."""
        return schema.newest_version(self.database)

    # Checkpoints: the state after an entry, so that a replay starts there

    def put_checkpoint(self, number: int, body: bytes) -> None:
        """Stores the state after an entry."""
        self.database.write("INSERT OR REPLACE INTO checkpoints (number, body) VALUES (?, ?)", (number, body))

    def checkpoint(self, number: int) -> bytes:
        """The state after an entry that has a checkpoint."""
        return bytes(self.database.one("SELECT body FROM checkpoints WHERE number = ?", (number,))[0])

    def checkpoints(self) -> list[int]:
        """Numbers of the entries with a checkpoint, the oldest first."""
        return [row[0] for row in self.database.rows("SELECT number FROM checkpoints ORDER BY number")]

    def drop_checkpoints(self, first: int, last: int) -> None:
        """Deletes the checkpoints from number `first` to `last`."""
        self.database.write("DELETE FROM checkpoints WHERE number BETWEEN ? AND ?", (first, last))

    def checkpoint_before(self, *, versions: int) -> int | None:
        """Number of the newest checkpoint whose state is older than the newest `versions` versions, or None."""
        row = self.database.one("SELECT version FROM versions ORDER BY version DESC LIMIT 1 OFFSET ?", (versions,))
        sql = "SELECT max(number) FROM checkpoints JOIN log USING (number) WHERE log.version <= ?"
        number: int | None = self.database.one(sql, row)[0] if row else None
        return number

    @property
    def base(self) -> int:
        """The entry up to which bodies and versions may be gone; 0 where everything is kept."""
        return int(self.fact("base") or 0)

    def move_base(self, number: int, waiting: Sequence[int] = ()) -> None:
        """Keeps only the entries' bodies after `number`, which has a checkpoint, from now on, and those that wait."""
        with self.database.transaction():
            self.put_fact("base", str(number).encode())
            if waiting or self.fact("waiting"):
                self.put_fact("waiting", str(list(waiting)).encode())
            self.drop_checkpoints(0, number - 1)

    def prune(self, most: int) -> None:
        """Deletes at most `most` of the bodies, and of the versions, from before the base.

        Configurations and withdrawals stay, and updates that wait: a release reads them again.
        """
        if base := self.base:
            version = self.entry_version(base)
            waiting = "SELECT value FROM json_each((SELECT CAST(value AS TEXT) FROM facts WHERE name = 'waiting'))"
            chosen = f"kind NOT IN ('configuration', 'withdraw') AND number NOT IN ({waiting})"
            passed = f"bodies JOIN log USING (number) WHERE {chosen} AND number"
            for table, source, column, bound in (
                ("bodies", passed, "number", base + 1),
                ("versions", "versions WHERE version", "version", version),
            ):
                chosen = f"SELECT {column} FROM {source} < ? ORDER BY {column} LIMIT ?"
                self.database.write(f"DELETE FROM {table} WHERE {column} IN ({chosen})", (bound, most))

    # Facts

    def fact(self, name: str) -> bytes | None:
        """A named value, or None."""
        row = self.database.one("SELECT value FROM facts WHERE name = ?", (name,))
        return row[0] if row else None

    def put_fact(self, name: str, value: bytes) -> None:
        """Stores a named value in place of the one before."""
        self.database.write("INSERT OR REPLACE INTO facts (name, value) VALUES (?, ?)", (name, value))
