"""Data keys inside device.db: one for each subject, one for values that mix subjects, one for indexes.

All are wrapped with the master key of the store's generation.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256

import msgspec

from homeroom.errors import BrokenSealError, KeyGoneError
from homeroom.store.encryption import Cipher, new_key, open_twice, seal_twice
from homeroom.store.master_keys import KeyRing
from homeroom.system.sqlite import Database

CONTENT_TAG = sha256(b"content").digest()
SELECT_SUBJECTS = "SELECT subject_id, name_index, data_key, name FROM subjects ORDER BY subject_id"
SEALED_TWICE = (  # table, key, column, owner: with the owner's key, then with the device's
    ("profiles", "subject_id", "facts", "subject_id"),
    ("segments", "owner || '/' || segment_id", "body", "owner"),
)
SEALED_BY_DEVICE = (  # table, key, column
    ("secrets", "name", "body"),
    ("versions", "version_id", "facts"),
    ("versions", "version_id", "theta"),
    ("refits", "version_id", "theta"),
    ("updates", "update_id", "data"),
    *(entry[:3] for entry in SEALED_TWICE),
)


@dataclass(frozen=True)
class Subject:
    """A subject, its number in the store, and its data key."""

    subject_id: int
    name: str
    cipher: Cipher


def content_index(cipher: Cipher, content_digest: bytes) -> bytes:
    """A keyed digest by which a sample of the same person's with the same inputs is found."""
    return cipher.index_of_digests(CONTENT_TAG, content_digest)


def near_index(cipher: Cipher, fingerprint: bytes) -> bytes | None:
    """A keyed digest by which near copies of the same person's are found; None where there is no fingerprint."""
    return cipher.index("near", fingerprint) if fingerprint else None


