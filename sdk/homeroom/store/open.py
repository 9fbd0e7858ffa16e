"""Opening a device directory: the lock, the keys, what was cut short, what is damaged; imports the store's parts."""

from __future__ import annotations

import secrets
import sqlite3
from pathlib import Path

import msgspec

from homeroom.errors import StoreError
from homeroom.store import clone_detection, repair, schema
from homeroom.store.backup import Backup
from homeroom.store.context import Opened
from homeroom.store.data_keys import KeyBook, KeyGoneError, first_row
from homeroom.store.encryption import BrokenSealError
from homeroom.store.erasure import expire, finish_rotation, remove_and_rotate
from homeroom.store.feature_cache import FeatureCache
from homeroom.store.master_keys import KeyPlace, Keys, Ring, find_keys, new_ring
from homeroom.store.retention_clock import Clock
from homeroom.system import clock
from homeroom.system.files import make_directory, write_durable
from homeroom.system.sqlite import DamagedError, Database


class Facts(msgspec.Struct, frozen=True):
    """device.json: what anyone may read about a device directory."""

    format: int
    store_id: str
    keys: KeyPlace


def is_device(directory: Path) -> bool:
    """Whether a folder is a device's, damaged or not: `open` would make one of any other."""
    return any((directory / name).exists() for name in ("device.json", "device.db", "backup/device.db"))


def open_store(directory: Path, keys: Keys | None, *, anew: bool) -> Opened:
    make_directory(directory)
    lock = _lock(directory)
    try:
        return _open_locked(directory, keys, lock, anew=anew)
    except BaseException:
        lock.close()
        raise


def remove(opened: Opened) -> None:
    """Undo the making of a store that is closed again: its files, and last the key, without which they say nothing."""
    repair.discard(opened.directory)
    opened.places.delete(opened.store_id)


def _lock(directory: Path) -> sqlite3.Connection:
    """Hold the directory for this process: SQLite's own locks work on every system and end with the process."""
    lock = sqlite3.connect(directory / "lock", isolation_level=None, timeout=0.5)
    try:
        lock.execute("PRAGMA journal_mode = OFF")
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as problem:
        lock.close()
        raise repair.locked(problem, directory) from None
    return lock


def _open_locked(directory: Path, keys: Keys | None, lock: sqlite3.Connection, *, anew: bool) -> Opened:
    facts = _read_facts(directory)
    places = keys or find_keys(facts.keys if facts else None)
    store_id = facts.store_id if facts else repair.find_store_id(directory) or secrets.token_hex(16)
    ring = places.read(store_id)
    if ring is None and repair.holds_data(directory):
        if not anew:
            raise StoreError(
                "its master key is not on this machine: the directory was copied here, or the key was removed",
                where=str(directory),
                remedy="bring the key, or open it anew (what it holds stays unreadable), then join again",
            )
        repair.discard(directory)
        facts, store_id = None, secrets.token_hex(16)
    if facts is None:
        facts = Facts(schema.VERSION, store_id, places.place)
        write_durable(directory / "device.json", msgspec.json.encode(facts))
    if ring is None:
        ring = new_ring()
        places.write(store_id, ring)
    return _open_database(directory, store_id, places, ring, lock)


def _open_database(directory: Path, store_id: str, places: Keys, ring: Ring, lock: sqlite3.Connection) -> Opened:
    backup = Backup(directory)
    repair.finish_restore(directory)
    path = directory / "device.db"
    lost: list[str] = []
    if not path.exists() and backup.exists():
        lost += repair.restore(directory, backup, ring, "device.db was missing")
    try:
        database, keys = _sound(path, store_id, ring, backup)
    except DamagedError as problem:
        lost += repair.restore(directory, backup, ring, f"device.db was damaged ({problem.what})")
        try:
            database, keys = _sound(path, store_id, ring, backup)
        except DamagedError:
            raise repair.beyond_repair(directory) from None
    try:
        cache = FeatureCache(directory / "cache.db")
        believed = Clock(clock.now().date())
        opened = Opened(directory, store_id, places, ring, lock, database, keys, cache, backup, believed)
        _settle(opened, lost)
    except BaseException:
        database.close()
        raise
    return opened


def _sound(path: Path, store_id: str, ring: Ring, backup: Backup) -> tuple[Database, KeyBook]:
    """Open device.db, made if there is none, and its keys; DamagedError if its structure or its keys do not hold."""
    database = Database(path)
    try:
        if not database.shape():
            if backup.exists():
                raise DamagedError("it is empty")
            _make(database, store_id, ring)
        if path.stat().st_size <= repair.CHECKED_AT_OPEN_BYTES and (found := database.check()):
            raise DamagedError(found)
        repair.migrate(database)
        repair.check_shape(database)
        return database, KeyBook(database, ring)
    except BrokenSealError as problem:
        database.close()
        raise DamagedError(problem.what) from None
    except KeyGoneError as problem:
        database.close()
        if repair.copy_says(path.parent, "SELECT generation FROM store") in ring.keys:
            raise DamagedError("it is from before a `forget`") from None
        raise problem
    except BaseException:
        database.close()
        raise


def _settle(opened: Opened, lost: list[str]) -> None:
    """Note damage, mend rows, finish a rotation that was cut short, and see whether the directory was moved."""
    repair.note(opened.database, lost)
    if opened.directory.joinpath("device.db").stat().st_size <= repair.CHECKED_AT_OPEN_BYTES:
        opened.mend()
    if len(opened.ring.keys) > 1:
        if opened.keys.generation != opened.ring.newest:
            remove_and_rotate(opened)
        finish_rotation(opened)
    opened.cache.keep_only(subject.subject_id for subject in opened.keys.sound()[0].values())
    clone_detection.notice(opened)
    expire(opened, opened.look_at_clock().newest.isoformat())
    if not opened.backup.exists():
        opened.back_up(force=True)


def _make(database: Database, store_id: str, ring: Ring) -> None:
    """Make the tables and keys in one transaction: they are all there, or none is."""
    database.rows(f"PRAGMA application_id = {schema.APPLICATION_ID}")
    with database.transaction():
        database.tables.executescript(schema.DEVICE)
        first_row(database.connection, store_id, ring)
        database.write(f"PRAGMA user_version = {schema.VERSION}")


def _read_facts(directory: Path) -> Facts | None:
    path = directory / "device.json"
    try:
        facts = msgspec.json.decode(path.read_bytes(), type=Facts)
    except FileNotFoundError:
        return None
    except OSError as problem:
        raise StoreError(f"cannot be read: {problem.strerror}", where=str(path)) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None  # rewritten from what device.db says
    if facts.format > schema.VERSION:
        raise StoreError("was written by a newer homeroom", where=str(directory), remedy="update homeroom")
    return facts
