"""Opening a device directory: the lock, the keys, what was cut short, what is damaged; imports the store's parts."""

from __future__ import annotations

import contextlib
import datetime
import secrets
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from homeroom.backup import Backup
from homeroom.durable import make_directory, write_durable
from homeroom.errors import DiskFullError, HomeroomError, InputError, StoreError
from homeroom.samples import StoredSample
from homeroom.store import repair, schema
from homeroom.store.clock import Clock, look
from homeroom.store.database import DamagedError, Database
from homeroom.store.features import FeatureCache
from homeroom.store.forget import expire, finish_rotation, remove_and_rotate
from homeroom.store.keybook import KeyBook, Subject, first_row
from homeroom.store.sealing import open_sample
from homeroom.vault import BrokenSealError, KeyPlace, Keys, Ring, find_keys, new_ring


class Facts(msgspec.Struct, frozen=True):
    """device.json: what anyone may read about a device directory."""

    format: int
    store_id: str
    keys: KeyPlace


@dataclass
class Opened:
    """An open store's parts, shared by the modules of this package."""

    directory: Path
    store_id: str
    places: Keys
    ring: Ring
    lock: sqlite3.Connection
    database: Database
    keys: KeyBook
    cache: FeatureCache
    backup: Backup
    clock: Clock
    moved: bool = False
    copied: int = 0  # changes to device.db in this process that the copy has
    checked: bool = False  # every sealed value was opened in this process: the copy may be replaced

    def look_at_clock(self) -> Clock:
        """The clock as it is to be believed now, remembered once a day."""
        row = self.database.one("SELECT body FROM secrets WHERE name = 'clock'")
        known = (
            None if row is None else msgspec.json.decode(self.keys.device.open(row[0], "secrets", "clock"), type=Clock)
        )
        self.clock = look(known, now().date())
        if self.clock != known:
            sealed = self.keys.device.seal(msgspec.json.encode(self.clock), "secrets", "clock")
            self.database.write("INSERT OR REPLACE INTO secrets VALUES ('clock', ?)", (sealed,))
        return self.clock

    def put_ring(self, ring: Ring) -> None:
        self.places.write(self.store_id, ring)
        self.ring = ring

    @contextlib.contextmanager
    def step(self, event: str, count: int | None = None) -> Iterator[None]:
        """One durable step with its line in the audit log."""
        try:
            with self.database.step():
                yield
                row = (now().isoformat(timespec="seconds"), event, count)
                self.database.write("INSERT INTO audit (at, event, count) VALUES (?, ?, ?)", row)
        except BaseException:
            self.keys.reset()
            raise

    def reload_keys(self) -> None:
        """After a rotation."""
        self.keys = KeyBook(self.database, self.ring)

    def known(self, name: str) -> Subject:
        found = self.keys.find(name)
        if found is None:
            raise InputError(f"nothing is held about subject {name!r}", where=str(self.directory))
        return found

    def back_up(self, *, force: bool = False) -> None:
        """Renew the copy if it is cheap now, or at once; never from a store that was not checked."""
        if not force and not self.backup.due:
            return
        if not self.checked:
            repair.mend(self)
        with contextlib.nullcontext() if force else contextlib.suppress(DiskFullError):
            self.backup.make(self.database)
        self.copied = self.database.connection.total_changes

    def each_facts(self) -> Iterator[tuple[Subject, StoredSample]]:
        """Every sample without its inputs."""
        subjects, _ = self.keys.sound()
        for sample_id, subject_id, facts in self.database.rows("SELECT sample_id, subject_id, facts FROM samples"):
            yield subjects[subject_id], open_sample(subjects[subject_id], sample_id, facts)

    def read_samples(self, name: str | None) -> Iterator[StoredSample]:
        """Samples in the order they were added; damaged rows are mended first, or listed and left out."""
        if not self.checked:
            repair.mend(self)
        subjects, _ = self.keys.sound()
        where, parameters = "", ()
        if name is not None:
            where, parameters = "WHERE subject_id = ?", (self.known(name).subject_id,)  # type: ignore[assignment]
        sql = f"SELECT sample_id, subject_id, facts, inputs FROM samples {where} ORDER BY number"
        for sample_id, subject_id, facts, inputs in self.database.each(sql, parameters):
            yield open_sample(subjects[subject_id], sample_id, facts, inputs)

    def close(self) -> None:
        """Renew the copy if anything changed since, and let go of the directory."""
        if self.database.connection.total_changes != self.copied:
            with contextlib.suppress(HomeroomError, DamagedError):  # the next opening sees to it
                self.back_up(force=True)
        self.cache.close()
        self.database.close()
        self.lock.close()


