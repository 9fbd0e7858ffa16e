"""The log on disk: what happened, in order, and the versions that followed; SQLite through the store's Database.

Three kinds of entry: `update` (its bytes as they were signed), `withdraw` (an update to unlearn) and `release` (a new
version). Sums and theta are computed from it (`replay`); a released version is kept as it was signed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from homeroom.errors import StoreError
from homeroom.store.database import DamagedError, Database

SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS devices (
    device TEXT PRIMARY KEY, code TEXT NOT NULL UNIQUE, revoked INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS log (
    number INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL CHECK (kind IN ('update', 'withdraw', 'release')),
    update_id TEXT, device TEXT, version INTEGER NOT NULL, body BLOB NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS log_updates ON log (kind, update_id) WHERE kind != 'release';
CREATE TABLE IF NOT EXISTS versions (version INTEGER PRIMARY KEY, number INTEGER NOT NULL, body BLOB NOT NULL);
"""

Kind = Literal["update", "withdraw", "release"]


@dataclass(frozen=True)
class Entry:
    """One entry. `version`: the newest version when it happened, for a release the one it made.

    `body`: the update's bytes, else empty.
    """

    number: int
    kind: Kind
    update_id: str
    device: str
    version: int
    body: bytes


class Log:
    """Opened by one process at a time; every write is durable when it returns."""

    def __init__(self, path: Path) -> None:
        try:
            self.database = Database(path, any_thread=True)
            for statement in filter(str.strip, SCHEMA.split(";")):
                self.database.write(statement)
            if damage := self.database.check():
                raise DamagedError(damage)
        except DamagedError as problem:
            raise StoreError(
                f"is damaged: {problem}", where=str(path), remedy="put the last backup of the folder in its place"
            ) from None

    def step(self) -> AbstractContextManager[None]:
        """What is written inside is written together, or not at all."""
        return self.database.step()

    def close(self) -> None:
        self.database.close()

    # Entries

    def append(
        self, kind: Kind, version: int, *, update_id: str | None = None, device: str = "", body: bytes = b""
    ) -> int:
        with self.step():
            self.database.write(
                "INSERT INTO log (kind, update_id, device, version, body) VALUES (?, ?, ?, ?, ?)",
                (kind, update_id, device, version, body),
            )
            return int(self.database.one("SELECT last_insert_rowid()")[0])

    def entries(self) -> Iterator[Entry]:
        numbers = self.database.rows("SELECT number FROM log ORDER BY number")
        for (number,) in numbers:  # one body in memory at a time
            yield self.entry(number)

    def entry(self, number: int) -> Entry:
        sql = "SELECT number, kind, COALESCE(update_id, ''), device, version, body FROM log WHERE number = ?"
        return Entry(*self.database.one(sql, (number,)))

    def sender(self, update_id: str) -> str | None:
        """The device whose update has this id, or None."""
        found = self.database.one("SELECT device FROM log WHERE kind = 'update' AND update_id = ?", (update_id,))
        return found[0] if found else None

    def withdrawn(self, update_id: str) -> bool:
        return (
            self.database.one("SELECT 1 FROM log WHERE kind = 'withdraw' AND update_id = ?", (update_id,)) is not None
        )

    def count(self, kind: Kind) -> int:
        return int(self.database.one("SELECT count(*) FROM log WHERE kind = ?", (kind,))[0])

    # Versions

    def put_version(self, version: int, number: int, body: bytes) -> None:
        self.database.write("INSERT INTO versions (version, number, body) VALUES (?, ?, ?)", (version, number, body))

    def version(self, version: int) -> bytes | None:
        found = self.database.one("SELECT body FROM versions WHERE version = ?", (version,))
        return found[0] if found else None

    def newest(self) -> int:
        """The number of the newest version; 0 is the bundle's own theta."""
        return int(self.database.one("SELECT COALESCE(max(version), 0) FROM versions")[0])

    # Devices

    def device(self, key: str) -> bool:
        """Whether a device is enrolled and not revoked."""
        return self.database.one("SELECT 1 FROM devices WHERE device = ? AND NOT revoked", (key,)) is not None

    def holder(self, code: str) -> str | None:
        """The device that used an invitation's code, or None."""
        found = self.database.one("SELECT device FROM devices WHERE code = ?", (code,))
        return found[0] if found else None

    def enrol(self, key: str, code: str) -> None:
        self.database.write("INSERT INTO devices (device, code) VALUES (?, ?)", (key, code))

    def devices(self) -> int:
        return int(self.database.one("SELECT count(*) FROM devices WHERE NOT revoked")[0])

    # Facts

    def fact(self, name: str) -> bytes | None:
        found = self.database.one("SELECT value FROM facts WHERE name = ?", (name,))
        return found[0] if found else None

    def put_fact(self, name: str, value: bytes) -> None:
        self.database.write("INSERT OR REPLACE INTO facts (name, value) VALUES (?, ?)", (name, value))
