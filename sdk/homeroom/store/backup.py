"""The last good copy of device.db, made with SQLite's online backup, whole or not at all; imports the database only."""

from __future__ import annotations

import time
from pathlib import Path

from homeroom.system.files import sync_directory
from homeroom.system.sqlite import Database, copy_database

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
        copy_database(database, self.path, without="DELETE FROM secrets WHERE name LIKE 'secure.%'")
        self._made, self._cost_s = time.monotonic(), time.monotonic() - start