def open_store(directory: Path, keys: Keys | None, *, anew: bool) -> Opened:
    make_directory(directory)
    lock = _lock(directory)
    try:
        return _open_locked(directory, keys, lock, anew=anew)
    except BaseException:
        lock.close()
        raise


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
    if not repair.is_made(path):
        if backup.exists():
            lost += repair.restore(directory, backup, ring, "device.db was missing or empty")
        else:
            create(path, store_id, ring)
    if repair.is_older_than_copy(directory, ring):
        lost += repair.restore(directory, backup, ring, "device.db was from before a `forget`")
    try:
        database, keys = _sound(path, ring)
    except DamagedError as problem:
        lost += repair.restore(directory, backup, ring, f"device.db was damaged ({problem})")
        try:
            database, keys = _sound(path, ring)
        except DamagedError:
            raise repair.beyond_repair(directory) from None
    try:
        cache = FeatureCache(directory / "cache.db")
        clock = Clock(now().date())
        opened = Opened(directory, store_id, places, ring, lock, database, keys, cache, backup, clock)
        _settle(opened, lost)
    except BaseException:
        database.close()
        raise
    return opened


def _sound(path: Path, ring: Ring) -> tuple[Database, KeyBook]:
    """Open device.db and its keys; DamagedError if its structure or its keys do not hold."""
    database = Database(path)
    try:
        if path.stat().st_size <= repair.CHECKED_AT_OPEN_BYTES and (found := database.check()):
            raise DamagedError(found)
        repair.migrate(database)
        repair.check_shape(database)
        return database, KeyBook(database, ring)
    except BrokenSealError as problem:
        database.close()
        raise DamagedError(f"{problem} does not open") from None
    except BaseException:
        database.close()
        raise


def _settle(opened: Opened, lost: list[str]) -> None:
    """Note damage, mend rows, finish a rotation that was cut short, and see whether the directory was moved."""
    repair.note(opened, lost)
    if opened.directory.joinpath("device.db").stat().st_size <= repair.CHECKED_AT_OPEN_BYTES:
        repair.mend(opened)
    if len(opened.ring.keys) > 1:
        if opened.keys.generation != opened.ring.newest:
            remove_and_rotate(opened)
        finish_rotation(opened)
    opened.cache.keep_only(subject.subject_id for subject in opened.keys.sound()[0].values())
    _notice_move(opened)
    expire(opened, opened.look_at_clock().newest.isoformat())
    if not opened.backup.exists():
        opened.back_up(force=True)


def _notice_move(opened: Opened) -> None:
    """A clone on another machine must not act as the same device: it loses its signing key and must join again."""
    row = opened.database.one("SELECT body FROM secrets WHERE name = 'machine'")
    before = None if row is None else opened.keys.device.open(row[0], "secrets", "machine")
    if before == opened.ring.machine:
        return
    sealed = opened.keys.device.seal(opened.ring.machine, "secrets", "machine")
    with opened.step("opened on this machine"):
        opened.database.write("INSERT OR REPLACE INTO secrets VALUES ('machine', ?)", (sealed,))
        if before is not None:
            opened.database.write("DELETE FROM secrets WHERE name LIKE 'identity.%'")
            opened.database.write(
                "DELETE FROM lineage WHERE kind = 'update' AND item IN "
                "(SELECT update_id FROM updates WHERE data IS NOT NULL)"
            )
            opened.database.write("DELETE FROM updates WHERE data IS NOT NULL")
            opened.moved = True


def create(path: Path, store_id: str, ring: Ring) -> None:
    """Make an empty device.db in one transaction: it has its tables and keys, or it is not there."""
    database = Database(path)
    try:
        with database.refusals():
            database.connection.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
        with database.step():
            schema.make(database.connection)
            first_row(database.connection, store_id, ring)
            database.write(f"PRAGMA user_version = {schema.VERSION}")
    finally:
        database.close()


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


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
