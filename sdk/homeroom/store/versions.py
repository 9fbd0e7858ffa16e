"""Versions of theta in the store, the history of the current one, and the state of an unfinished training."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import msgspec
import numpy as np

from homeroom.store.context import StoreContext
from homeroom.store.device_state import StateRecord, json_record
from homeroom.store.records import StoredVersion

KEPT_VERSIONS = 8  # the newest stay, beside the current one
HISTORY_LENGTH = 32  # versions that can be stepped back to
SELECT_VERSION = "SELECT version_id, kind, base, facts FROM versions"


class UnfinishedTraining(msgspec.Struct, frozen=True, array_like=True):
    """The state of a training that was interrupted; `tag` says what it belongs to.

    version_id: the version that came of it, where only its fit on all samples is left; refit: the state of that one
    """

    tag: str
    state: bytes
    version_id: str = ""
    refit: bytes = b""


def _pack(training: UnfinishedTraining) -> bytes:
    """In MessagePack; a first fit's as by 0.1.0, which knows no other."""
    fields = msgspec.structs.astuple(training)
    return msgspec.msgpack.encode(fields if training.version_id else fields[:2])


TRAINING = StateRecord("state", _pack, partial(msgspec.msgpack.decode, type=UnfinishedTraining))
HISTORY = json_record("history", list[str])  # ids of the versions in use, the present one last


