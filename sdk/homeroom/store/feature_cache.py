"""cache.db: computed features, sealed with their subject's key, rebuilt when damaged."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np

from homeroom.errors import BrokenSealError, DamagedError
from homeroom.store.data_keys import DataKeys
from homeroom.store.encryption import Cipher
from homeroom.store.schema import CACHE
from homeroom.system.sqlite import Database

FEATURES_PER_QUERY = 32  # half the cost of a query each
CHECKED_AT_OPEN_BYTES = 4 << 20  # a larger cache is not checked as a whole: a lost row is computed again


class FeatureCache:
    """Features int8 [taps, n, dim] by (variant of the backbone, subject, digest of the content)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rebuilt = False

    @cached_property
    def _database(self) -> Database:
        return self._open()

    def _open(self) -> Database:
        try:
            database = Database(self.path, durable=False)
            database.write(CACHE)
            if self.path.stat().st_size <= CHECKED_AT_OPEN_BYTES and database.check():
                database.close()
                raise DamagedError(str(self.path))
            return database
        except DamagedError:
            self._delete()
            return self._open()

    def _delete(self) -> None:
        self.rebuilt = True
        for suffix in ("", "-wal", "-shm", "-journal"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)

    def rebuild(self) -> None:
        """Starts with an empty cache, after damage."""
        self._database.close()
        self._delete()
        self._database = self._open()

    @contextlib.contextmanager
    def _rebuilt_if_damaged(self) -> Iterator[None]:
        """Ends what is under way where the cache is found damaged, and starts with an empty one."""
        try:
            yield
        except DamagedError:
            self.rebuild()

    def read(
        self, keys: DataKeys, variant: str, wanted: Iterable[tuple[str, bytes]]
    ) -> dict[tuple[str, bytes], np.ndarray]:
        """Cached features by (subject, content digest); a damaged row counts as absent and is removed."""
        features: dict[tuple[str, bytes], np.ndarray] = {}
        rest = iter(wanted)
        with self._rebuilt_if_damaged():
            while some := list(islice(rest, FEATURES_PER_QUERY)):
                known = {
                    (s.subject_id, s.cipher.index("features", variant, content)): (s, content)
                    for subject, content in some
                    if (s := keys.find(subject))
                }
                if not known:
                    continue
                where = " OR ".join(["(subject_id = ? AND name = ?)"] * len(known))
                sql = f"SELECT subject_id, name, body FROM features WHERE {where}"
                for owner, name, body in self._database.rows(sql, [part for key in known for part in key]):
                    subject, content = known[owner, name]
                    try:
                        features[subject.name, content] = _unpack(subject.cipher, body, name)
                    except BrokenSealError:
                        self.rebuilt = True
                        self._database.write("DELETE FROM features WHERE name = ?", (name,))
            return features
        return {}

    def held(self, keys: DataKeys, variant: str, wanted: Iterable[tuple[str, bytes]]) -> set[tuple[str, bytes]]:
        """Which of the (subject, content digest) pairs have a row, without opening it."""
        held, sql = set(), "SELECT 1 FROM features WHERE subject_id = ? AND name = ?"
        with self._rebuilt_if_damaged():
            for name, content in wanted:
                if subject := keys.find(name):
                    index = subject.cipher.index("features", variant, content)
                    if self._database.one(sql, (subject.subject_id, index)):
                        held.add((name, content))
            return held
        return set()

    def write(self, keys: DataKeys, variant: str, features: Mapping[tuple[str, bytes], np.ndarray]) -> None:
        """Caches features by (subject, content digest); subjects that the store does not know are skipped."""
        rows = []
        for (name, content), array in features.items():
            subject = keys.find(name)
            if subject is not None:  # forgotten meanwhile: nothing to keep
                index = subject.cipher.index("features", variant, content)
                rows.append((subject.subject_id, index, _pack(subject.cipher, array, index)))
        sql = "INSERT OR REPLACE INTO features (subject_id, name, body) VALUES (?, ?, ?)"
        with self._rebuilt_if_damaged():
            return self._database.write_many(sql, rows)
        self._database.write_many(sql, rows)

    def count(self, subject_id: int) -> int:
        """How many inputs of a subject have cached features."""
        with self._rebuilt_if_damaged():
            return int(self._database.one("SELECT count(*) FROM features WHERE subject_id = ?", (subject_id,))[0])
        return 0

    def forget(self, subject_ids: Iterable[int]) -> None:
        """Deletes subjects' rows, and empties the log that may hold them."""
        with self._rebuilt_if_damaged():
            self._database.write_many("DELETE FROM features WHERE subject_id = ?", [(i,) for i in subject_ids])
            self._database.empty_log()

    def keep_only(self, subject_ids: Iterable[int]) -> None:
        """Deletes the rows of every other subject: after a `forget` that was cut short, or a restored store."""
        with self._rebuilt_if_damaged():
            there = {row[0] for row in self._database.rows("SELECT DISTINCT subject_id FROM features")}
            if gone := there - set(subject_ids):
                self.forget(gone)

    def close(self) -> None:
        """Closes the database."""
        if "_database" in vars(self):
            self._database.close()


def _pack(cipher: Cipher, array: np.ndarray, index: bytes) -> bytes:
    array = np.ascontiguousarray(array, np.int8)
    return cipher.seal(msgspec.msgpack.encode((array.shape, array.tobytes())), "features", index.hex())


def _unpack(cipher: Cipher, body: bytes, index: bytes) -> np.ndarray:
    shape, data = PACKED_FEATURES.decode(cipher.open(body, "features", index.hex()))
    return np.frombuffer(data, np.int8).reshape(shape)


PACKED_FEATURES = msgspec.msgpack.Decoder(tuple[tuple[int, int, int], bytes])
