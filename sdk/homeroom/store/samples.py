"""Samples in the store: added all or none, quarantined with a reason, released, relabelled.

The column `aside` is 0 for a sample that is trained on, 1 for one that is quarantined, 2 for one that is in part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from homeroom.data.samples import DEFAULT_SUBJECT, StoredSample
from homeroom.errors import InputError
from homeroom.store.context import StoreContext
from homeroom.store.data_keys import Subject
from homeroom.store.sealed_rows import (
    open_sample,
    pack_sample,
    sample_id_of,
    seal_sample,
    with_reason,
    without_quarantine,
)

SAMPLES_PER_QUERY = 128  # their media are in memory together
INSERT_SAMPLE = (
    "INSERT INTO samples (sample_id, subject_id, facts, inputs, aside, near) VALUES (?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (sample_id) DO NOTHING"
)


class StoredSamples(Sequence[StoredSample]):
    """Samples by the numbers of their rows (int64, rising), each read when it is asked for: eight bytes in memory."""

    def __init__(self, context: StoreContext, subjects: Mapping[int, Subject], numbers: np.ndarray) -> None:
        self._context, self._subjects, self._numbers = context, subjects, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return StoredSamples(self._context, self._subjects, self._numbers[index])
        (sample,) = self._read([self._numbers.item(index)])
        return sample

    def __iter__(self) -> Iterator[StoredSample]:
        for start in range(0, len(self), SAMPLES_PER_QUERY):
            yield from self._read(self._numbers[start : start + SAMPLES_PER_QUERY].tolist())

    def _read(self, numbers: list[int]) -> Iterator[StoredSample]:
        where = f"WHERE number IN ({','.join('?' * len(numbers))})"
        return self._context.open_samples(self._subjects, where, numbers)


def select_samples(context: StoreContext, predicate: Callable[[StoredSample], bool]) -> StoredSamples:
    """The samples whose facts satisfy a predicate, in the order they were added."""
    subjects = context.sound_subjects()
    sql = "SELECT number, subject_id, sample_id, facts, aside FROM samples ORDER BY number"

    def numbers() -> Iterator[int]:
        for number, owner, sample_id, facts, aside in context.database.each(sql):
            sample = open_sample(subjects[owner], sample_id, facts)
            if predicate(sample if aside else without_quarantine(sample)):
                yield number

    return StoredSamples(context, subjects, np.fromiter(numbers(), np.int64))


def add_samples(
    context: StoreContext, samples: Iterable[StoredSample], fingerprint: Callable[[StoredSample], bytes] | None
) -> list[str]:
    """Stores samples and returns their ids; those with `aside` set are quarantined, wholly or in part.

    samples: one at a time in memory; where asking for the next raises, none is stored.
    fingerprint: equal for near copies; asked of samples that may be compared.

    A near copy of the same person's is quarantined too if its labels are the same or contradict. An exact copy is not
    stored again.
    """
    ids: list[str] = []
    with context.step("add", ids):
        for sample in samples:
            subject = context.keys.find_or_make(sample.subject)
            sample_id = sample_id_of(sample, subject)
            near = fingerprint(sample) if fingerprint and _comparable(sample) else b""
            near_index = subject.cipher.index("near", near) if near else None
            if near_index and sample.trainable and (why := _why_copy(context, subject, near_index, sample, sample_id)):
                sample = with_reason(sample, why)
            facts, inputs = seal_sample(subject.cipher, sample_id, *pack_sample(sample))
            aside = (2 if sample.trainable else 1) if sample.aside else 0
            context.database.write(INSERT_SAMPLE, (sample_id, subject.subject_id, facts, inputs, aside, near_index))
            ids.append(sample_id)
    context.back_up()
    return ids


def quarantined_samples(context: StoreContext) -> list[StoredSample]:
    """Samples that are not trained on, wholly or in part, without their inputs; `aside` says why."""
    subjects, _ = context.keys.sound()
    sql = "SELECT sample_id, subject_id, facts FROM samples WHERE aside > 0 ORDER BY number"
    return [open_sample(subjects[owner], sample_id, facts) for sample_id, owner, facts in context.database.rows(sql)]


def quarantine_samples(context: StoreContext, reasons: Mapping[str, str]) -> list[str]:
    """Quarantines samples, each for its reason by sample id, but for those a person has released; returns their ids."""
    quarantined, (subjects, _) = [], context.keys.sound()
    with context.step("set aside", len(reasons)):
        for sample_id, reason in reasons.items():
            row = context.database.one("SELECT subject_id, facts, aside FROM samples WHERE sample_id = ?", (sample_id,))
            if row is None:
                continue
            subject, aside = subjects[row[0]], row[2]
            sample = open_sample(subject, sample_id, row[1])
            if aside == 1 or (sample.aside and not aside):
                continue
            sample = with_reason(sample, "; ".join(filter(None, (sample.aside, reason))))
            facts, _ = seal_sample(subject.cipher, sample_id, *pack_sample(sample))
            context.database.write("UPDATE samples SET facts = ?, aside = 1 WHERE sample_id = ?", (facts, sample_id))
            quarantined.append(sample_id)
    context.back_up()
    return quarantined


def release_samples(context: StoreContext, sample_ids: Sequence[str]) -> None:
    """Lets quarantined samples be trained on, all or none; InputError if one of them is not quarantined."""
    sql = "UPDATE samples SET aside = 0 WHERE sample_id = ? AND aside > 0"
    with context.step("put back", len(sample_ids)):
        for sample_id in sample_ids:
            if not context.database.write(sql, (sample_id,)):
                remedy = "list them with `homeroom device quarantine`"
                raise InputError("no such sample is set aside", where=sample_id, remedy=remedy)
    context.back_up()


def read_sample(context: StoreContext, sample_id: str) -> StoredSample | None:
    """One sample with its inputs, or None; one that was released has no reason any more."""
    row = context.database.one("SELECT subject_id, facts, inputs, aside FROM samples WHERE sample_id = ?", (sample_id,))
    if row is None:
        return None
    sample = open_sample(context.keys.sound()[0][row[0]], sample_id, row[1], row[2])
    return sample if row[3] else without_quarantine(sample)


def relabel(context: StoreContext, sample_id: str, labels: Mapping[str, Any]) -> str:
    """Gives a sample other labels, in place of all it has; returns its new id. InputError if it is not there."""
    sample = read_sample(context, sample_id)
    if sample is None:
        raise InputError("there is no such sample", remedy="look again: it may have changed")
    sample = msgspec.structs.replace(sample, labels=dict(labels))
    subject = context.known(sample.subject)
    new_id = sample_id_of(sample, subject)
    with context.step("relabel", 1):
        kept = context.database.one("SELECT aside, near FROM samples WHERE sample_id = ?", (sample_id,))
        context.database.write("DELETE FROM samples WHERE sample_id = ?", (sample_id,))
        facts, inputs = seal_sample(subject.cipher, new_id, *pack_sample(sample))
        context.database.write(INSERT_SAMPLE, (new_id, subject.subject_id, facts, inputs, *kept))
    context.back_up()
    return new_id


def _why_copy(context: StoreContext, subject: Subject, near_index: bytes, sample: StoredSample, sample_id: str) -> str:
    """Why a near copy is to be quarantined: its labels repeat the other's or contradict them; empty if neither."""
    sql = "SELECT sample_id, facts FROM samples WHERE near = ? AND aside != 1 AND sample_id != ?"
    for other_id, facts in context.database.rows(sql, (near_index, sample_id)):
        other = open_sample(subject, other_id, facts)
        shared_tasks = sample.labels.keys() & other.labels.keys()
        if any(sample.labels[task] != other.labels[task] for task in shared_tasks):
            return f"contradicts sample {other_id[:8]}, which is the same with other labels"
        if shared_tasks == sample.labels.keys():
            return f"a near copy of sample {other_id[:8]}"
    return ""


def _comparable(sample: StoredSample) -> bool:
    """Whether a copy of it is a mistake: pupils who share the default name may well write the same words."""
    media = any(isinstance(value, bytes) for values in sample.inputs.values() for value in values)
    return media or sample.subject != DEFAULT_SUBJECT
