"""Opens a device directory: takes the lock, reads the keys, finishes what was cut short, repairs what is damaged."""

from __future__ import annotations

import contextlib
import datetime
import secrets
import sqlite3
from pathlib import Path

import msgspec

from homeroom.errors import BrokenSealError, DamagedError, KeyGoneError, StoreError
from homeroom.store import clone_detection, edit_detection, repair, schema
from homeroom.store.backup import Backup
from homeroom.store.context import StoreContext
from homeroom.store.data_keys import DataKeys, insert_store_keys
from homeroom.store.directory_lock import release_lock, take_lock
from homeroom.store.erasure import expire, finish_rotation, remove_and_rotate
from homeroom.store.feature_cache import FeatureCache
from homeroom.store.master_keys import KeyLocation, KeyRing, MasterKeys, find_master_keys, new_key_ring
from homeroom.store.retention_clock import RetentionClock
from homeroom.system import clock
from homeroom.system.files import close_to_others, make_directory, read_small, write_durable
from homeroom.system.sqlite import Database

OLDER_COPY_LIFETIME = datetime.timedelta(days=30)  # to go back by after a migration


class DeviceFile(msgspec.Struct, frozen=True):
    """device.json: the public facts about a device directory."""

    format: int
    store_id: str
    keys: KeyLocation


def is_device(directory: Path) -> bool:
    """Whether a folder is a device's, damaged or not: `open_store` would make one of any other."""
    return any((directory / name).exists() for name in ("device.json", "device.db", "backup/device.db"))


def open_store(directory: Path, master_keys: MasterKeys | None, *, anew: bool) -> StoreContext:
    """Opens or makes the store of a directory; see `Store.open`."""
    make_directory(directory)
    close_to_others(directory)
    lock = take_lock(directory)
    try:
        return _open_locked(directory, master_keys, lock, anew=anew)
    except BaseException:
        release_lock(directory, lock)
        raise


def missing_key_error(directory: Path) -> StoreError:
    """The error of a store whose key ring is not where it is kept."""
    return StoreError(
        "its master key is not on this machine: the directory was copied here, the folder of the key is not mounted,"
        " or the key was removed",
        where=str(directory),
        remedy="bring the key, or open it anew (what it holds stays unreadable), then join again",
    )


def remove(context: StoreContext) -> None:
    """Deletes a store that is closed: its files, and last the key, without which they are unreadable."""
    repair.discard(context.directory)
    context.master_keys.delete(context.store_id)


def _open_locked(
    directory: Path, master_keys: MasterKeys | None, lock: sqlite3.Connection, *, anew: bool
) -> StoreContext:
    device_file = read_device_file(directory)
    master_keys = master_keys or find_master_keys(device_file.keys if device_file else None)
    store_id = device_file.store_id if device_file else repair.find_store_id(directory) or secrets.token_hex(16)
    key_ring = master_keys.read(store_id)
    if key_ring is None and repair.holds_data(directory):
        if not anew:
            raise missing_key_error(directory)
        repair.discard(directory)
        device_file, store_id = None, secrets.token_hex(16)
    if device_file is None:
        device_file = DeviceFile(schema.SCHEMA_VERSION, store_id, master_keys.location)
        write_durable(directory / "device.json", msgspec.json.encode(device_file))
    if key_ring is None:
        key_ring = new_key_ring()
        master_keys.write(store_id, key_ring)
    return _open_database(directory, store_id, master_keys, key_ring, lock)


def _open_database(
    directory: Path, store_id: str, master_keys: MasterKeys, key_ring: KeyRing, lock: sqlite3.Connection
) -> StoreContext:
    """The context of a locked directory whose keys are known; restores device.db from its copy where it is damaged."""
    backup = Backup(directory)
    backup.finish()
    repair.finish_restore(directory)
    path = directory / "device.db"
    damage: list[str] = []
    if not path.exists() and backup.exists():
        damage += repair.restore(directory, backup, key_ring, "device.db was missing")
    try:
        database, keys = _open_sound(path, store_id, master_keys, key_ring, backup)
    except DamagedError as problem:
        damage += repair.restore(directory, backup, key_ring, f"device.db was damaged ({problem.what})")
        try:
            database, keys = _open_sound(path, store_id, master_keys, key_ring, backup)
        except DamagedError:
            raise repair.beyond_repair_error(directory) from None
    key_ring = master_keys.read(store_id) or key_ring  # a migration may have noted something
    with contextlib.ExitStack() as undo:
        undo.callback(database.close)
        cache = FeatureCache(directory / "cache.db")
        undo.callback(cache.close)
        today = RetentionClock(clock.now().date())
        context = StoreContext(directory, store_id, master_keys, key_ring, lock, database, keys, cache, backup, today)
        _recover(context, damage)
        undo.pop_all()
    return context