class Versions:
    """The versions of theta that one store holds."""

    def __init__(self, context: StoreContext) -> None:
        self._context = context

    def put(
        self,
        theta: np.ndarray,
        kind: Literal["local", "global"],
        base: int,
        facts: Mapping[str, Any],
        subjects: Iterable[str] = (),
    ) -> str:
        """Stores theta float32 [P] and returns its version_id. It does not become current by this.

        kind: trained here, or received from the aggregator.
        base: the global version that it is, or was trained from.
        facts: anything that JSON can hold.
        subjects: whose samples entered it.
        """
        version_id = secrets.token_hex(16)
        data = np.ascontiguousarray(theta, np.float32).tobytes()
        seal, database = self._context.keys.device.seal, self._context.database
        sealed = seal(msgspec.json.encode(dict(facts)), "versions.facts", version_id)
        row = (version_id, kind, base, sealed, seal(data, "versions.theta", version_id))
        with database.transaction():
            database.write("INSERT INTO versions (version_id, kind, base, facts, theta) VALUES (?, ?, ?, ?, ?)", row)
            self._context.link("version", version_id, subjects)
            self._drop_old()
        return version_id

    def all(self) -> list[StoredVersion]:
        """All versions held, oldest first."""
        return [self._read(row) for row in self._context.database.rows(f"{SELECT_VERSION} ORDER BY number")]

    def theta(self, version_id: str) -> np.ndarray:
        """The float32 [P] of a version."""
        row = self._context.database.one("SELECT theta FROM versions WHERE version_id = ?", (version_id,))
        return np.frombuffer(self._context.keys.device.open(row[0], "versions.theta", version_id), np.float32).copy()

    def put_facts(self, version_id: str, facts: Mapping[str, Any]) -> None:
        """Stores facts in place of a version's own."""
        sealed = self._context.keys.device.seal(msgspec.json.encode(dict(facts)), "versions.facts", version_id)
        self._context.database.write("UPDATE versions SET facts = ? WHERE version_id = ?", (sealed, version_id))

    def put_refit(self, version_id: str, theta: np.ndarray) -> None:
        """Stores theta float32 [P] of the fit on all samples that answers for a version, and goes with it."""
        data = np.ascontiguousarray(theta, np.float32).tobytes()
        row = (version_id, self._context.keys.device.seal(data, "refits.theta", version_id))
        self._context.database.write("INSERT OR REPLACE INTO refits VALUES (?, ?)", row)

    def refit(self, version_id: str) -> np.ndarray | None:
        """The float32 [P] that `put_refit` stored, or None."""
        row = self._context.database.one("SELECT theta FROM refits WHERE version_id = ?", (version_id,))
        if row is None:
            return None
        return np.frombuffer(self._context.keys.device.open(row[0], "refits.theta", version_id), np.float32).copy()

    def has_refit(self, version_id: str) -> bool:
        """Whether `refit` has one."""
        return self._context.database.one("SELECT 1 FROM refits WHERE version_id = ?", (version_id,)) is not None

    def subjects(self, version: StoredVersion) -> tuple[str, ...]:
        """Whose samples entered a version, by way of the versions it was trained from too."""
        return self._context.linked("version", version.version_id)

    def newest_global(self) -> StoredVersion | None:
        """The global version with the highest number."""
        sql = f"{SELECT_VERSION} WHERE kind = 'global' ORDER BY base DESC, number DESC LIMIT 1"
        row = self._context.database.one(sql)
        return None if row is None else self._read(row)

    def newest_local(self) -> StoredVersion | None:
        """The version that was trained here last."""
        row = self._context.database.one(f"{SELECT_VERSION} WHERE kind = 'local' ORDER BY number DESC LIMIT 1")
        return None if row is None else self._read(row)

    def current(self) -> StoredVersion | None:
        """The version that `predict` uses; None means the bundle's own theta."""
        for version_id in reversed(self._history()):
            if row := self._context.database.one(f"{SELECT_VERSION} WHERE version_id = ?", (version_id,)):
                return self._read(row)
        return None

    def set_current(self, version_id: str) -> None:
        """Makes a version current."""
        self._put_history(version_id, version_id)

    def step_back(self) -> StoredVersion | None:
        """Makes the version before the current one current (None: the bundle's) and returns it."""
        if (present := self.current()) is not None:
            self._put_history(present.version_id)
            if (left := self.unfinished()) and left.version_id == present.version_id:
                self.drop_state()
        return self.current()

    def save_state(
        self, data: bytes, tag: str, subjects: Iterable[str], version_id: str = "", refit: bytes = b""
    ) -> None:
        """Keeps the one state of an unfinished training; the others as in `UnfinishedTraining`."""
        with self._context.database.transaction():
            self.drop_state()
            TRAINING.write(self._context, UnfinishedTraining(tag, data, version_id, refit))
            self._context.link("state", "state", subjects)

    def load_state(self, tag: str) -> bytes | None:
        """The state of an unfinished training of the same `tag`, or None."""
        stored = self.unfinished()
        return stored.state if stored and stored.tag == tag else None

    def unfinished(self) -> UnfinishedTraining | None:
        """The unfinished training, or None."""
        return TRAINING.read(self._context)

    def is_unfinished(self) -> bool:
        """Whether the state of an unfinished training is kept."""
        return TRAINING.exists(self._context)

    def drop_state(self) -> None:
        """Removes the state of an unfinished training."""
        with self._context.database.transaction():
            TRAINING.write(self._context, None)
            self._context.unlink("state", "state")

    def _read(self, row: Sequence[Any]) -> StoredVersion:
        facts = self._context.keys.device.open(row[3], "versions.facts", row[0])
        return StoredVersion(row[0], row[1], row[2], msgspec.json.decode(facts))

    def _history(self) -> list[str]:
        return HISTORY.read(self._context) or []

    def _put_history(self, without: str, *more: str) -> None:
        history = [entry for entry in self._history() if entry != without]
        HISTORY.write(self._context, [*history, *more][-HISTORY_LENGTH:])

    def _drop_old(self) -> None:
        """Removes all but the newest; the last local one has the segments that stay on the device."""
        database = self._context.database
        kept = {v.version_id for v in (self.current(), self.newest_global(), self.newest_local()) if v}
        sql = "SELECT version_id FROM versions ORDER BY number DESC LIMIT -1 OFFSET ?"
        for (version_id,) in database.rows(sql, (KEPT_VERSIONS,)):
            if version_id not in kept:
                database.write("DELETE FROM versions WHERE version_id = ?", (version_id,))
                self._context.unlink("version", version_id)
