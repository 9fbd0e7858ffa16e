"""Finds damage in device.db, repairs it from the last good copy, and lists what was lost."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from homeroom.errors import BrokenSealError, DamagedError, HomeroomError, KeyGoneError, StoreError
from homeroom.store import migrations, schema
from homeroom.store.backup import Backup
from homeroom.store.carried_digests import carried_digests
from homeroom.store.data_keys import DataKeys
from homeroom.store.master_keys import KeyRing
from homeroom.store.row_digests import DIGESTS
from homeroom.store.sealed_rows import BrokenRow, broken_rows
from homeroom.system.clock import timestamp
from homeroom.system.files import open_private, replace_durable, sync_directory
from homeroom.system.files import refusal as file_refusal
from homeroom.system.sqlite import SQLITE_ERRORS, Database, connect

NUMBERED_TABLES = {"samples", "subjects", "versions", "audit", "damage"}
LARGEST_NUMBER = 2**62  # of a row: no store comes near it
CHECKED_AT_OPEN_BYTES = 64 << 20  # a larger store is checked before it is read or copied, not at every opening
DAMAGE_MARK = "damaged"  # a file: SQLite found damage, so the next opening checks everything
LOST = "was damaged and is lost: the copy does not have it"
PLAUSIBLE_VERSIONS_AHEAD = 100  # of a store that a newer homeroom wrote
SAMPLES_CHANGE_BELOW = 5  # migrations of older versions change rows of samples
FIRST_CHECKED_VERSION = 3  # of a store whose rows are checked before it is migrated
SQLITE_LOG_SUFFIXES = ("-wal", "-shm", "-journal")
SALVAGED = """SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'
    AND name NOT IN ('store', 'audit', 'damage') ORDER BY rowid"""  # tables, the subjects before what refers to them


def beyond_repair_error(directory: Path) -> StoreError:
    """The error where the copy is damaged too."""
    return StoreError(
        "device.db and its copy are both damaged",
        where=str(directory),
        remedy="restore the directory from your own copy, or open it anew and add the samples again",
    )


def holds_data(directory: Path) -> bool:
    """Whether a directory has a store or a copy of one."""
    path = directory / "device.db"
    return (path.exists() and path.stat().st_size > 0) or (directory / "backup" / "device.db").exists()


def find_store_id(directory: Path) -> str | None:
    """The store's id, read from the databases when device.json is gone."""
    sql = "SELECT store_id FROM store"
    store_id = first_value_of_copy(directory, sql) or _first_value(directory / "device.db", sql)
    return None if store_id is None else str(store_id)


def discard(directory: Path) -> None:
    """Removes the files of a store; bundles stay."""
    for name in ("device.db", "cache.db", "backup/device.db", "device.json"):
        for suffix in ("", *SQLITE_LOG_SUFFIXES):
            directory.joinpath(name + suffix).unlink(missing_ok=True)
    directory.joinpath(DAMAGE_MARK).unlink(missing_ok=True)
    Backup(directory).discard_older()
    sync_directory(directory)


def migrate(database: Database, key_ring: KeyRing, put_key_ring: Callable[[KeyRing], None]) -> None:
    """Migrates an older store to this version; the copy made first stays beside the new one, to go back by."""
    present = database.one("PRAGMA user_version")[0]
    if is_newer(database.path.parent, present):
        raise newer_store_error(database.path, present)
    if not migrations.OLDEST_SCHEMA_VERSION <= present <= schema.SCHEMA_VERSION:
        raise DamagedError(f"it claims to be of version {present}")
    backup = Backup(database.path.parent)
    if present == schema.SCHEMA_VERSION:
        copied = first_value_of_copy(database.path.parent, "PRAGMA user_version")
        if copied is not None and migrations.OLDEST_SCHEMA_VERSION <= copied < present:
            backup.keep_older(copied)  # the power went right after a migration
        return
    if present >= FIRST_CHECKED_VERSION:
        mend(database, DataKeys(database, key_ring), backup)
    backup.make_whole(database)
    with database.transaction(), contextlib.ExitStack() as carried:
        if present < SAMPLES_CHANGE_BELOW:
            carried.enter_context(carried_digests(database, key_ring, put_key_ring))
        for version in range(present, schema.SCHEMA_VERSION):
            migrations.MIGRATIONS[version](database, key_ring)
        database.write(f"PRAGMA user_version = {schema.SCHEMA_VERSION}")
    database.empty_log()
    backup.keep_older(present)
    backup.make(database)


def is_newer(directory: Path, present: int) -> bool:
    """Whether a newer homeroom wrote the store: its copy may still be of before a migration that was cut short.

    A number far beyond this version's, which the copy does not have, is damage.
    """
    if present <= schema.SCHEMA_VERSION + PLAUSIBLE_VERSIONS_AHEAD:
        return present > schema.SCHEMA_VERSION
    return first_value_of_copy(directory, "PRAGMA user_version") in (None, present)


