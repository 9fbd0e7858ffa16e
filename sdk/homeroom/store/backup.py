"""The last good copy of device.db, made with SQLite's online backup, whole or not at all."""

from __future__ import annotations

import time
from pathlib import Path

from homeroom.system.files import sync_directory
from homeroom.system.sqlite import Database, copy_database

LARGEST_TIME_SHARE = 0.05  # at most this share of the time goes into copying, unless a copy is forced


class Backup:
    """Owns backup/device.db."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "backup" / "device.db"
        self._made_at_s = -1e9
        self._cost_s = 0.0

    def discard(self) -> None:
        """Deletes the copy."""
        self.path.unlink(missing_ok=True)
        sync_directory(self.path.parent)

    def exists(self) -> bool:
        """Whether there is a copy."""
        return self.path.exists()

    @property
    def due(self) -> bool:
        """Whether a new copy costs little compared with the time since the last."""
        return time.monotonic() - self._made_at_s >= self._cost_s / LARGEST_TIME_SHARE

    def make(self, database: Database) -> None:
        """Copies the database as it stands; a copy that fails leaves the one before.

        A secure round's secrets are left out: brought back, they could mask a second vector or open a second sum.
        """
        start = time.monotonic()
        copy_database(database, self.path, without="DELETE FROM secrets WHERE name LIKE 'secure.%'")
        self._made_at_s, self._cost_s = time.monotonic(), time.monotonic() - start
