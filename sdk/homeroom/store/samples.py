"""Samples in the store: added all or none, quarantined with a reason, released, relabelled.

The column `aside` is 0 for a sample that is trained on, 1 for one that is quarantined, 2 for one that is in part.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from homeroom.data.samples import DEFAULT_SUBJECT, StoredSample
from homeroom.errors import InputError
from homeroom.store import sealed_rows
from homeroom.store.context import StoreContext
from homeroom.store.data_keys import Subject

SAMPLES_PER_QUERY = 512
SELECT_SAMPLE = f"SELECT {sealed_rows.SAMPLE_COLUMNS} FROM samples WHERE sample_id = ?"
INSERT_SAMPLE = "INSERT INTO samples (sample_id, subject_id, content, facts, aside, near) VALUES (?, ?, ?, ?, ?, ?)"


class StoredSamples(Sequence[StoredSample]):
    """Samples by the numbers of their rows (int64, rising): eight bytes in memory.

    The facts of each are read when it is asked for; its inputs are references.
    """

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
    rows = context.database.each(f"SELECT {sealed_rows.SAMPLE_COLUMNS}, number FROM samples ORDER BY number")
    numbers = (row[-1] for row in rows if predicate(sealed_rows.open_sample(subjects, row[:-1])))
    return StoredSamples(context, subjects, np.fromiter(numbers, np.int64))


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
            facts, bodies = sealed_rows.pack_sample(sample)
            sample_id = sealed_rows.sample_id_of(facts, subject)
            ids.append(sample_id)
            if context.database.one("SELECT 1 FROM samples WHERE sample_id = ?", (sample_id,)):
                continue
            near = fingerprint(sample) if fingerprint and _comparable(sample) else b""
            near_index = subject.cipher.index("near", near) if near else None
            if near_index and sample.trainable and (why := _why_copy(context, subject, near_index, sample)):
                facts = sealed_rows.with_reason(facts, why)
            content = secrets.randbits(63)
            aside = 0 if not facts.aside else 2 if facts.left_out or facts.weighed else 1
            sealed = sealed_rows.seal_facts(subject, sample_id, content, facts)
            row = (sample_id, subject.subject_id, content, sealed, aside, near_index)
            context.database.write(INSERT_SAMPLE, row)
            sealed_rows.insert_inputs(context.database, subject, content, bodies)
    context.back_up()
    return ids


def quarantined_samples(context: StoreContext) -> list[StoredSample]:
    """Samples that are not trained on, wholly or in part, their inputs as references; `aside` says why."""
    return list(context.open_samples(context.keys.sound()[0], "WHERE aside > 0"))


def quarantine_samples(context: StoreContext, reasons: Mapping[str, str], *, released: bool = False) -> list[str]:
    """Quarantines samples, each for its reason by sample id; returns their ids.

    released: those that a person has released too.
    """
    quarantined, (subjects, _) = [], context.keys.sound()
    with context.step("set aside", len(reasons)):
        for sample_id, reason in reasons.items():
            row = context.database.one(SELECT_SAMPLE, (sample_id,))
            if row is None:
                continue
            _, owner, content, sealed, aside = row
            facts = sealed_rows.open_facts(subjects[owner], sample_id, content, sealed)
            if aside == 1 or (facts.aside and not aside and not released):
                continue
            facts = sealed_rows.with_reason(facts, "; ".join(filter(None, (facts.aside, reason))))
            sealed = sealed_rows.seal_facts(subjects[owner], sample_id, content, facts)
            context.database.write("UPDATE samples SET facts = ?, aside = 1 WHERE sample_id = ?", (sealed, sample_id))
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


def find_sample(context: StoreContext, sample_id: str) -> StoredSample | None:
    """One sample, its inputs as references, or None."""
    row = context.database.one(SELECT_SAMPLE, (sample_id,))
    return None if row is None else sealed_rows.open_sample(context.keys.sound()[0], row)


def relabel(context: StoreContext, sample_id: str, labels: Mapping[str, Any]) -> str:
    """Gives a sample other labels, in place of all it has; returns its new id. InputError if it is not there.

    Its inputs stay where they are; where there is such a sample already, that one stays in its place.
    """
    row = context.database.one(SELECT_SAMPLE.replace(" FROM", ", near FROM"), (sample_id,))
    if row is None:
        raise InputError("there is no such sample", remedy="look again: it may have changed")
    _, owner, content, sealed, aside, near = row
    subject = context.keys.sound()[0][owner]
    facts = msgspec.structs.replace(sealed_rows.open_facts(subject, sample_id, content, sealed), labels=dict(labels))
    facts = facts if aside else sealed_rows.without_quarantine(facts)
    new_id = sealed_rows.sample_id_of(facts, subject)
    with context.step("relabel", 1):
        if new_id != sample_id and context.database.one(SELECT_SAMPLE, (new_id,)):
            sealed_rows.delete_samples(context.database, "sample_id", sample_id)
        else:
            context.database.write("DELETE FROM samples WHERE sample_id = ?", (sample_id,))
            sealed = sealed_rows.seal_facts(subject, new_id, content, facts)
            context.database.write(INSERT_SAMPLE, (new_id, owner, content, sealed, aside, near))
    context.back_up()
    return new_id


def _why_copy(context: StoreContext, subject: Subject, near_index: bytes, sample: StoredSample) -> str:
    """Why a near copy is to be quarantined: its labels repeat the other's or contradict them; empty if neither."""
    where, subjects = "WHERE near = ? AND aside != 1", {subject.subject_id: subject}
    for other in context.open_samples(subjects, where, (near_index,)):
        shared_tasks = sample.labels.keys() & other.labels.keys()
        if any(sample.labels[task] != other.labels[task] for task in shared_tasks):
            return f"contradicts sample {other.sample_id[:8]}, which is the same with other labels"
        if shared_tasks == sample.labels.keys():
            return f"a near copy of sample {other.sample_id[:8]}"
    return ""


def _comparable(sample: StoredSample) -> bool:
    """Whether a copy of it is a mistake: pupils who share the default name may well write the same words."""
    media = any(isinstance(value, bytes) for values in sample.inputs.values() for value in values)
    return media or sample.subject != DEFAULT_SUBJECT
