"""The context of an open store: its database, keys, cache and copy, shared by the modules of this package."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path

import msgspec

from homeroom.data.names import near_names, normal_name
from homeroom.data.samples import INPUT_KINDS, InputKind, InputReference, StoredInput, StoredSample
from homeroom.errors import BrokenSealError, DiskFullError, HomeroomError, InputError, StoreError
from homeroom.store import repair
from homeroom.store.backup import Backup
from homeroom.store.data_keys import DataKeys, Subject
from homeroom.store.device_state import json_record
from homeroom.store.directory_lock import release_lock
from homeroom.store.feature_cache import FeatureCache
from homeroom.store.master_keys import KeyRing, MasterKeys
from homeroom.store.retention_clock import RetentionClock, believe
from homeroom.store.row_digests import RowDigests
from homeroom.store.sealed_rows import SAMPLE_COLUMNS, broken_input, open_sample, unpack_input
from homeroom.system import clock
from homeroom.system.files import write_durable
from homeroom.system.sqlite import Database

READ_INPUT = (
    "SELECT s.content, i.body FROM samples s LEFT JOIN inputs i ON i.content = s.content AND i.place = ? "
    "WHERE s.sample_id = ?"
)
NOBODY = "nothing is held about {}"
CLOCK = json_record("clock", RetentionClock)


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
    digests: RowDigests | None = None  # once this opening has looked for edits
    checked: bool = False  # every sealed value but the inputs was opened in this process, so the copy may be renewed
    is_snapshot: bool = False  # only read, while another process may have the directory open

    def check_clock(self) -> RetentionClock:
        """The clock as it is to be believed now; what changed is stored."""
        stored = CLOCK.read(self)
        self.retention_clock = believe(stored, clock.now().date())
        if self.retention_clock != stored:
            with contextlib.suppress(DiskFullError):  # a full disk must not keep anyone from freeing it
                CLOCK.write(self, self.retention_clock)
        return self.retention_clock

    def put_key_ring(self, key_ring: KeyRing) -> None:
        """Stores the key ring, durably."""
        if self.is_snapshot:
            raise StoreError("is only read here", where=str(self.directory), remedy="open it to change it")
        self.master_keys.write(self.store_id, key_ring)
        self.key_ring = key_ring

    def change_key_ring(self, **fields: object) -> None:
        """Changes fields of the key ring as it is stored now: a copy of this directory may have noted something."""
        key_ring = self.master_keys.read(self.store_id) or self.key_ring
        self.put_key_ring(msgspec.structs.replace(key_ring, **fields))

    @contextlib.contextmanager
    def step(self, event: str, count: int | Sized | None = None) -> Iterator[None]:
        """One durable step with its line in the audit log; count: a number, or a list that has that many in the end."""
        try:
            with self.database.transaction():
                yield
                number = len(count) if isinstance(count, Sized) else count
                row = (clock.timestamp(), event, number)
                self.database.write("INSERT INTO audit (at, event, count) VALUES (?, ?, ?)", row)
        except BaseException:
            with contextlib.suppress(HomeroomError):  # the keys of before, should it have rotated them
                self.reload_keys()
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

    def mend(self, *, bodies: bool = False) -> bool:
        """Restores damaged rows from the copy, or removes and lists them; whether there were any.

        bodies: open the seals of inputs too
        """
        mended = repair.mend(self.database, self.keys, self.backup, bodies=bodies)
        self.keys.reset()
        self.checked = True
        return mended

    def reload_keys(self) -> None:
        """Reads the data keys again, after a rotation."""
        self.keys = DataKeys(self.database, self.key_ring)

    def known(self, name: str) -> Subject:
        """The subject of that name; InputError, with names that are near, if the store does not know it."""
        subject = self.keys.find(name) or self.keys.find(normal_name(name))
        if subject is not None:
            return subject
        near = near_names(name, (subject.name for subject in self.keys.all()))
        same = [other for other in near if normal_name(other) == normal_name(name)]  # as an earlier release stored it
        if len(same) == 1 and (subject := self.keys.find(same[0])):
            return subject
        what = f"nobody is held as {name!r}, but as {', '.join(map(repr, near))}" if near else NOBODY.format(repr(name))
        remedy = f"also held: {', '.join(near)}" if near else "`homeroom device subjects` lists who is held"
        raise InputError(what, where=str(self.directory), remedy=remedy)

    def back_up(self, *, force: bool = False) -> None:
        """Renews the copy if it is cheap now, or by force; never from a store that was not checked."""
        if not force and not self.backup.due:
            return
        if not self.checked:
            self.mend()
        with contextlib.nullcontext() if force else contextlib.suppress(DiskFullError):
            self.backup.make(self.database, lambda: self.mend(bodies=True))
        self.backed_up_changes = self.database.connection.total_changes

    def each_without_inputs(self) -> Iterator[tuple[Subject, StoredSample]]:
        """Every sample, its inputs as references, in no order."""
        subjects, _ = self.keys.sound()
        for row in self.database.each(f"SELECT {SAMPLE_COLUMNS} FROM samples"):
            yield subjects[row[1]], open_sample(subjects, row)

    def read_samples(self, name: str | None) -> Iterator[StoredSample]:
        """Samples with their inputs, all or one subject's, in the order they were added.

        Damaged rows are mended first, or removed; a sample of which an input is lost is left out.
        """
        subjects = self.sound_subjects()
        where, parameters = ("", ()) if name is None else ("WHERE subject_id = ?", (self.known(name).subject_id,))
        for sample in self.open_samples(subjects, where, parameters):
            if (whole := self.with_inputs(sample)) is not None:
                yield whole

    def sound_subjects(self) -> dict[int, Subject]:
        """Subjects by id, after damaged rows were mended, or listed and removed."""
        if not self.checked:
            self.mend()
        return self.keys.sound()[0]

    def open_samples(
        self, subjects: Mapping[int, Subject], where: str, parameters: Sequence[int | bytes] = ()
    ) -> Iterator[StoredSample]:
        """The samples of a WHERE clause, their inputs as references, in the order they were added."""
        for row in self.database.each(f"SELECT {SAMPLE_COLUMNS} FROM samples {where} ORDER BY number", parameters):
            yield open_sample(subjects, row)

    def read_input(self, sample: StoredSample, reference: InputReference) -> StoredInput | None:
        """An input that is left in the store; put back from the copy where it is damaged.

        None if it is lost, which is listed (the sample is then removed before samples are chosen or copied again), or
        if the sample is no longer there.
        """
        subject, place = self.keys.find(sample.subject), reference.place
        for attempt in range(2):
            row = self.database.one(READ_INPUT, (place, sample.sample_id))
            if subject is None or row is None:
                return None
            content, body = row
            try:
                return unpack_input(reference, subject.cipher.open(body or b"", "inputs.body", f"{content}/{place}"))
            except BrokenSealError:
                if attempt == 0:
                    broken = broken_input(subject, sample.sample_id, content, place)
                    repair.restore_input(self.database, self.backup, broken)
        self.checked = False
        return None

    def with_inputs(self, sample: StoredSample, kinds: Collection[InputKind] = INPUT_KINDS) -> StoredSample | None:
        """A sample with its inputs of these kinds in place of references to them; None if one of them is lost."""
        inputs: dict[str, list[StoredInput | None]] = {}
        for slot, references in sample.inputs.items():
            inputs[slot] = list(references)
            for index, reference in enumerate(references):
                if isinstance(reference, InputReference) and reference.kind in kinds:
                    inputs[slot][index] = value = self.read_input(sample, reference)
                    if value is None:
                        return None
        return msgspec.structs.replace(sample, inputs=inputs)

    def close(self) -> None:
        """Renews the copy if anything changed since, notes the state of the rows, and unlocks the directory."""
        if self.closed:
            return
        self.closed = True
        if self.is_snapshot:
            self.database.close()
            return
        if self.database.damaged:
            write_durable(self.directory / repair.DAMAGE_MARK, b"")
        elif self.database.connection.total_changes != self.backed_up_changes:
            with contextlib.suppress(HomeroomError):  # the next opening sees to it
                self.back_up(force=True)
        if self.digests is not None and self.key_ring.writing and not self.database.damaged:
            with contextlib.suppress(HomeroomError):  # the next opening finds it as after a power cut
                self.change_key_ring(writing=False, digest_state=self.digests.state())
        self.cache.close()
        with contextlib.suppress(HomeroomError):  # a reader that is still there would leave the log behind
            self.database.empty_log()
        self.database.close()
        release_lock(self.directory, self.lock)
