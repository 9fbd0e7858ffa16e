"""The last good copy of device.db: made whole with SQLite's online backup, then renewed by what has changed.

An input's row never changes. So the copy takes over the inputs that it does not have and drops those that are gone;
one that it holds is never overwritten, whatever has become of it in device.db.
"""

from __future__ import annotations

import contextlib
import datetime
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from homeroom.errors import DamagedError, StoreError
from homeroom.store.device_state import SECURE, condition, deletion
from homeroom.system.files import replace_durable, sync_directory
from homeroom.system.sqlite import SQLITE_ERRORS, Database, connect, copy_database, refusal

LARGEST_TIME_SHARE = 0.05  # at most this share of the time goes into copying, unless a copy is forced
CHECKED_COPY_BYTES = 64 << 20  # SQLite's structure of a larger copy is not checked when it is first renewed
LARGEST_FREE_SHARE = 0.25  # of a copy's pages; more are given back
SHAPE = "SELECT type, name, sql FROM sqlite_schema ORDER BY type, name"
UNCOPIED_SECRETS = condition(SECURE)  # brought back, they could mask a second vector or open a second sum
OLDER_COPY = "version-{}.db"


class Backup:
    """Owns backup/device.db, and the copies of older versions from before they were migrated."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "backup" / "device.db"
        self._made_at_s = -1e9
        self._cost_s = 0.0
        self._checked = False  # its structure, by this process

    def discard(self) -> None:
        """Deletes the copy."""
        for suffix in ("", "-journal"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        if self.path.parent.exists():
            sync_directory(self.path.parent)

    def exists(self) -> bool:
        """Whether there is a copy."""
        return self.path.exists()

    def older(self) -> dict[int, Path]:
        """Copies from before a migration, by the version they are of."""
        paths = self.path.parent.glob(OLDER_COPY.format("[0-9]*"))
        return {int(path.stem.rpartition("-")[2]): path for path in paths}

    def older_path(self, version: int) -> Path:
        """Where the copy from before the migration of a version is kept."""
        return self.path.with_name(OLDER_COPY.format(version))

    def keep_older(self, version: int) -> None:
        """Keeps the copy that was made before a migration, to go back by."""
        replace_durable(self.path, self.older_path(version))

    def discard_older(self, before: datetime.date | None = None) -> None:
        """Deletes the copies from before migrations, or those last written before a day."""
        for path in self.older().values():
            written = datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC)
            if before is None or written.date() < before:
                path.unlink()

    @property
    def due(self) -> bool:
        """Whether a new copy costs little compared with the time since the last."""
        return time.monotonic() - self._made_at_s >= self._cost_s / LARGEST_TIME_SHARE

    def finish(self) -> None:
        """Takes back a renewal that was cut short."""
        if self.path.with_name(f"{self.path.name}-journal").exists():
            with contextlib.suppress(*SQLITE_ERRORS), contextlib.closing(connect(self.path)) as copy:
                copy.execute(SHAPE)

    def make(self, database: Database, check: Callable[[], object] = lambda: None) -> None:
        """Brings the copy to the state of the database; one that fails leaves the copy as it was.

        check: opens every seal of the database, before a copy that is damaged is replaced as a whole
        """
        start = time.monotonic()
        if not self.exists():
            self.make_whole(database)
        elif not self._renew(database):
            check()
            self.make_whole(database)
        self._made_at_s, self._cost_s = time.monotonic(), time.monotonic() - start

    def make_whole(self, database: Database) -> None:
        """Copies the whole database, in place of the copy there is."""
        copy_database(database, self.path, without=deletion(SECURE))
        self._checked = True

    def _renew(self, database: Database) -> bool:
        """Writes what has changed in one transaction; False if the copy is of another version, or damaged."""
        try:
            with contextlib.closing(connect(self.path)) as copy:
                copy.execute("PRAGMA secure_delete = ON")
                if not self._is_sound(copy, database):
                    return False
                copy.execute("BEGIN IMMEDIATE")
                for table in _tables(database):
                    _take_over(database, copy, *table)
                copy.execute("COMMIT")
                if _pragma(copy, "freelist_count") > LARGEST_FREE_SHARE * _pragma(copy, "page_count"):
                    with contextlib.suppress(sqlite3.OperationalError):  # without room for it
                        copy.execute("VACUUM")
            sync_directory(self.path.parent)  # the deletion of its journal
        except SQLITE_ERRORS as problem:
            error = refusal(problem, self.path)
            if isinstance(error, StoreError) and not isinstance(error, DamagedError):
                raise error from None
            return False
        return True

    def _is_sound(self, copy: sqlite3.Connection, database: Database) -> bool:
        for sql in (SHAPE, "PRAGMA user_version", "SELECT store_id FROM store"):
            if copy.execute(sql).fetchall() != database.rows(sql):
                return False
        size = self.path.stat().st_size
        if size != _pragma(copy, "page_count") * _pragma(copy, "page_size"):
            return False
        if not self._checked and size <= CHECKED_COPY_BYTES:
            self._checked = copy.execute("PRAGMA integrity_check(1)").fetchone()[0] == "ok"
            return self._checked
        return True


def _pragma(copy: sqlite3.Connection, name: str) -> int:
    return int(copy.execute(f"PRAGMA {name}").fetchone()[0])


def _tables(database: Database) -> Iterator[tuple[str, list[str], list[str]]]:
    """Each table, the columns of its key, and all columns; with the rowid where rows have no number of their own."""
    for name, sql in database.rows("SELECT name, sql FROM sqlite_schema WHERE type = 'table'"):
        facts = database.rows(f"PRAGMA table_info({name})")
        columns, key = [fact[1] for fact in facts], [fact[1] for fact in facts if fact[5]]
        numbered = [fact[2] for fact in facts if fact[5]] == ["INTEGER"]
        if name == "inputs" or numbered or "WITHOUT ROWID" in sql:
            yield name, key, columns
        else:
            yield name, ["rowid"], ["rowid", *columns]


def _take_over(database: Database, copy: sqlite3.Connection, table: str, key: list[str], columns: list[str]) -> None:
    """Makes a table of the copy equal to the database's; of inputs only the keys are compared."""
    order, names = ", ".join(key), ", ".join(key if table == "inputs" else columns)
    key_places = [columns.index(name) for name in key]
    select, where = f"SELECT {names} FROM {table}", " AND ".join(f"{name} = ?" for name in key)
    copied = f"WHERE NOT {UNCOPIED_SECRETS}" if table == "secrets" else ""
    wanted = database.each(f"{select} {copied} ORDER BY {order}")
    gone, changed = _differences(wanted, copy.execute(f"{select} ORDER BY {order}"), key_places)
    copy.executemany(f"DELETE FROM {table} WHERE {where}", gone)
    insert = f"INSERT OR REPLACE INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
    for row in changed:
        if table == "inputs":
            row = database.one(f"SELECT {', '.join(columns)} FROM inputs WHERE {where}", row)
        copy.execute(insert, row)


def _differences(wanted: Iterator[Any], held: Iterator[Any], key_places: list[int]) -> tuple[list[Any], list[Any]]:
    """Keys that are held but not wanted, and rows that are not held as they are wanted; both are sorted by key."""

    def key_of(row: Any) -> tuple[Any, ...]:
        return tuple(row[place] for place in key_places)

    gone, changed = list[Any](), list[Any]()
    present, copied = next(wanted, None), next(held, None)
    while present is not None or copied is not None:
        if copied is not None and (present is None or key_of(copied) < key_of(present)):
            gone.append(key_of(copied))
            copied = next(held, None)
        elif present is not None:
            is_held = copied is not None and key_of(copied) == key_of(present)
            if not is_held or copied != present:
                changed.append(present)
            present, copied = next(wanted, None), next(held, None) if is_held else copied
    return gone, changed
