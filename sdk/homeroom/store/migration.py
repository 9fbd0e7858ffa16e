"""Migration on request: says what it would do, and goes back by the copy that was made first."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from homeroom.errors import InputError, StoreError
from homeroom.store import schema
from homeroom.store.backup import Backup
from homeroom.store.directory_lock import locked
from homeroom.store.master_keys import KeyRing, MasterKeys, find_master_keys
from homeroom.store.open import is_device, missing_key_error, read_device_file
from homeroom.store.repair import find_store_id, finish_restore, is_newer, newer_store_error
from homeroom.system import hardware
from homeroom.system.files import replace_durable, sync_directory, write_durable
from homeroom.system.sqlite import SQLITE_ERRORS

LOG_SHARE = 1.2  # of the store's size: the write-ahead log of a migration
COMPARED = (  # what a person would miss: its name, the table, the column that identifies a row
    ("samples", "samples", "sample_id"),
    ("versions of theta", "versions", "version_id"),
    ("updates", "updates", "update_id"),
    ("subjects", "subjects", "subject_id"),
)


@dataclass(frozen=True)
class MigrationPlan:
    """What a migration would do. `needed_bytes`: of the disk, at most, while it runs; `copy`: to go back by."""

    present: int
    target: int
    samples: int
    store_bytes: int
    needed_bytes: int
    free_bytes: int | None
    copy: Path


def plan_migration(directory: Path, keys: MasterKeys | None = None) -> MigrationPlan:
    """What opening the store would do to bring it to this version; changes nothing.

    Raises InputError if it is no store, StoreError where opening it would: it is newer, or its key is not here.
    """
    backup, path = Backup(directory), _store_path(directory)
    with locked(directory), _reading(path) as store:
        present = _first(store, "PRAGMA user_version")
        if present > schema.SCHEMA_VERSION:
            if is_newer(directory, present):
                raise newer_store_error(path, present)
            what = f"is damaged: it claims to be of version {present}, and its copy of another"
            raise StoreError(what, where=str(path), remedy="open it: it is then repaired")
        if _key_ring(directory, keys) is None:
            raise missing_key_error(directory)
        samples = _first(store, "SELECT count(*) FROM samples")
    size = sum(part.stat().st_size for part in (path, path.with_name("device.db-wal")) if part.exists())
    needed = round((LOG_SHARE + (not backup.exists())) * size) if present < schema.SCHEMA_VERSION else 0
    free, copy = hardware.disk_free(directory), backup.older_path(present)
    return MigrationPlan(present, schema.SCHEMA_VERSION, samples, size, needed, free, copy)


@dataclass(frozen=True)
class Return:
    """Going back to a copy: its version, and how many rows of each kind came since and would be lost."""

    version: int
    lost: dict[str, int]


def plan_return(directory: Path, keys: MasterKeys | None = None) -> Return:
    """What going back to the copy from before the last migration would lose; changes nothing.

    InputError if there is none, StoreError if a `forget` came since: it cannot be opened any more.
    """
    path, older = _store_path(directory), Backup(directory).older()
    if not older:
        raise InputError("has no copy from before a migration", where=str(directory))
    version = max(older)
    with locked(directory), _reading(path) as store, _reading(older[version]) as copy:
        _require_key(directory, keys, _first(copy, "SELECT generation FROM store"))
        if copy.execute("PRAGMA integrity_check(1)").fetchone()[0] != "ok":
            raise StoreError("is damaged", where=str(older[version]), remedy="keep the store as it is")
        return Return(version, {name: _newer(store, copy, table, key) for name, table, key in COMPARED})


def go_back(directory: Path, keys: MasterKeys | None = None) -> Return:
    """Puts the copy from before the last migration in place of the store, for the release that made it."""
    found, backup = plan_return(directory, keys), Backup(directory)
    with locked(directory):
        device_file = read_device_file(directory)
        backup.discard()  # of a newer version than what will stand beside it
        if device_file is not None:
            device_file = msgspec.structs.replace(device_file, format=min(device_file.format, found.version))
            write_durable(directory / "device.json", msgspec.json.encode(device_file))
        keys, store_id = _find_keys(directory, keys)
        if (key_ring := keys.read(store_id)) is not None:
            keys.write(store_id, key_ring.without_digests())  # that release knows none
        replace_durable(backup.older_path(found.version), directory / "device.db.restored")
        sync_directory(backup.path.parent)
        finish_restore(directory)
    return found


def _store_path(directory: Path) -> Path:
    path = directory / "device.db"
    if not is_device(directory) or not path.exists():
        raise InputError("is no device directory", where=str(directory), remedy="name the folder of `device init`")
    return path


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A locked database that is only read, with its log where it has one; no file is left that was not there."""
    shared, has_log = path.with_name(f"{path.name}-shm"), path.with_name(f"{path.name}-wal").exists()
    is_new, mode = not shared.exists(), "mode=ro" if has_log else "immutable=1"
    try:
        with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?{mode}", uri=True)) as connection:
            yield connection
    except SQLITE_ERRORS as problem:
        raise StoreError(f"cannot be read: {problem}", where=str(path), remedy="open it: it is then repaired") from None
    finally:
        if is_new:
            shared.unlink(missing_ok=True)


def _first(connection: sqlite3.Connection, sql: str) -> Any:
    return connection.execute(sql).fetchone()[0]


def _newer(store: sqlite3.Connection, copy: sqlite3.Connection, table: str, key: str) -> int:
    """How many rows of a table the copy does not have."""
    held = {name for (name,) in copy.execute(f"SELECT {key} FROM {table}")}
    return sum(name not in held for (name,) in store.execute(f"SELECT {key} FROM {table}"))


def _find_keys(directory: Path, keys: MasterKeys | None) -> tuple[MasterKeys, str]:
    """Where the key ring of a directory is kept, and the store's id; "" where none can be read."""
    device_file = read_device_file(directory)
    keys = keys or find_master_keys(device_file.keys if device_file else None)
    return keys, device_file.store_id if device_file else find_store_id(directory) or ""


def _key_ring(directory: Path, keys: MasterKeys | None) -> KeyRing | None:
    keys, store_id = _find_keys(directory, keys)
    return keys.read(store_id) if store_id else None


def _require_key(directory: Path, keys: MasterKeys | None, generation: int) -> None:
    key_ring = _key_ring(directory, keys)
    if key_ring is None:
        raise missing_key_error(directory)
    if generation > key_ring.newest:
        raise StoreError(
            "the key that is here is older than the copy: its folder was put back from an older state",
            where=str(directory),
            remedy="bring the newest state of the key's folder",
        )
    if generation not in key_ring.keys:
        raise StoreError(
            "the copy cannot be opened any more: a `forget`, or the end of a retention, destroyed its key",
            where=str(directory),
        )
