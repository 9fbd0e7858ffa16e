"""The last good copy of device.db, made with SQLite's online backup, whole or not at all; imports the database only."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path

from homeroom.system.files import make_directory, replace_durable, sync_directory
from homeroom.system.files import refusal as file_refusal
from homeroom.system.sqlite import Database, refusal

SHARE = 0.05  # at most this share of the time goes into copying, unless a copy is forced


class Backup:
    """Owns backup/device.db. `due` weighs the last copy's cost against the time since."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "backup" / "device.db"
        self._made = -1e9
        self._cost_s = 0.0

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        sync_directory(self.path.parent)

    def exists(self) -> bool:
        return self.path.exists()

    @property
    def due(self) -> bool:
        return time.monotonic() - self._made >= self._cost_s / SHARE

    def make(self, database: Database) -> None:
        """Copy the database as it stands; a copy that fails leaves the one before.

        A secure round's secrets are left out: brought back, they could mask a second vector or open a second sum.
        """
        start = time.monotonic()
        copy_whole(database, self.path, without="DELETE FROM secrets WHERE name LIKE 'secure.%'")
        self._made, self._cost_s = time.monotonic(), time.monotonic() - start


def copy_whole(database: Database, path: Path, *, without: str = "") -> None:
    """Copy a database as it stands into one self-contained file, durably; one that fails leaves what was there.

    without: a statement that removes from the copy what it must not hold.
    """
    make_directory(path.parent)
    beside = path.with_name(f"{path.name}.new")
    beside.unlink(missing_ok=True)
    try:
        copy = sqlite3.connect(beside, isolation_level=None)
        try:
            database.connection.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")
            if without:
                copy.execute("PRAGMA secure_delete = ON")
                copy.execute(without)
        finally:
            copy.close()
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        replace_durable(beside, path)
    except sqlite3.DatabaseError as problem:
        beside.unlink(missing_ok=True)
        raise refusal(problem, beside) from None
    except OSError as problem:
        beside.unlink(missing_ok=True)
        raise file_refusal(problem, beside) from None