def _open_sound(
    path: Path, store_id: str, master_keys: MasterKeys, key_ring: KeyRing, backup: Backup
) -> tuple[Database, DataKeys]:
    """device.db, made if there is none, and its keys; DamagedError if its structure or its keys do not hold."""
    database = _shared(path)
    try:
        if not database.shape():
            if backup.exists():
                raise DamagedError("it is empty")
            _make(database, store_id, key_ring)
        marked = path.with_name(repair.DAMAGE_MARK).exists()
        is_checked = marked or path.stat().st_size <= repair.CHECKED_AT_OPEN_BYTES
        if is_checked and (problem := database.check()):
            raise DamagedError(problem)
        repair.migrate(database, key_ring, lambda changed: master_keys.write(store_id, changed))
        repair.check_shape(database)
        repair.mend_numbers(database)
        return database, DataKeys(database, key_ring)
    except BrokenSealError as broken:
        database.close()
        raise DamagedError(broken.what) from None
    except KeyGoneError:
        database.close()
        if repair.first_value_of_copy(path.parent, "SELECT generation FROM store") in key_ring.keys:
            raise DamagedError("it is from before a `forget`") from None
        raise
    except BaseException:
        database.close()
        raise


def _shared(path: Path) -> Database:
    """device.db, which other processes may read meanwhile; else for this one alone, where there is no shared memory."""
    try:
        database = Database(path, shared=True)
        try:
            with database.transaction():  # writes into the shared memory alone
                return database
        except BaseException:
            database.close()
            raise
    except DamagedError:
        raise
    except StoreError:
        return Database(path)


def _recover(context: StoreContext, damage: list[str]) -> None:
    """Notes edits and damage, mends rows, finishes a rotation that was cut short, detects a moved directory."""
    edit_detection.detect_edits(context, restored=bool(damage))
    repair.note_damage(context.database, damage)
    mark = context.directory / repair.DAMAGE_MARK
    if mark.exists() or context.directory.joinpath("device.db").stat().st_size <= repair.CHECKED_AT_OPEN_BYTES:
        context.mend(bodies=mark.exists())
        mark.unlink(missing_ok=True)
    if len(context.key_ring.keys) > 1:
        if context.keys.generation != context.key_ring.newest:
            remove_and_rotate(context)
        finish_rotation(context)
    context.cache.keep_only(subject.subject_id for subject in context.keys.sound()[0].values())
    clone_detection.detect_clones(context)
    today = context.check_clock().newest
    expire(context, today.isoformat())
    context.backup.discard_older(today - OLDER_COPY_LIFETIME)
    if not context.backup.exists():
        context.back_up(force=True)


def _make(database: Database, store_id: str, key_ring: KeyRing) -> None:
    """Makes the tables and keys in one transaction: they are all there, or none is."""
    database.rows(f"PRAGMA application_id = {schema.APPLICATION_ID}")
    with database.transaction():
        database.tables.executescript(schema.DEVICE)
        insert_store_keys(database, store_id, key_ring)
        database.write(f"PRAGMA user_version = {schema.SCHEMA_VERSION}")


def read_device_file(directory: Path) -> DeviceFile | None:
    """What device.json says; None if it is gone or damaged. StoreError if a newer homeroom wrote it."""
    path = directory / "device.json"
    try:
        device_file = msgspec.json.decode(read_small(path), type=DeviceFile)
    except FileNotFoundError:
        return None
    except OSError as problem:
        raise StoreError(f"cannot be read: {problem.strerror}", where=str(path)) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None  # rewritten from what device.db says
    if device_file.format > schema.SCHEMA_VERSION:
        raise StoreError("was written by a newer homeroom", where=str(directory), remedy="update homeroom")
    return device_file
