"""The context of an open store: its database, keys, cache and copy, shared by the modules of this package."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path

import msgspec

from homeroom.data.samples import StoredSample
from homeroom.errors import DiskFullError, HomeroomError, InputError
from homeroom.store import repair
from homeroom.store.backup import Backup
from homeroom.store.data_keys import DataKeys, Subject
from homeroom.store.feature_cache import FeatureCache
from homeroom.store.master_keys import KeyRing, MasterKeys
from homeroom.store.retention_clock import RetentionClock, believe
from homeroom.store.sealed_rows import open_sample, without_quarantine
from homeroom.system import clock
from homeroom.system.sqlite import Database


@dataclass
class StoreContext:
    """An open store's database, keys, cache and copy.

    key_ring: as it is in `master_keys`.
    moved: this opening found the directory on another machine or disk.
    """

    directory: Path
    store_id: str
    master_keys: MasterKeys
    key_ring: KeyRing
    lock: sqlite3.Connection
    database: Database
    keys: DataKeys
    cache: FeatureCache
    backup: Backup
    retention_clock: RetentionClock
    moved: bool = False
    backed_up_changes: int = 0  # changes to device.db in this process that the copy has
    closed: bool = False
    checked: bool = False  # every sealed value was opened in this process, so that the copy may be replaced

    def check_clock(self) -> RetentionClock:
        """The clock as it is to be believed now; what changed is stored."""
        body = self.get_secret("clock")
        stored = None if body is None else msgspec.json.decode(body, type=RetentionClock)
        self.retention_clock = believe(stored, clock.now().date())
        if self.retention_clock != stored:
            with contextlib.suppress(DiskFullError):  # a full disk must not keep anyone from freeing it
                self.put_secret("clock", msgspec.json.encode(self.retention_clock))
        return self.retention_clock

    def put_key_ring(self, key_ring: KeyRing) -> None:
        """Stores the key ring, durably."""
        self.master_keys.write(self.store_id, key_ring)
        self.key_ring = key_ring

    @contextlib.contextmanager
    def step(self, event: str, count: int | Sized | None = None) -> Iterator[None]:
        """One durable step with its line in the audit log; count: a number, or a list that has that many in the end."""
        try:
            with self.database.transaction():
                yield
                number = len(count) if isinstance(count, Sized) else count
                row = (clock.now().isoformat(timespec="seconds"), event, number)
                self.database.write("INSERT INTO audit (at, event, count) VALUES (?, ?, ?)", row)
        except BaseException:
            self.keys.reset()
            raise

    def get_secret(self, name: str) -> bytes | None:
        """The value stored under a name, or None."""
        row = self.database.one("SELECT body FROM secrets WHERE name = ?", (name,))
        return None if row is None else self.keys.device.open(row[0], "secrets", name)

    def put_secret(self, name: str, body: bytes | None) -> None:
        """Stores a value under a name; None removes it."""
        if body is None:
            self.database.write("DELETE FROM secrets WHERE name = ?", (name,))
        else:
            sealed = self.keys.device.seal(body, "secrets", name)
            self.database.write("INSERT OR REPLACE INTO secrets VALUES (?, ?)", (name, sealed))

    def link(self, kind: str, item: str, subjects: Iterable[str]) -> None:
        """Notes whose samples entered an item: a version, an update, a profile, or the state of a training."""
        rows = [(subject_id, kind, item) for subject_id in self.keys.ids(subjects)]
        self.database.write_many("INSERT OR IGNORE INTO lineage VALUES (?, ?, ?)", rows)

    def unlink(self, kind: str, item: str) -> None:
        """Forgets whose samples entered an item that goes."""
        self.database.write("DELETE FROM lineage WHERE kind = ? AND item = ?", (kind, item))

    def linked(self, kind: str, item: str) -> tuple[str, ...]:
        """Names of the subjects whose samples entered an item."""
        sql = "SELECT subject_id FROM lineage WHERE kind = ? AND item = ?"
        entered = {row[0] for row in self.database.rows(sql, (kind, item))}
        return tuple(subject.name for subject in self.keys.all() if subject.subject_id in entered)

    def items(self, subject_id: int, kind: str) -> list[str]:
        """Items of a kind that a subject's samples entered."""
        sql = "SELECT item FROM lineage WHERE subject_id = ? AND kind = ?"
        return [row[0] for row in self.database.rows(sql, (subject_id, kind))]

    def mend(self) -> None:
        """Opens every sealed value; restores damaged rows from the copy, or removes and lists them."""
        repair.mend(self.database, self.keys, self.backup)
        self.keys.reset()
        self.checked = True

    def reload_keys(self) -> None:
        """Reads the data keys again, after a rotation."""
        self.keys = DataKeys(self.database, self.key_ring)

    def known(self, name: str) -> Subject:
        """The subject of that name; InputError if the store does not know it."""
        subject = self.keys.find(name)
        if subject is None:
            raise InputError(f"nothing is held about subject {name!r}", where=str(self.directory))
        return subject

    def back_up(self, *, force: bool = False) -> None:
        """Renews the copy if it is cheap now, or by force; never from a store that was not checked."""
        if not force and not self.backup.due:
            return
        if not self.checked:
            self.mend()
        with contextlib.nullcontext() if force else contextlib.suppress(DiskFullError):
            self.backup.make(self.database)
        self.backed_up_changes = self.database.connection.total_changes

    def each_without_inputs(self) -> Iterator[tuple[Subject, StoredSample]]:
        """Every sample without its inputs, in no order."""
        subjects, _ = self.keys.sound()
        for sample_id, subject_id, facts in self.database.each("SELECT sample_id, subject_id, facts FROM samples"):
            yield subjects[subject_id], open_sample(subjects[subject_id], sample_id, facts)

    def read_samples(self, name: str | None) -> Iterator[StoredSample]:
        """Samples, all or one subject's, in the order they were added; damaged rows are mended first, or removed."""
        subjects = self.sound_subjects()
        where, parameters = ("", []) if name is None else ("WHERE subject_id = ?", [self.known(name).subject_id])
        yield from self.open_samples(subjects, where, parameters)

    def sound_subjects(self) -> dict[int, Subject]:
        """Subjects by id, after damaged rows were mended, or listed and removed."""
        if not self.checked:
            self.mend()
        return self.keys.sound()[0]

    def open_samples(
        self, subjects: Mapping[int, Subject], where: str, parameters: Sequence[int]
    ) -> Iterator[StoredSample]:
        """The samples of a WHERE clause, in the order they were added. One that was released has no reason any more."""
        sql = f"SELECT sample_id, subject_id, facts, inputs, aside FROM samples {where} ORDER BY number"
        for sample_id, subject_id, facts, inputs, aside in self.database.each(sql, parameters):
            sample = open_sample(subjects[subject_id], sample_id, facts, inputs)
            yield sample if aside else without_quarantine(sample)

    def close(self) -> None:
        """Renews the copy if anything changed since, and unlocks the directory."""
        if self.closed:
            return
        self.closed = True
        if self.database.connection.total_changes != self.backed_up_changes:
            with contextlib.suppress(HomeroomError):  # the next opening sees to it
                self.back_up(force=True)
        self.cache.close()
        self.database.close()
        self.lock.close()