def newer_store_error(path: Path, present: int) -> StoreError:
    """The error of a store that a newer homeroom wrote."""
    what = f"device.db has version {present}, newer than {schema.SCHEMA_VERSION}"
    return StoreError(what, where=str(path), remedy="update homeroom")  # nothing was changed


def check_shape(database: Database) -> None:
    """DamagedError unless the tables are those of this version: a flipped bit in a name is no error to SQLite."""
    expected = Database(Path(":memory:"))
    try:
        for statement in filter(str.strip, schema.DEVICE.split(";")):
            expected.write(statement)
        if expected.shape() != database.shape():
            raise DamagedError("its tables are not those of a store")
    finally:
        expected.close()


def mend_numbers(database: Database) -> None:
    """Puts the last numbers of the tables right where an edit left none to come: SQLite would call the disk full."""
    lasts = dict(database.rows("SELECT name, seq FROM sqlite_sequence"))
    for table in NUMBERED_TABLES & lasts.keys():
        if not isinstance(last := lasts[table], int) or not 0 <= last < LARGEST_NUMBER:
            sql = f"UPDATE sqlite_sequence SET seq = (SELECT coalesce(max(rowid), 0) FROM {table}) WHERE name = ?"
            database.write(sql, (table,))


def first_value_of_copy(directory: Path, sql: str) -> Any:
    """The first value of a query on the copy in backup/, or None."""
    return _first_value(directory / "backup" / "device.db", sql)


def _first_value(path: Path, sql: str) -> Any:
    if path.exists():
        with contextlib.suppress(*SQLITE_ERRORS, TypeError), contextlib.closing(connect(path)) as connection:
            return connection.execute(sql).fetchone()[0]
    return None


def note_damage(database: Database, lines: list[str]) -> None:
    """Lists damage, durably."""
    at = timestamp()
    database.write_many("INSERT INTO damage (at, what) VALUES (?, ?)", [(at, line) for line in lines])


def mend(database: Database, keys: DataKeys, backup: Backup, *, bodies: bool = False) -> bool:
    """Restores damaged rows from the copy; removes and lists those that it does not have. Whether there were any.

    bodies: whether the seals of all inputs are opened too
    """
    broken = list(broken_rows(database, keys, bodies=bodies))
    if not broken:
        return False
    with database.transaction(), _open_copy(backup.path) as copy:
        tried = set[tuple[str, Any]]()
        for _ in range(2):  # a sample from the copy may need its inputs from there too
            for row in broken:
                if (row.table, row.name) not in tried:
                    end = " and put back from the copy" if _restore_row(database, copy, row) else ""
                    note_damage(database, [f"{row} was found damaged{end}"])
            tried |= {(row.table, row.name) for row in broken}
            keys.reset()
            broken = list(broken_rows(database, keys, bodies=bodies))
        for line in _remove_broken(database, keys, bodies=bodies):
            note_damage(database, [line])
    return True


def restore_input(database: Database, backup: Backup, broken: BrokenRow) -> None:
    """Puts one damaged input back from the copy; where the copy does not have it, what is left of it goes too."""
    with database.transaction(), _open_copy(backup.path) as copy:
        found = _restore_row(database, copy, broken)
        line = "was found damaged and put back from the copy" if found else LOST
        note_damage(database, [f"{broken} {line}"])


@contextlib.contextmanager
def _open_copy(path: Path) -> Iterator[sqlite3.Connection | None]:
    if not path.exists():
        yield None
        return
    with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as copy:
        yield copy


def _restore_row(database: Database, copy: sqlite3.Connection | None, broken: BrokenRow) -> bool:
    """Puts a row back from the copy; False if the copy does not have it, or only a damaged input."""
    row, where = None, f"{broken.table} WHERE {broken.key} = ?"
    if copy is not None:
        with contextlib.suppress(*SQLITE_ERRORS):
            row = copy.execute(f"SELECT * FROM {where}", (broken.name,)).fetchone()
    if broken.subject is not None and not (row and broken.subject.cipher.holds(row[-1], "inputs.body", broken.name)):
        database.write(f"DELETE FROM {where}", (broken.name,))
        row = None
    if row is None:
        return False
    database.write(f"INSERT OR REPLACE INTO {broken.table} VALUES ({', '.join('?' * len(row))})", row)
    return True


def _remove_broken(database: Database, keys: DataKeys, *, bodies: bool) -> Iterator[str]:
    """Removes what is damaged still; yields a line about each."""
    while broken := list(broken_rows(database, keys, bodies=bodies)):
        for row in broken:
            _remove(database, row)
            yield f"{row} {LOST}"
    if database.one("SELECT 1 FROM sqlite_schema WHERE name = 'inputs'"):
        database.write("DELETE FROM inputs WHERE content NOT IN (SELECT content FROM samples)")