class DataKeys:
    """Unwraps and makes data keys. `device` seals values that mix subjects; `generation` is that of the master key."""

    def __init__(self, database: Database, key_ring: KeyRing) -> None:
        self.database = database
        row = database.one("SELECT generation, device_key, index_key FROM store")
        self.generation: int = row[0]
        master = key_ring.cipher(self.generation)
        if master is None:
            raise KeyGoneError(
                "this copy was made before a `forget`, and the key it was sealed with has been destroyed",
                where=str(database.path.parent),
                remedy="use the newest copy, or open the directory anew (everything in this copy is unreadable)",
            )
        self._master = master
        self.device = Cipher(master.open(row[1], "store.device_key", self.generation))
        self._index = Cipher(master.open(row[2], "store.index_key", self.generation))
        self._by_name: dict[str, Subject] = {}

    def index(self, name: str) -> bytes:
        """The keyed index of a subject's name, 16 bytes."""
        return self._index.index(name)

    def find(self, name: str) -> Subject | None:
        """The subject of that name, if the store knows it."""
        if name not in self._by_name:
            sql = "SELECT subject_id, data_key, name_index FROM subjects WHERE name_index = ?"
            row = self.database.one(sql, (self.index(name),))
            if row is None:
                return None
            self._by_name[name] = Subject(row[0], name, self._unwrap(row[1], row[2]))
        return self._by_name[name]

    def find_or_make(self, name: str) -> Subject:
        """The subject of that name, new if the store does not know it."""
        subject = self.find(name)
        if subject is None:
            index, key = self.index(name), new_key()
            row = (index, self._wrap(key, index), Cipher(key).seal(name.encode(), "subjects.name"))
            self.database.write("INSERT INTO subjects (name_index, data_key, name) VALUES (?, ?, ?)", row)
            subject = self.find(name)
            assert subject is not None
        return subject

    def all(self) -> Iterator[Subject]:
        """Every subject, in the order they came."""
        for row in self.database.rows(SELECT_SUBJECTS):
            yield self._open(row)

    def sound(self) -> tuple[dict[int, Subject], list[int]]:
        """Subjects by id whose key and name open, and the ids of the others."""
        sound, broken = {}, []
        for row in self.database.rows(SELECT_SUBJECTS):
            try:
                subject = self._open(row)
                if self.index(subject.name) != row[1]:
                    raise BrokenSealError("subjects.name_index")
                sound[subject.subject_id] = self._by_name.setdefault(subject.name, subject)
            except BrokenSealError:
                broken.append(row[0])
        return sound, broken

    def _open(self, row: tuple[int, bytes, bytes, bytes]) -> Subject:
        subject_id, index, wrapped, sealed = row
        cipher = self._unwrap(wrapped, index)
        return Subject(subject_id, cipher.open(sealed, "subjects.name").decode(), cipher)

    def ids(self, names: Iterable[str]) -> list[int]:
        """The subjects' numbers by name, new ones where the store does not know a name."""
        return [self.find_or_make(name).subject_id for name in sorted(set(names))]

    def renew(self, subject_id: int) -> None:
        """Gives a subject a new data key, and seals with it all that the subject still has; inside a step.

        Every sealed value must open. An input's row never changes: those of before go, others take their places.
        """
        sql = "SELECT subject_id, name_index, data_key, name FROM subjects WHERE subject_id = ?"
        row = self.database.one(sql, (subject_id,))
        old, new = self._open(row), Cipher(new_key())
        self._renew_samples(subject_id, old.cipher, new)
        for table, key, column, owner in SEALED_TWICE:
            for name, sealed in self.database.rows(
                f"SELECT {key}, {column} FROM {table} WHERE {owner} = ?", (subject_id,)
            ):
                associated_data = (f"{table}.{column}", name)
                plain = open_twice(self.device, old.cipher, sealed, *associated_data)
                body = seal_twice(self.device, new, plain, *associated_data)
                self.database.write(f"UPDATE {table} SET {column} = ? WHERE {key} = ?", (body, name))
        self.database.write(
            "UPDATE subjects SET data_key = ?, name = ? WHERE subject_id = ?",
            (self._wrap(new.key, row[1]), new.seal(old.name.encode(), "subjects.name"), subject_id),
        )
        self.reset()

    def _renew_samples(self, subject_id: int, old: Cipher, new: Cipher) -> None:
        sql = "SELECT sample_id, content, facts FROM samples WHERE subject_id = ?"
        for sample_id, content, sealed in self.database.rows(sql, (subject_id,)):
            renewed, packed = secrets.randbits(63), old.open(sealed, "samples.facts", sample_id, content)
            facts = msgspec.msgpack.decode(packed)
            found_by = (content_index(new, facts["content_digest"]), near_index(new, facts.get("near", b"")))
            row = (new.seal(packed, "samples.facts", sample_id, renewed), renewed, *found_by, sample_id)
            sql = "UPDATE samples SET facts = ?, content = ?, content_index = ?, near = ? WHERE sample_id = ?"
            self.database.write(sql, row)
            for (place,) in self.database.rows("SELECT place FROM inputs WHERE content = ?", (content,)):
                (body,) = self.database.one("SELECT body FROM inputs WHERE content = ? AND place = ?", (content, place))
                body = new.seal(
                    old.open(body, "inputs.body", f"{content}/{place}"), "inputs.body", f"{renewed}/{place}"
                )
                self.database.write("DELETE FROM inputs WHERE content = ? AND place = ?", (content, place))
                self.database.write("INSERT INTO inputs VALUES (?, ?, ?)", (renewed, place, body))

    def reset(self) -> None:
        """Forgets which subjects were read: after a step that was rolled back."""
        self._by_name.clear()

    def _wrap(self, key: bytes, index: bytes) -> bytes:
        return self._master.seal(key, "subjects.data_key", index.hex(), self.generation)

    def _unwrap(self, wrapped: bytes, index: bytes) -> Cipher:
        return Cipher(self._master.open(wrapped, "subjects.data_key", index.hex(), self.generation))

    def rotate(self, key_ring: KeyRing) -> None:
        """Wraps every key with the ring's newest, under new indexes and with a new device key; inside a step.

        After the step, `DataKeys` is to be made anew: this one has the keys of before.
        """
        subjects = list(self.all())
        generation, master = key_ring.newest, key_ring.newest_cipher
        device, indexer = Cipher(new_key()), Cipher(new_key())
        for table, key, column in SEALED_BY_DEVICE:
            for name, body in self.database.rows(f"SELECT {key}, {column} FROM {table} WHERE {column} IS NOT NULL"):
                associated_data = (table if table == "secrets" else f"{table}.{column}", name)
                body = device.seal(self.device.open(body, *associated_data), *associated_data)
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


def wrap_store_keys(master: Cipher, generation: int, device_key: bytes, index_key: bytes) -> tuple[bytes, bytes]:
    """Device key and index key, wrapped with the master key of a generation."""
    return (
        master.seal(device_key, "store.device_key", generation),
        master.seal(index_key, "store.index_key", generation),
    )


def insert_store_keys(database: Database, store_id: str, key_ring: KeyRing) -> None:
    """Makes the keys of a new store."""
    wrapped = wrap_store_keys(key_ring.newest_cipher, key_ring.newest, new_key(), new_key())
    database.write("INSERT INTO store VALUES (1, ?, ?, ?, ?)", (store_id, key_ring.newest, *wrapped))
