"""The device's store: samples, versions of theta, outbox and secrets in one encrypted SQLite file, features beside it.

It may import vault, backup, samples and its own parts; no other module of the device writes SQL.
"""

from __future__ import annotations

import datetime
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from homeroom.data.samples import StoredSample
from homeroom.store import clone_detection
from homeroom.store.context import Opened
from homeroom.store.data_keys import KeyBook, Subject
from homeroom.store.encryption import Cipher
from homeroom.store.erasure import expire, forget_subject
from homeroom.store.feature_cache import FeatureCache
from homeroom.store.master_keys import Keys
from homeroom.store.open import open_store
from homeroom.store.profiles import put_profile, read_profile
from homeroom.store.records import Export, ForgetReport, StoredProfile, StoredUpdate, Version
from homeroom.store.samples import add_samples, put_aside, put_back, read_sample, relabel, set_aside, those
from homeroom.system.sqlite import Database

RESIDUAL = "residual."  # of a secret's name; the update's id follows
SPENT_RESIDUALS = "name IN (SELECT 'residual.' || update_id FROM updates WHERE state = 'sent')"
KEPT_VERSIONS = 8  # newest versions of theta that stay, beside the current one


class Store:
    """One device directory's store, open in this process alone. Subjects are given and returned by name.

    Every method that changes something is one step: afterwards it is durable, or (an error, a power cut) nothing
    happened. `step` joins several into one.
    """

    def __init__(self, opened: Opened) -> None:
        self._opened = opened
        self.directory, self.store_id, self.moved = opened.directory, opened.store_id, opened.moved
        self.key_place = opened.places.place

    @classmethod
    def open(cls, directory: Path, keys: Keys | None = None, *, anew: bool = False) -> Store:
        """Open or make the store of a directory; finishes what was cut short, restores what is damaged.

        `anew` discards a store whose master key is not on this machine. Raises StoreError if another process holds it,
        the key is missing, or it cannot be written.
        """
        return cls(open_store(Path(directory), keys, anew=anew))

    def close(self) -> None:
        self._opened.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def step(self, event: str, count: int | None = None) -> AbstractContextManager[None]:
        """Join what is done inside into one durable step, written to the audit log under `event`."""
        return self._opened.step(event, count)

    # Samples

    def add(
        self, samples: Iterable[StoredSample], fingerprint: Callable[[StoredSample], bytes] | None = None
    ) -> list[str]:
        """Store all samples or none; return their ids. One that is there, content and labels alike, is not doubled.

        fingerprint: what near copies have in common; see `homeroom.store.samples`.
        """
        return add_samples(self._opened, samples, fingerprint)

    def set_aside(self) -> list[StoredSample]:
        """Samples that are kept out of training, without their inputs; `aside` says why."""
        return set_aside(self._opened)

    def put_aside(self, reasons: Mapping[str, str]) -> list[str]:
        """Keep samples out of training, each for its reason; return their ids. Those that were put back before stay."""
        return put_aside(self._opened, reasons)

    def put_back(self, sample_ids: Sequence[str]) -> None:
        """Let samples teach after all; InputError, and nothing changed, if one of them is not set aside."""
        put_back(self._opened, sample_ids)

    def relabel(self, sample_id: str, labels: Mapping[str, Any]) -> str:
        """Give a sample other labels, in place of all it has; return its new id. InputError if it is not there."""
        return relabel(self._opened, sample_id, labels)

    def sample(self, sample_id: str) -> StoredSample | None:
        return read_sample(self._opened, sample_id)

    def each_facts(self) -> Iterator[StoredSample]:
        """Every sample without its inputs, in no order."""
        return (sample for _, sample in self._opened.each_facts())

    def those(self, chosen: Callable[[StoredSample], bool]) -> Sequence[StoredSample]:
        """Samples that are `chosen` by their facts, in the order they were added, each read when it is asked for."""
        return those(self._opened, chosen)

    def samples_mark(self) -> str:
        """Changes whenever a sample comes, goes, is labelled anew or put back."""
        return "/".join(map(str, self._database.one("SELECT count(*), max(number), sum(aside) FROM samples")))

    def samples(self, subject: str | None = None) -> list[StoredSample]:
        """Every sample, or one subject's, in the order they were added."""
        return list(self.each_sample(subject))

    def each_sample(self, subject: str | None = None) -> Iterator[StoredSample]:
        """As `samples`, one at a time."""
        return self._opened.read_samples(subject)

    def count(self) -> int:
        return int(self._database.one("SELECT count(*) FROM samples")[0])

    def subjects(self) -> list[str]:
        return [subject.name for subject in self._keys.all()]

    # Features

    def read_features(self, variant: str, wanted: Iterable[tuple[str, bytes]]) -> dict[tuple[str, bytes], np.ndarray]:
        """Cached features int8 [taps, n, dim] by (subject, content digest), as far as they are there."""
        return self._cache.read(self._keys, variant, wanted)

    def held_features(self, variant: str, wanted: Iterable[tuple[str, bytes]]) -> set[tuple[str, bytes]]:
        """Which of the (subject, content digest) pairs have cached features."""
        return self._cache.held(self._keys, variant, wanted)

    def write_features(self, variant: str, features: Mapping[tuple[str, bytes], np.ndarray]) -> None:
        """Cache features by (subject, content digest); subjects that the store does not know are skipped."""
        self._cache.write(self._keys, variant, features)

    # Versions of theta and the state of training

    def put_version(
        self,
        theta: np.ndarray,
        kind: Literal["local", "global"],
        base: int,
        facts: Mapping[str, Any],
        subjects: Iterable[str] = (),
    ) -> str:
        """Store theta float32 [P] and which subjects entered it; return its id. It does not become current by this."""
        version_id = secrets.token_hex(16)
        data = np.ascontiguousarray(theta, np.float32).tobytes()
        with self._database.step():
            self._database.write(
                "INSERT INTO versions (version_id, kind, base, facts, theta) VALUES (?, ?, ?, ?, ?)",
                (
                    version_id,
                    kind,
                    base,
                    self._device.seal(msgspec.json.encode(dict(facts)), "versions.facts", version_id),
                    self._device.seal(data, "versions.theta", version_id),
                ),
            )
            self._link("version", version_id, subjects)
            self._drop_old_versions()
        return version_id

    def versions(self) -> list[Version]:
        """All versions held, oldest first."""
        return [self._version(row) for row in self._database.rows(f"{VERSIONS} ORDER BY number")]

    def theta(self, version_id: str) -> np.ndarray:
        """The float32 [P] of a version."""
        row = self._database.one("SELECT theta FROM versions WHERE version_id = ?", (version_id,))
        return np.frombuffer(self._device.open(row[0], "versions.theta", version_id), np.float32).copy()

    def subjects_of(self, version: Version) -> tuple[str, ...]:
        """Whose samples entered a version, by way of the versions it was trained from too."""
        return self._entered("version", version.version_id)

    def newest_global(self) -> Version | None:
        row = self._database.one(f"{VERSIONS} WHERE kind = 'global' ORDER BY base DESC, number DESC LIMIT 1")
        return None if row is None else self._version(row)

    def current(self) -> Version | None:
        """The version that `predict` uses; None means the bundle's own theta."""
        for version_id in reversed(self._history()):
            if row := self._database.one(f"{VERSIONS} WHERE version_id = ?", (version_id,)):
                return self._version(row)
        return None

    def set_current(self, version_id: str) -> None:
        history = [v for v in self._history() if v != version_id]
        self._put_history([*history, version_id])

    def step_back(self) -> Version | None:
        """Make the version before the current one current (None: the bundle's) and return it."""
        if (present := self.current()) is not None:
            self._put_history([v for v in self._history() if v != present.version_id])
        return self.current()

    def save_state(self, data: bytes, tag: str, subjects: Iterable[str]) -> None:
        """Keep the one state of an unfinished training; `tag` says what it belongs to."""
        with self._database.step():
            self.drop_state()
            self.put_secret("state", msgspec.msgpack.encode((tag, data)))
            self._link("state", "state", subjects)

    def load_state(self, tag: str) -> bytes | None:
        """The state of an unfinished training of the same `tag`."""
        if (body := self.get_secret("state")) is None:
            return None
        found, data = msgspec.msgpack.decode(body, type=tuple[str, bytes])
        return data if found == tag else None

    def drop_state(self) -> None:
        with self._database.step():
            self._database.write("DELETE FROM secrets WHERE name = 'state'")
            self._database.write("DELETE FROM lineage WHERE kind = 'state'")

    # Personal theta

    def put_profile(
        self, subject: str, facts: Mapping[str, Any], segments: Mapping[str, np.ndarray], subjects: Iterable[str]
    ) -> None:
        """Store a person's own float32 [size] by segment_id, and who entered it, in place of what was there."""
        put_profile(self._opened, subject, facts, segments, subjects)

    def profile(self, subject: str) -> StoredProfile | None:
        return read_profile(self._opened, subject)

    def profiles(self) -> int:
        """How many persons have one."""
        return int(self._database.one("SELECT count(*) FROM profiles")[0])

    # Outbox

    def queue_update(
        self,
        update_id: str,
        data: bytes,
        base: int,
        subjects: Iterable[str],
        bundle_id: str = "",
        residual: bytes = b"",
    ) -> bool:
        """Queue a signed update in place of an unsent one of the same bundle and base.

        residual: what it could not carry, for the update after it. False, and nothing changed, if one of that base is
        on its way or sent, or this very one was refused.
        """
        sql = "SELECT update_id, state FROM updates WHERE bundle_id = ? AND base = ?"
        with self._database.step():
            for old, state in self._database.rows(sql, (bundle_id, base)):
                if state in ("sending", "sent") or (state == "refused" and old == update_id):
                    return False
                self.drop_update(old)
            sealed = self._device.seal(data, "updates.data", update_id)
            row = (update_id, bundle_id, base, sealed)
            self._database.write("INSERT INTO updates VALUES (?, ?, ?, 'pending', ?)", row)
            self._link("update", update_id, subjects)
            self.put_secret(f"{RESIDUAL}{update_id}", residual or None)
        return True

    def residual(self) -> tuple[bytes, tuple[str, ...]]:
        """What the last update that was sent, or begun to be, could not carry, and the subjects in it."""
        sql = "SELECT update_id FROM updates WHERE state IN ('sending', 'sent') ORDER BY rowid DESC"
        for (update_id,) in self._database.rows(sql):
            if body := self.get_secret(f"{RESIDUAL}{update_id}"):
                return body, self._entered("update", update_id)
        return b"", ()

    def pending_updates(self) -> list[StoredUpdate]:
        """Updates to send, oldest base first; those whose sending was begun are sent again under the same id."""
        rows = self._database.rows("SELECT update_id, base, data FROM updates WHERE data IS NOT NULL ORDER BY base")
        return [StoredUpdate(u, base, self._device.open(data, "updates.data", u)) for u, base, data in rows]

    def sent_updates(self) -> list[str]:
        return [row[0] for row in self._database.rows("SELECT update_id FROM updates WHERE state = 'sent'")]

    def mark_sending(self, update_id: str) -> None:
        """To be called before the first attempt: it may arrive although we never hear of it, so it is not replaced."""
        clone_detection.begin_sending(self._opened, update_id)
        self._database.write("UPDATE updates SET state = 'sending' WHERE update_id = ?", (update_id,))

    def note_charge(self, noise: str, update_id: str) -> None:
        """Count a private update of a noise multiplier outside the directory, before its first byte leaves."""
        clone_detection.note_charge(self._opened, noise, update_id)

    def charges(self) -> dict[str, int]:
        """How many private updates were begun, by noise multiplier, whatever copy of the directory this is."""
        return {noise: count for noise, (count, _) in self._opened.ring.charged.items()}

    def mark_sent(self, update_id: str) -> None:
        """The aggregator has it, or its part in a sum: keep its id and lineage, not its bytes."""
        clone_detection.begin_sending(self._opened, update_id)
        with self.step("sent", 1):
            self._database.write("UPDATE updates SET state = 'sent', data = NULL WHERE update_id = ?", (update_id,))
            self._database.write(f"DELETE FROM secrets WHERE name != ? AND {SPENT_RESIDUALS}", (RESIDUAL + update_id,))
        self._opened.back_up()

    def mark_refused(self, update_id: str) -> None:
        """The aggregator will not have it: it is not sent again, and another may take its place."""
        with self.step("refused", 1):
            sql = "UPDATE updates SET state = 'refused', data = NULL WHERE update_id = ?"
            self._database.write(sql, (update_id,))
            self.put_secret(f"{RESIDUAL}{update_id}", None)

    def call_off(self, update_id: str) -> None:
        """Do not send an update: dropped if nobody can have it, else left as sent, so that it is not counted twice."""
        sql = "UPDATE updates SET state = 'sent', data = NULL WHERE update_id = ? AND state = 'sending'"
        with self._database.step():
            if not self._database.write(sql, (update_id,)):
                self.drop_update(update_id)

    def drop_update(self, update_id: str) -> None:
        with self._database.step():
            self._database.write("DELETE FROM updates WHERE update_id = ?", (update_id,))
            self._database.write("DELETE FROM lineage WHERE kind = 'update' AND item = ?", (update_id,))
            self.put_secret(f"{RESIDUAL}{update_id}", None)

    def queue_unlearn(self, update_id: str) -> None:
        self._database.write("INSERT OR IGNORE INTO unlearning VALUES (?, 'pending')", (update_id,))

    def pending_unlearn(self) -> list[str]:
        return [row[0] for row in self._database.rows("SELECT update_id FROM unlearning WHERE state = 'pending'")]

    def mark_unlearned(self, update_id: str) -> None:
        with self.step("unlearning asked", 1):
            self._database.write("UPDATE unlearning SET state = 'sent' WHERE update_id = ?", (update_id,))

    # Secrets: small named values, such as the device's signing key and its enrolment

    def get_secret(self, name: str) -> bytes | None:
        row = self._database.one("SELECT body FROM secrets WHERE name = ?", (name,))
        return None if row is None else self._device.open(row[0], "secrets", name)

    def put_secret(self, name: str, body: bytes | None) -> None:
        """Store a value under a name; None removes it."""
        if body is None:
            self._database.write("DELETE FROM secrets WHERE name = ?", (name,))
        else:
            sealed = self._device.seal(body, "secrets", name)
            self._database.write("INSERT OR REPLACE INTO secrets VALUES (?, ?)", (name, sealed))

    # Subjects' rights

    def forget(self, subject: str) -> ForgetReport:
        """Destroy a subject's key and all that stems from it; InputError if there is no such subject."""
        return forget_subject(self._opened, subject)

    def export(self, subject: str) -> Export:
        """All that is held about a subject; InputError if there is no such subject."""
        found = self._opened.known(subject)
        return Export(
            subject=subject,
            samples=tuple(self.each_sample(subject)),
            versions=tuple(self._items(found, "version")),
            updates=tuple(self._items(found, "update")),
            cached_features=self._cache.count(found.subject_id),
            profile=self.profile(subject),
        )

    def audit(self) -> list[dict[str, Any]]:
        """What was done, oldest first; no names."""
        rows = self._database.rows("SELECT at, event, count FROM audit ORDER BY number")
        return [dict(zip(("at", "event", "count"), row, strict=True)) for row in rows]

    def today(self) -> datetime.date:
        """The day that retention goes by."""
        return self._opened.look_at_clock().newest

    def clock_warning(self) -> str | None:
        """What is odd about the system's clock, if anything."""
        return self._opened.believed.warning

    def expire(self) -> int:
        """Remove samples whose retention date has passed; return how many."""
        return expire(self._opened, self.today().isoformat())

    def damage(self) -> list[str]:
        """What was found damaged so far, and what became of it, oldest first."""
        return [f"{at}: {what}" for at, what in self._database.rows("SELECT at, what FROM damage ORDER BY number")]

    def back_up(self) -> None:
        """Renew the copy in backup/ now."""
        self._opened.back_up(force=True)

    # Inside

    @property
    def _database(self) -> Database:
        return self._opened.database

    @property
    def _keys(self) -> KeyBook:
        return self._opened.keys

    @property
    def _device(self) -> Cipher:
        return self._opened.keys.device

    @property
    def _cache(self) -> FeatureCache:
        return self._opened.cache

    def _version(self, row: Sequence[Any]) -> Version:
        facts = self._device.open(row[3], "versions.facts", row[0])
        return Version(row[0], row[1], row[2], msgspec.json.decode(facts))

    def _history(self) -> list[str]:
        body = self.get_secret("history")
        return [] if body is None else msgspec.json.decode(body, type=list[str])

    def _put_history(self, history: list[str]) -> None:
        self.put_secret("history", msgspec.json.encode(history[-32:]))

    def _link(self, kind: str, item: str, subjects: Iterable[str]) -> None:
        rows = [(subject_id, kind, item) for subject_id in self._keys.ids(subjects)]
        self._database.write_many("INSERT OR IGNORE INTO lineage VALUES (?, ?, ?)", rows)

    def _entered(self, kind: str, item: str) -> tuple[str, ...]:
        sql = "SELECT subject_id FROM lineage WHERE kind = ? AND item = ?"
        entered = {row[0] for row in self._database.rows(sql, (kind, item))}
        return tuple(subject.name for subject in self._keys.all() if subject.subject_id in entered)

    def _items(self, subject: Subject, kind: str) -> list[str]:
        sql = "SELECT item FROM lineage WHERE subject_id = ? AND kind = ?"
        return [row[0] for row in self._database.rows(sql, (subject.subject_id, kind))]

    def _drop_old_versions(self) -> None:
        local = next((v for v in reversed(self.versions()) if v.kind == "local"), None)  # has the segments that stay
        kept = {v.version_id for v in (self.current(), self.newest_global(), local) if v}
        sql = "SELECT version_id FROM versions ORDER BY number DESC LIMIT -1 OFFSET ?"
        for (version_id,) in self._database.rows(sql, (KEPT_VERSIONS,)):
            if version_id not in kept:
                self._database.write("DELETE FROM versions WHERE version_id = ?", (version_id,))
                self._database.write("DELETE FROM lineage WHERE kind = 'version' AND item = ?", (version_id,))


VERSIONS = "SELECT version_id, kind, base, facts FROM versions"
