"""The device's store: samples, versions of theta, outbox and secrets in one encrypted SQLite file, features beside it.

No other module of the device writes SQL.
"""

from __future__ import annotations

import contextlib
import datetime
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from homeroom.contract.statistics.sums import Statistics
from homeroom.data.consent import Consent, ConsentState
from homeroom.data.names import normal_name
from homeroom.data.samples import INPUT_KINDS, InputKind, InputReference, StoredInput, StoredSample
from homeroom.store import edit_detection, statistics
from homeroom.store import samples as stored_samples
from homeroom.store.adding import add_samples
from homeroom.store.context import StoreContext
from homeroom.store.erasure import drop_void, expire, forget_subject, remove_samples
from homeroom.store.master_keys import MasterKeys
from homeroom.store.open import open_store
from homeroom.store.outbox import Outbox
from homeroom.store.profiles import put_profile, read_profile
from homeroom.store.records import (
    AddReport,
    ConsentReport,
    Export,
    ForgetReport,
    RemoveReport,
    StoredProfile,
    VoidReport,
)
from homeroom.store.score_history import PastTraining, note_past
from homeroom.store.snapshot import open_snapshot
from homeroom.store.versions import Versions


class Store:
    """One device directory's store, open in this process alone. Subjects are given and returned by name.

    `versions` holds theta, `outbox` the updates on their way.

    Every method that changes something is one step: afterwards it is durable, or (an error, a power cut) nothing
    happened. `step` joins several into one.
    """

    def __init__(self, context: StoreContext) -> None:
        self._context = context
        self.directory, self.store_id, self.moved = context.directory, context.store_id, context.moved
        self.key_location = context.master_keys.location
        self.versions, self.outbox = Versions(context), Outbox(context)

    @classmethod
    def open(cls, directory: Path, keys: MasterKeys | None = None, *, anew: bool = False) -> Store:
        """Opens or makes the store of a directory; finishes what was cut short, restores what is damaged.

        anew: discard a store whose master key is not on this machine. Raises StoreError if another process holds it,
        the key is missing, or it cannot be written.
        """
        return cls(open_store(Path(directory), keys, anew=anew))

    @classmethod
    @contextlib.contextmanager
    def snapshot(cls, directory: Path, keys: MasterKeys | None = None) -> Iterator[Store]:
        """One state of a store to read, also while another process has it open; read it quickly, and change nothing.

        Raises StoreError if it is of another version, its key is missing, or somebody keeps it from being read.
        """
        with open_snapshot(Path(directory), keys) as context:
            yield cls(context)

    def close(self) -> None:
        """Renews the copy if anything changed since, notes the state in the key ring, and unlocks the directory."""
        self._context.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def step(self, event: str, count: int | None = None) -> AbstractContextManager[None]:
        """Joins all writes inside into one durable step, noted in the audit log under `event`."""
        return self._context.step(event, count)

    def at_rest(self) -> AbstractContextManager[object]:
        """Keeps other threads from changing anything, for several reads that belong together."""
        return self._context.database.held

    # Samples

    def add(
        self,
        samples: Iterable[StoredSample],
        fingerprint: Callable[[StoredSample], bytes] | None = None,
        report: AddReport | None = None,
        refuse_new: Callable[[StoredSample], object] | None = None,
    ) -> list[str]:
        """Stores all samples or none; returns their ids. A copy is not stored again, a corrected one replaces it.

        fingerprint: equal for near copies; see `homeroom.store.adding`. report: counts what was corrected.
        refuse_new: is told of a sample that is not held, and whose consent was refused or withdrawn.
        """
        return add_samples(self._context, samples, fingerprint, report, refuse_new)

    def quarantined(self) -> list[StoredSample]:
        """Samples that are kept out of training, their inputs as references; `aside` says why."""
        return stored_samples.quarantined_samples(self._context)

    def quarantine(self, reasons: Mapping[str, str], *, released: bool = False) -> list[str]:
        """Quarantines samples, each for its reason by sample id, those that a person has released too if `released`."""
        return stored_samples.quarantine_samples(self._context, reasons, released=released)

    def release(self, sample_ids: Sequence[str]) -> None:
        """Lets quarantined samples be trained on, all or none; InputError if one of them is not quarantined."""
        stored_samples.release_samples(self._context, sample_ids)

    def relabel(self, sample_id: str, labels: Mapping[str, Any], local_labels: Mapping[str, Any] | None = None) -> str:
        """Gives a sample other labels, in place of all it has; returns its new id. InputError if it is not there.

        local_labels: of this device alone; None keeps those of tasks that `labels` says nothing of.
        """
        return stored_samples.relabel(self._context, sample_id, labels, local_labels)

    def relabel_each(
        self, changed: Callable[[StoredSample], tuple[Mapping[str, Any], Mapping[str, Any]] | None]
    ) -> int:
        """Relabels samples, as `changed` says of each; see `homeroom.store.samples.relabel_each`. Inside a step."""
        return stored_samples.relabel_each(self._context, changed)

    def set_consent(self, consent: Consent, chosen: Callable[[StoredSample], bool]) -> ConsentReport:
        """Sets the consent of the samples that are chosen, in place of what was known, words beside it excepted.

        Where it forbids, the unfinished training and the unsent updates that their subjects entered go too.
        """
        return stored_samples.set_consent(self._context, consent, chosen)

    def sample(self, sample_id: str) -> StoredSample | None:
        """One sample, its inputs as references, or None."""
        return stored_samples.find_sample(self._context, sample_id)

    def read_input(self, sample: StoredSample, reference: InputReference) -> StoredInput | None:
        """An input that is left in the store; None if it is damaged beyond the copy's help, or no longer there."""
        return self._context.read_input(sample, reference)

    def with_inputs(self, sample: StoredSample, kinds: Collection[InputKind] = INPUT_KINDS) -> StoredSample | None:
        """A sample with its inputs of these kinds in place of references to them; None if one of them is lost."""
        return self._context.with_inputs(sample, kinds)

    def each_without_inputs(self) -> Iterator[StoredSample]:
        """Every sample, its inputs as references, in no order."""
        return (sample for _, sample in self._context.each_without_inputs())

    def select(self, predicate: Callable[[StoredSample], bool]) -> Sequence[StoredSample]:
        """The samples whose facts satisfy a predicate, in the order they were added, each read when it is asked for.

        Their inputs are references.
        """
        return stored_samples.select_samples(self._context, predicate)

    def samples_mark(self) -> str:
        """A string that changes whenever a sample is added, removed, relabelled, set aside, released or decided on."""
        counts = list(self._context.database.one("SELECT count(*), max(number), sum(aside) FROM samples"))
        (decided,) = self._context.database.one("SELECT count(*) FROM audit WHERE event = 'consent'")
        return "/".join(map(str, counts + [decided] * bool(decided)))

    def samples(self, subject: str | None = None) -> list[StoredSample]:
        """Every sample, or one subject's, in the order they were added."""
        return list(self.each_sample(subject))

    def each_sample(self, subject: str | None = None) -> Iterator[StoredSample]:
        """Every sample, or one subject's, with its inputs, in the order they were added, one in memory at a time."""
        return self._context.read_samples(subject)

    def consent_states(
        self, subjects: Iterable[str], among: Collection[str] | None = None
    ) -> dict[str, Counter[ConsentState]]:
        """Of each subject that is held, how many samples are in which state of consent. among: ids that count."""
        return {subject: stored_samples.consent_states(self._context, subject, among) for subject in subjects}

    def count(self) -> int:
        """How many samples there are."""
        return int(self._context.database.one("SELECT count(*) FROM samples")[0])

    def subjects(self) -> list[str]:
        """Names of all subjects, in the order they came."""
        return [subject.name for subject in self._context.keys.all()]

    def name_of(self, person: str) -> str:
        """A person's name as it is held, or would be."""
        return person if self._context.keys.find(person) else normal_name(person)

    def known(self, subject: str) -> str:
        """The name as it is held; InputError, with names that are near, if nothing is held about the person."""
        return self._context.known(subject).name

    # Features

    def read_features(self, variant: str, wanted: Iterable[tuple[str, bytes]]) -> dict[tuple[str, bytes], np.ndarray]:
        """Cached features int8 [taps, n, dim] of a variant of the backbone, by (subject, content digest)."""
        return self._context.cache.read(self._context.keys, variant, wanted)

    def held_features(self, variant: str, wanted: Iterable[tuple[str, bytes]]) -> set[tuple[str, bytes]]:
        """Which of the (subject, content digest) pairs have cached features."""
        return self._context.cache.held(self._context.keys, variant, wanted)

    def write_features(self, variant: str, features: Mapping[tuple[str, bytes], np.ndarray]) -> None:
        """Caches features by (subject, content digest); subjects that the store does not know are skipped."""
        self._context.cache.write(self._context.keys, variant, features)

    # Statistics

    def put_sums(self, sums_id: str, sums: Iterable[tuple[str, Statistics]]) -> Statistics:
        """Stores each subject's sums in place of those before and returns their total; see `store.statistics`."""
        return statistics.put_sums(self._context, sums_id, sums)

    def own_total(self, sums_id: str) -> Statistics:
        """The sums of all subjects together; those of none where nothing of this meaning is stored."""
        return statistics.own_total(self._context, sums_id)

    def each_subjects_sums(self, sums_id: str) -> Iterator[tuple[str, Statistics]]:
        """Subjects by name and their sums, in the order the subjects came, one in memory at a time."""
        return statistics.each_subjects_sums(self._context, sums_id)

    def summed_subjects(self, sums_id: str) -> int:
        """How many subjects have sums of this meaning."""
        return statistics.summed_subjects(self._context, sums_id)

    def sums_mark(self) -> bytes:
        """Bytes that change whenever a subject's sums do; empty where there are none."""
        return statistics.sums_mark(self._context)

    def put_local_sums(self, sums_id: str, sums: Iterable[tuple[str, Statistics]]) -> Statistics:
        """As `put_sums`, of labels that this device alone has; nothing that is sent is made of these."""
        return statistics.put_sums(self._context, sums_id, sums, "local_statistics")

    def local_total(self, sums_id: str) -> Statistics:
        """As `own_total`, of labels that this device alone has."""
        return statistics.own_total(self._context, sums_id, "local_statistics")

    def local_sums_mark(self) -> bytes:
        """As `sums_mark`, of labels that this device alone has."""
        return statistics.sums_mark(self._context, "local_statistics")

    # Personal theta

    def put_profile(
        self, subject: str, facts: Mapping[str, Any], segments: Mapping[str, np.ndarray], subjects: Iterable[str]
    ) -> None:
        """Stores a person's own theta in place of the one before; see `homeroom.store.profiles.put_profile`."""
        put_profile(self._context, subject, facts, segments, subjects)

    def profile(self, subject: str) -> StoredProfile | None:
        """A person's profile; None if there is none, or a part of it was lost to damage."""
        return read_profile(self._context, self.name_of(subject))

    def profiles(self) -> int:
        """How many persons have a profile."""
        return int(self._context.database.one("SELECT count(*) FROM profiles")[0])

    # Secrets: small named values, such as the device's signing key and its enrolment

    def get_secret(self, name: str) -> bytes | None:
        """The value stored under a name, or None."""
        return self._context.get_secret(name)

    def put_secret(self, name: str, body: bytes | None) -> None:
        """Stores a value under a name; None removes it."""
        self._context.put_secret(name, body)

    # Subjects' rights

    def forget(self, subject: str) -> ForgetReport:
        """Destroys a subject's key and all that stems from it; InputError if there is no such subject."""
        return forget_subject(self._context, subject)

    def drop_void(self, is_void: Callable[[int], bool]) -> VoidReport:
        """Removes what was learned on void versions; see `homeroom.store.erasure.drop_void`. Inside a step."""
        return drop_void(self._context, is_void)

    def remove(self, sample_ids: Sequence[str]) -> RemoveReport:
        """Removes samples, all or none, and all that may stem from them; their subjects stay.

        sample_ids: or the beginnings of ids, where they are clear. InputError where one is not.
        """
        return remove_samples(self._context, sample_ids)

    def export(self, subject: str) -> Export:
        """All that is held about a subject; InputError if there is no such subject."""
        known = self._context.known(subject)
        subject, subject_id = known.name, known.subject_id
        authored = sum(sample.author == subject for sample in self.each_without_inputs())
        return Export(
            subject=subject,
            samples=tuple(self.each_sample(subject)),
            versions=tuple(self._context.items(subject_id, "version")),
            updates=tuple(self._context.items(subject_id, "update")),
            cached_features=self._context.cache.count(subject_id),
            profile=self.profile(subject),
            authored=authored,
        )

    def note_past(self, entry: PastTraining, subjects: Iterable[str] = ()) -> None:
        """Keeps a training or an install in the history; see `homeroom.store.score_history`. Inside a step."""
        note_past(self._context, entry, subjects)

    def audit(self) -> list[dict[str, Any]]:
        """The audit log, oldest first: `at`, `event` and `count`, no names."""
        rows = self._context.database.rows("SELECT at, event, count FROM audit ORDER BY number")
        return [dict(zip(("at", "event", "count"), row, strict=True)) for row in rows]

    def today(self) -> datetime.date:
        """The day that retention goes by."""
        return self._context.check_clock().newest

    def clock_warning(self) -> str | None:
        """A sentence about a system clock that has jumped, or None."""
        return self._context.retention_clock.warning

    def expire(self) -> int:
        """Removes samples whose retention date has passed; returns how many."""
        return expire(self._context, self.today().isoformat())

    def damage(self) -> list[str]:
        """Lines about what was found damaged so far, and how it was repaired, oldest first."""
        return [
            f"{at}: {what}" for at, what in self._context.database.rows("SELECT at, what FROM damage ORDER BY number")
        ]

    def check_seals(self) -> int:
        """Opens every seal, the inputs' too, repairs or lists damage, and makes the copy anew.

        Returns how many lines of damage were added.
        """
        before = len(self.damage())
        self._context.mend(bodies=True)
        self._context.backup.make_whole(self._context.database)
        return len(self.damage()) - before

    @property
    def edited(self) -> str:
        """What was edited without the key and is not accepted, in words; empty if nothing was."""
        if self._context.is_snapshot:
            return edit_detection.edits_of_snapshot(self._context)
        return self._context.key_ring.edited

    def check_unedited(self) -> None:
        """Raises EditedError while an edit is not accepted: nothing may be sent then."""
        edit_detection.check_unedited(self._context)

    def keep(self, name: str, is_there: bool) -> None:
        """Notes that a record is there; raises EditedError where one that was noted is gone."""
        edit_detection.keep(self._context, name, is_there)

    def accept_edits(self) -> str:
        """Accepts the store as it is, after an older copy was put back; returns what had been noticed, or ""."""
        return edit_detection.accept_edits(self._context)

    def back_up(self) -> None:
        """Renews the copy in backup/ now."""
        self._context.back_up(force=True)
