"""An open store's parts, and what every other part needs of them; imports all that lies below."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path

import msgspec

from homeroom.data.samples import StoredSample
from homeroom.errors import DiskFullError, HomeroomError, InputError
from homeroom.store import repair, retention_clock
from homeroom.store.backup import Backup
from homeroom.store.data_keys import KeyBook, Subject
from homeroom.store.feature_cache import FeatureCache
from homeroom.store.master_keys import Keys, Ring
from homeroom.store.retention_clock import Clock
from homeroom.store.sealed_rows import AS_IT_IS, open_sample
from homeroom.system import clock
from homeroom.system.sqlite import Database


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
    believed: Clock
    moved: bool = False
    copied: int = 0  # changes to device.db in this process that the copy has
    closed: bool = False
    checked: bool = False  # every sealed value was opened in this process: the copy may be replaced

    def look_at_clock(self) -> Clock:
        """The clock as it is to be believed now, remembered once a day."""
        body = self.get_secret("clock")
        known = None if body is None else msgspec.json.decode(body, type=Clock)
        self.believed = retention_clock.look(known, clock.now().date())
        if self.believed != known:
            with contextlib.suppress(DiskFullError):  # a full disk must not keep anyone from freeing it
                self.put_secret("clock", msgspec.json.encode(self.believed))
        return self.believed

    def put_ring(self, ring: Ring) -> None:
        self.places.write(self.store_id, ring)
        self.ring = ring

    @contextlib.contextmanager
    def step(self, event: str, count: int | Sized | None = None) -> Iterator[None]:
        """One durable step with its line in the audit log; count: a number, or what has that many in the end."""
        try:
            with self.database.transaction():
                yield
                many = len(count) if isinstance(count, Sized) else count
                row = (clock.now().isoformat(timespec="seconds"), event, many)
                self.database.write("INSERT INTO audit (at, event, count) VALUES (?, ?, ?)", row)
        except BaseException:
            self.keys.reset()
            raise

    def get_secret(self, name: str) -> bytes | None:
        """The value stored under a name, or None."""
        row = self.database.one("SELECT body FROM secrets WHERE name = ?", (name,))
        return None if row is None else self.keys.device.open(row[0], "secrets", name)

    def put_secret(self, name: str, body: bytes | None) -> None:
        """Store a value under a name; None removes it."""
        if body is None:
            self.database.write("DELETE FROM secrets WHERE name = ?", (name,))
        else:
            sealed = self.keys.device.seal(body, "secrets", name)
            self.database.write("INSERT OR REPLACE INTO secrets VALUES (?, ?)", (name, sealed))

    def link(self, kind: str, item: str, subjects: Iterable[str]) -> None:
        """Note whose samples entered an item: a version, an update, a profile, or the state of a training."""
        rows = [(subject_id, kind, item) for subject_id in self.keys.ids(subjects)]
        self.database.write_many("INSERT OR IGNORE INTO lineage VALUES (?, ?, ?)", rows)

    def unlink(self, kind: str, item: str) -> None:
        """Forget whose samples entered an item that goes."""
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
        """Open every sealed value; put damaged rows back from the copy, or remove and list them."""
        repair.mend(self.database, self.keys, self.backup)
        self.keys.reset()
        self.checked = True

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
            self.mend()
        with contextlib.nullcontext() if force else contextlib.suppress(DiskFullError):
            self.backup.make(self.database)
        self.copied = self.database.connection.total_changes

    def each_facts(self) -> Iterator[tuple[Subject, StoredSample]]:
        """Every sample without its inputs."""
        subjects, _ = self.keys.sound()
        for sample_id, subject_id, facts in self.database.each("SELECT sample_id, subject_id, facts FROM samples"):
            yield subjects[subject_id], open_sample(subjects[subject_id], sample_id, facts)

    def read_samples(self, name: str | None) -> Iterator[StoredSample]:
        """Samples in the order they were added; damaged rows are mended first, or listed and left out."""
        subjects = self.sound_subjects()
        where, parameters = ("", []) if name is None else ("WHERE subject_id = ?", [self.known(name).subject_id])
        yield from self.open_samples(subjects, where, parameters)

    def sound_subjects(self) -> dict[int, Subject]:
        """By id, after damaged rows were mended, or listed and left out."""
        if not self.checked:
            self.mend()
        return self.keys.sound()[0]

    def open_samples(
        self, subjects: Mapping[int, Subject], where: str, parameters: Sequence[int]
    ) -> Iterator[StoredSample]:
        """Those samples, in the order they were added. One that was put back has no reason any more."""
        sql = f"SELECT sample_id, subject_id, facts, inputs, aside FROM samples {where} ORDER BY number"
        for sample_id, subject_id, facts, inputs, aside in self.database.each(sql, parameters):
            sample = open_sample(subjects[subject_id], sample_id, facts, inputs)
            yield sample if aside else msgspec.structs.replace(sample, **AS_IT_IS)

    def close(self) -> None:
        """Renew the copy if anything changed since, and let go of the directory."""
        if self.closed:
            return
        self.closed = True
        if self.database.connection.total_changes != self.copied:
            with contextlib.suppress(HomeroomError):  # the next opening sees to it
                self.back_up(force=True)
        self.cache.close()
        self.database.close()
        self.lock.close()
