"""Samples in the store: quarantined with a reason, released, relabelled, their consent decided.

The column `aside` is 0 for a sample that is trained on, 1 for one that is quarantined, 2 for one that is in part.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from homeroom.data.consent import FORBIDDING, Consent, ConsentState
from homeroom.data.samples import StoredSample
from homeroom.errors import InputError
from homeroom.store import sealed_rows
from homeroom.store.context import StoreContext
from homeroom.store.data_keys import Subject
from homeroom.store.erasure import drop_unsent
from homeroom.store.records import ConsentReport
from homeroom.store.statistics import drop_local_sums, drop_sums

SAMPLES_PER_QUERY = 512
SELECT_SAMPLE = f"SELECT {sealed_rows.SAMPLE_COLUMNS} FROM samples WHERE sample_id = ?"


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
            drop_sums(context.database, owner)
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


def relabel(
    context: StoreContext, sample_id: str, labels: Mapping[str, Any], local_labels: Mapping[str, Any] | None = None
) -> str:
    """Gives a sample other labels, in place of all it has; returns its new id. InputError if it is not there.

    local_labels: of this device alone; None keeps those of tasks that `labels` says nothing of.

    Its inputs stay where they are; where there is such a sample already, that one stays in its place.
    """
    row = context.database.one(SELECT_SAMPLE, (sample_id,))
    if row is None:
        raise InputError("there is no such sample", remedy="look again: it may have changed")
    subject = context.keys.sound()[0][row[1]]
    facts = sealed_rows.open_facts(subject, sample_id, row[2], row[3])
    if local_labels is None:
        local_labels = {task: label for task, label in facts.local_labels.items() if task not in labels}
    with context.step("relabel", 1):
        new_id = _put(context, subject, row, sealed_rows.relabelled(facts, labels, local_labels))
    context.back_up()
    return new_id


def relabel_each(
    context: StoreContext, changed: Callable[[StoredSample], tuple[Mapping[str, Any], Mapping[str, Any]] | None]
) -> int:
    """Gives each sample the labels of the bundle and of this device that `changed` returns; None leaves it as it is.

    Returns how many were changed. Those of before are no wrong ones, and may come again. Inside a step.
    """
    subjects, number = context.sound_subjects(), 0
    for row in context.database.rows(f"SELECT {sealed_rows.SAMPLE_COLUMNS} FROM samples ORDER BY number"):
        if (labels := changed(sealed_rows.open_sample(subjects, row))) is not None:
            sample_id, owner, content, sealed, _ = row
            facts = sealed_rows.open_facts(subjects[owner], sample_id, content, sealed)
            facts = msgspec.structs.replace(facts, labels=dict(labels[0]), local_labels=dict(labels[1]))
            _put(context, subjects[owner], row, facts)
            number += 1
    return number


def _put(context: StoreContext, subject: Subject, row: Sequence[Any], facts: sealed_rows.SampleFacts) -> str:
    """Stores facts with other labels in place of a row's; where there is such a sample already, that one stays."""
    sample_id, owner, content, sealed, aside = row
    same = sealed_rows.open_facts(subject, sample_id, content, sealed).labels == facts.labels
    (drop_local_sums if same else drop_sums)(context.database, owner)
    facts = facts if aside else sealed_rows.without_quarantine(facts)
    new_id = sealed_rows.sample_id_of(facts, subject)
    if new_id != sample_id and context.database.one(SELECT_SAMPLE, (new_id,)):
        sealed_rows.delete_samples(context.database, "sample_id", sample_id)
        return new_id
    context.database.write("DELETE FROM samples WHERE sample_id = ?", (sample_id,))
    return sealed_rows.insert_sample(context.database, subject, content, facts, aside)


def consent_states(context: StoreContext, name: str, among: Collection[str] | None) -> Counter[ConsentState]:
    """How many samples of a subject are in which state of consent; none of one that is not held.

    among: ids of the samples that count; None for all.
    """
    subject = context.keys.find(name)
    if subject is None:
        return Counter()
    found = context.open_samples({subject.subject_id: subject}, "WHERE subject_id = ?", (subject.subject_id,))
    return Counter(sample.consent_state for sample in found if among is None or sample.sample_id in among)


def set_consent(context: StoreContext, consent: Consent, chosen: Callable[[StoredSample], bool]) -> ConsentReport:
    """Sets the consent of the samples that are chosen; words that stood beside the one of before are kept.

    Where it forbids, the unfinished training and the unsent updates that their subjects entered go.
    """
    ids, owners, subjects, dropped = list[str](), set[int](), context.sound_subjects(), 0
    with context.step("consent", ids):
        for (number,) in context.database.rows("SELECT number FROM samples"):
            row = context.database.one(f"SELECT {sealed_rows.SAMPLE_COLUMNS} FROM samples WHERE number = ?", (number,))
            sample = sealed_rows.open_sample(subjects, row)
            if not chosen(sample):
                continue
            sample_id, owner, content, sealed, _ = row
            text = consent.text or (sample.consent.text if sample.consent else "")
            facts = msgspec.structs.replace(
                sealed_rows.open_facts(subjects[owner], sample_id, content, sealed),
                consent=msgspec.structs.replace(consent, text=text),
            )
            sealed = sealed_rows.seal_facts(subjects[owner], sample_id, content, facts)
            context.database.write("UPDATE samples SET facts = ? WHERE sample_id = ?", (sealed, sample_id))
            ids.append(sample_id)
            owners.add(owner)
        if consent.state in FORBIDDING:
            dropped = sum(len(drop_unsent(context, owner)) for owner in owners)
            for owner in owners:
                drop_sums(context.database, owner)
    context.back_up()
    return ConsentReport(len(ids), len(owners), dropped)