def _remove(database: Database, broken: BrokenRow) -> None:
    kind = {"versions": "version", "updates": "update"}.get(broken.table)
    if broken.table in ("subjects", "profiles"):
        database.write("DELETE FROM segments WHERE owner = ?", (broken.name,))
        database.write("DELETE FROM profiles WHERE subject_id = ?", (broken.name,))
        database.write("DELETE FROM lineage WHERE kind = 'profile' AND item = ?", (str(broken.name),))
    if broken.table == "subjects":
        database.write("DELETE FROM lineage WHERE subject_id = ?", (broken.name,))
        database.write("DELETE FROM samples WHERE subject_id = ?", (broken.name,))
    elif broken.table == "inputs":
        database.write("DELETE FROM samples WHERE content = ?", (int(broken.name.partition("/")[0]),))
    elif kind:
        database.write("DELETE FROM lineage WHERE kind = ? AND item = ?", (kind, broken.name))
    database.write(f"DELETE FROM {broken.table} WHERE {broken.key} = ?", (broken.name,))


def restore(directory: Path, backup: Backup, key_ring: KeyRing, why: str) -> list[str]:
    """Replaces device.db by the last copy, with newer rows that the damaged file still has; returns lines about it."""
    if not backup.exists():
        raise beyond_repair_error(directory)
    beside = directory / "device.db.new"
    _unlink(beside)
    try:
        with open_private(beside) as file, backup.path.open("rb") as copy:
            shutil.copyfileobj(copy, file)
        database = Database(beside)
    except OSError as problem:
        _unlink(beside)
        raise file_refusal(problem, directory) from None
    except DamagedError:
        raise beyond_repair_error(directory) from None
    try:
        if database.check():
            raise beyond_repair_error(directory)
        saved, losses = _salvage(directory / "device.db", database, key_ring)
        database.empty_log()
    except (DamagedError, BrokenSealError, KeyGoneError):
        raise beyond_repair_error(directory) from None
    finally:
        database.close()
    with beside.open("rb+") as file:
        os.fsync(file.fileno())
    replace_durable(beside, directory / "device.db.restored")
    finish_restore(directory)
    return [f"{why}: restored from the last copy, with {saved} newer rows that could still be read", *losses]


def finish_restore(directory: Path) -> None:
    """Puts a restored file in place; the old file's log goes first, because SQLite would replay it into the new one."""
    restored, path = directory / "device.db.restored", directory / "device.db"
    if not restored.exists():
        return
    for suffix in SQLITE_LOG_SUFFIXES:
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    sync_directory(directory)
    replace_durable(restored, path)


def _unlink(path: Path) -> None:
    for suffix in ("", *SQLITE_LOG_SUFFIXES):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _salvage(damaged: Path, database: Database, key_ring: KeyRing) -> tuple[int, list[str]]:
    """Copies rows that the damaged file has and the copy lacks, whose seals hold; (rows saved, lines about losses)."""
    if not damaged.exists():
        return 0, []
    saved, losses = 0, []
    keys = DataKeys(database, key_ring)
    with contextlib.closing(connect(damaged)) as old:
        with contextlib.suppress(*SQLITE_ERRORS):
            if old.execute("SELECT generation FROM store").fetchone()[0] != keys.generation:
                return 0, []
            if old.execute("PRAGMA user_version").fetchone() != database.one("PRAGMA user_version"):
                return 0, ["newer rows are lost: the copy is of another version"]
        for (table,) in database.rows(SALVAGED):
            marks = ", ".join("?" * len(database.tables[table].columns))
            try:
                with database.transaction():
                    for row in old.execute(f"SELECT * FROM {table}"):
                        saved += _save(database, f"INSERT OR IGNORE INTO {table} VALUES ({marks})", table, row)
            except (*SQLITE_ERRORS, HomeroomError):
                losses.append(f"{table}: newer rows that could not be read any more are lost")
        with database.transaction():
            for broken in list(broken_rows(database, keys, bodies=True)):
                if broken.table == "inputs":
                    _restore_row(database, old, broken)
            losses_of_rows = list(_remove_broken(database, keys, bodies=True))
    return saved - len(losses_of_rows), losses + losses_of_rows


def _save(database: Database, insert: str, table: str, row: tuple[Any, ...]) -> int:
    """Inserts a row that is not there yet; under another number where a damaged row took its own."""
    if row[0] == DIGESTS:  # the newest belong to the rows that are saved
        return 0 * database.write(insert.replace("IGNORE", "REPLACE"), row)
    saved = database.write(insert, row)
    if saved == 0 and table in ("samples", "versions"):
        saved = database.write(insert, (None, *row[1:]))
    return saved
