"""Reads a device directory that another process may have open: one state of it, in milliseconds, and writes nothing.

A state that is read keeps SQLite from emptying its log, and with it what was erased meanwhile: so a snapshot is closed
before anything is computed from it, and nothing is kept for the next one. Repairs, migrations, retention, and the
detection of clones wait for a process that opens the directory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from homeroom.errors import Code, KeyGoneError, StoreError
from homeroom.store import repair, schema
from homeroom.store.backup import Backup
from homeroom.store.context import CLOCK, StoreContext
from homeroom.store.data_keys import DataKeys
from homeroom.store.directory_lock import in_use_error
from homeroom.store.feature_cache import FeatureCache
from homeroom.store.master_keys import MasterKeys, find_master_keys
from homeroom.store.open import missing_key_error, read_device_file
from homeroom.store.retention_clock import believe
from homeroom.system import clock
from homeroom.system.sqlite import Database

ATTEMPTS = 5  # a `forget` may replace the master key between two reads


@contextlib.contextmanager
def open_snapshot(directory: Path, master_keys: MasterKeys | None = None) -> Iterator[StoreContext]:
    """The context of one state of a store; see `Store.snapshot`."""
    for attempt in range(ATTEMPTS):
        with _opened(directory) as database, database.snapshot():
            try:
                context = _context(directory, database, master_keys)
            except KeyGoneError:
                if attempt == ATTEMPTS - 1:
                    raise
                continue
            yield context
            return


@contextlib.contextmanager
def _opened(directory: Path) -> Iterator[Database]:
    path = directory / "device.db"
    if not path.exists():
        remedy = "open it with a bundle; if it is being repaired, try again"
        raise StoreError("has no device.db to read", where=str(directory), remedy=remedy)
    with contextlib.closing(Database(path, reading=True)) as database:
        yield database


def _context(directory: Path, database: Database, master_keys: MasterKeys | None) -> StoreContext:
    try:
        (version,) = database.one("PRAGMA user_version")  # the first query: the state is that of now
    except StoreError as problem:
        raise in_use_error(directory) if problem.code == Code.IN_USE else problem from None
    if version > schema.SCHEMA_VERSION:
        raise repair.newer_store_error(database.path, version)
    if version < schema.SCHEMA_VERSION:
        what, remedy = f"device.db has version {version}, not {schema.SCHEMA_VERSION}", "open it: it is then migrated"
        raise StoreError(what, where=str(directory), remedy=remedy)
    device_file = read_device_file(directory)
    master_keys = master_keys or find_master_keys(device_file.keys if device_file else None)
    store_id = str(database.one("SELECT store_id FROM store")[0])
    key_ring = master_keys.read(store_id)
    if key_ring is None:
        raise missing_key_error(directory)
    context = StoreContext(
        directory=directory,
        store_id=store_id,
        master_keys=master_keys,
        key_ring=key_ring,
        lock=database.connection,
        database=database,
        keys=DataKeys(database, key_ring),
        cache=FeatureCache(directory / "cache.db"),
        backup=Backup(directory),
        retention_clock=believe(None, clock.now().date()),
        is_snapshot=True,
    )
    context.retention_clock = believe(CLOCK.read(context), clock.now().date())
    return context
