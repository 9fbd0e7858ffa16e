"""The data keys inside device.db: one a subject, one for what mixes subjects, one for indexes; imports the vault.

All are wrapped with the master key of the store's generation.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from homeroom.errors import StoreError
from homeroom.store.encryption import BrokenSealError, Cipher, new_key, open_twice, seal_twice
from homeroom.store.master_keys import Ring
from homeroom.system.sqlite import Database


class KeyGoneError(StoreError):
    """The ring no longer has the master key that this device.db was sealed with."""


@dataclass(frozen=True)
class Subject:
    subject_id: int
    name: str
    cipher: Cipher


class KeyBook:
    """Opens and makes keys. `device` seals what mixes subjects; `generation` is that of the master key in use."""

    def __init__(self, database: Database, ring: Ring) -> None:
        self.database = database
        row = database.one("SELECT generation, device_key, index_key FROM store")
        self.generation: int = row[0]
        master = ring.cipher(self.generation)
        if master is None:
            raise KeyGoneError(
                "this copy was made before a `forget`, and the key it was sealed with has been destroyed",
                where=str(database.path.parent),
                remedy="use the newest copy, or open the directory anew (everything in this copy is unreadable)",
            )
        self._master = master
        self.device = Cipher(master.open(row[1], "store.device_key", self.generation))
        self._index = Cipher(master.open(row[2], "store.index_key", self.generation))
        self._known: dict[str, Subject] = {}

    def index(self, name: str) -> bytes:
        return self._index.index(name)

    def find(self, name: str) -> Subject | None:
        """The subject of that name, if the store knows it."""
        if name not in self._known:
            sql = "SELECT subject_id, data_key, name_index FROM subjects WHERE name_index = ?"
            row = self.database.one(sql, (self.index(name),))
            if row is None:
                return None
            self._known[name] = Subject(row[0], name, self._unwrap(row[1], row[2]))
        return self._known[name]

    def find_or_make(self, name: str) -> Subject:
        found = self.find(name)
        if found is None:
            index, key = self.index(name), new_key()
            row = (index, self._wrap(key, index), Cipher(key).seal(name.encode(), "subjects.name"))
            self.database.write("INSERT INTO subjects (name_index, data_key, name) VALUES (?, ?, ?)", row)
            found = self.find(name)
            assert found is not None
        return found

    def all(self) -> Iterator[Subject]:
        for row in self.database.rows(SUBJECTS):
            yield self._open(row)

    def sound(self) -> tuple[dict[int, Subject], list[int]]:
        """Subjects by id whose key and name open, and the ids of the others."""
        good, broken = {}, []
        for row in self.database.rows(SUBJECTS):
            try:
                subject = self._open(row)
                if self.index(subject.name) != row[1]:
                    raise BrokenSealError("subjects.name_index")
                good[subject.subject_id] = self._known.setdefault(subject.name, subject)
            except BrokenSealError:
                broken.append(row[0])
        return good, broken

    def _open(self, row: tuple[int, bytes, bytes, bytes]) -> Subject:
        subject_id, index, wrapped, sealed = row
        cipher = self._unwrap(wrapped, index)
        return Subject(subject_id, cipher.open(sealed, "subjects.name").decode(), cipher)

    def ids(self, names: Iterable[str]) -> list[int]:
        return [self.find_or_make(name).subject_id for name in sorted(set(names))]

    def renew(self, subject_id: int) -> None:
        """Inside a step: give a subject a new data key and seal what it still has with that."""
        sql = "SELECT subject_id, name_index, data_key, name FROM subjects WHERE subject_id = ?"
        row = self.database.one(sql, (subject_id,))
        old, new = self._open(row), Cipher(new_key())
        for sample_id, *sealed in self.database.rows(
            "SELECT sample_id, facts, inputs FROM samples WHERE subject_id = ?", (subject_id,)
        ):
            places = (("samples.facts", sample_id), ("samples.inputs", sample_id))
            bodies = [new.seal(old.cipher.open(s, *p), *p) for s, p in zip(sealed, places, strict=True)]
            self.database.write("UPDATE samples SET facts = ?, inputs = ? WHERE sample_id = ?", (*bodies, sample_id))
        for table, key, column, owner in PERSONAL:
            for name, sealed in self.database.rows(
                f"SELECT {key}, {column} FROM {table} WHERE {owner} = ?", (subject_id,)
            ):
                place = (f"{table}.{column}", name)
                plain = open_twice(self.device, old.cipher, sealed, *place)
                body = seal_twice(self.device, new, plain, *place)
                self.database.write(f"UPDATE {table} SET {column} = ? WHERE {key} = ?", (body, name))
        self.database.write(
            "UPDATE subjects SET data_key = ?, name = ? WHERE subject_id = ?",
            (self._wrap(new.key, row[1]), new.seal(old.name.encode(), "subjects.name"), subject_id),
        )
        self.reset()

    def reset(self) -> None:
        """Forget which subjects were read: after a step that was rolled back."""
        self._known.clear()

    def _wrap(self, key: bytes, index: bytes) -> bytes:
        return self._master.seal(key, "subjects.data_key", index.hex(), self.generation)

    def _unwrap(self, wrapped: bytes, index: bytes) -> Cipher:
        return Cipher(self._master.open(wrapped, "subjects.data_key", index.hex(), self.generation))

    def rotate(self, ring: Ring) -> None:
        """Inside a step: seal every key with the ring's newest, under new indexes and with a new device key.

        Once the step is done, a new key book is to be opened; this one is of before.
        """
        subjects = list(self.all())
        generation = ring.newest
        master = ring.cipher(generation)
        assert master is not None
        device, indexer = Cipher(new_key()), Cipher(new_key())
        for table, key, column in MIXED:
            for name, body in self.database.rows(f"SELECT {key}, {column} FROM {table} WHERE {column} IS NOT NULL"):
                place = (table if table == "secrets" else f"{table}.{column}", name)
                body = device.seal(self.device.open(body, *place), *place)
                self.database.write(f"UPDATE {table} SET {column} = ? WHERE {key} = ?", (body, name))
        for subject in subjects:
            index = indexer.index(subject.name)
            wrapped = master.seal(subject.cipher.key, "subjects.data_key", index.hex(), generation)
            self.database.write(
                "UPDATE subjects SET name_index = ?, data_key = ? WHERE subject_id = ?",
                (index, wrapped, subject.subject_id),
            )
        self.database.write(
            "UPDATE store SET generation = ?, device_key = ?, index_key = ?",
            (generation, *wrap_store_keys(master, generation, device.key, indexer.key)),
        )


SUBJECTS = "SELECT subject_id, name_index, data_key, name FROM subjects ORDER BY subject_id"
PERSONAL = (  # sealed twice: with the owner's key, then with the device's
    ("profiles", "subject_id", "facts", "subject_id"),
    ("segments", "owner || '/' || segment_id", "body", "owner"),
)
MIXED = (
    ("secrets", "name", "body"),
    ("versions", "version_id", "facts"),
    ("versions", "version_id", "theta"),
    ("updates", "update_id", "data"),
    *(entry[:3] for entry in PERSONAL),
)


def wrap_store_keys(master: Cipher, generation: int, device_key: bytes, index_key: bytes) -> tuple[bytes, bytes]:
    return (
        master.seal(device_key, "store.device_key", generation),
        master.seal(index_key, "store.index_key", generation),
    )


def first_row(connection: sqlite3.Connection, store_id: str, ring: Ring) -> None:
    """Make the keys of a new store."""
    generation = ring.newest
    master = ring.cipher(generation)
    assert master is not None
    row = (store_id, generation, *wrap_store_keys(master, generation, new_key(), new_key()))
    connection.execute("INSERT INTO store VALUES (1, ?, ?, ?, ?)", row)
