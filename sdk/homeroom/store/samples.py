"""Samples in the store: added all or none, set aside with a reason, put back; imports opened only.

The column `aside` is 0 for a sample that teaches, 1 for one that does not, 2 for one that teaches in part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from homeroom.data.samples import DEFAULT_SUBJECT, StoredSample
from homeroom.errors import InputError
from homeroom.store.context import Opened
from homeroom.store.data_keys import Subject
from homeroom.store.sealed_rows import AS_IT_IS, open_sample, pack_sample, seal_sample

READ_TOGETHER = 128  # samples of one query, their media in memory together
INSERT = (
    "INSERT INTO samples (sample_id, subject_id, facts, inputs, aside, near) VALUES (?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (sample_id) DO NOTHING"
)


class Those(Sequence[StoredSample]):
    """Samples by the numbers of their rows (int64, rising), each read when it is asked for: eight bytes in memory."""

    def __init__(self, opened: Opened, subjects: Mapping[int, Subject], numbers: np.ndarray) -> None:
        self._opened, self._subjects, self._numbers = opened, subjects, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return Those(self._opened, self._subjects, self._numbers[at])
        (sample,) = self._read([self._numbers.item(at)])
        return sample

    def __iter__(self) -> Iterator[StoredSample]:
        for start in range(0, len(self), READ_TOGETHER):
            yield from self._read(self._numbers[start : start + READ_TOGETHER].tolist())

    def _read(self, numbers: list[int]) -> Iterator[StoredSample]:
        where = f"WHERE number IN ({','.join('?' * len(numbers))})"
        return self._opened.open_samples(self._subjects, where, numbers)


def those(opened: Opened, chosen: Callable[[StoredSample], bool]) -> Those:
    """Samples that are chosen by their facts."""
    subjects = opened.sound_subjects()
    sql = "SELECT number, subject_id, sample_id, facts, aside FROM samples ORDER BY number"

    def numbers() -> Iterator[int]:
        for number, owner, sample_id, facts, aside in opened.database.each(sql):
            sample = open_sample(subjects[owner], sample_id, facts)
            if chosen(sample if aside else msgspec.structs.replace(sample, **AS_IT_IS)):
                yield number

    return Those(opened, subjects, np.fromiter(numbers(), np.int64))


def add_samples(
    opened: Opened, samples: Iterable[StoredSample], fingerprint: Callable[[StoredSample], bytes] | None
) -> list[str]:
    """Store samples; those with `aside` set are kept out of training, but for what teaches all the same.

    samples: one at a time in memory; where asking for the next raises, none is stored. fingerprint: what near copies
    have in common, of a sample that may be compared.

    A near copy of the same person's that has the same labels, or contradicts them, is set aside too. Its exact double
    is not stored again.
    """
    ids: list[str] = []
    with opened.step("add", ids):
        for sample in samples:
            subject = opened.keys.find_or_make(sample.subject)
            sample_id = subject.cipher.index("sample", *pack_sample(msgspec.structs.replace(sample, **AS_IT_IS))).hex()
            near = fingerprint(sample) if fingerprint and _comparable(sample) else b""
            key = subject.cipher.index("near", near) if near else None
            if key and sample.trainable and (copy := _copy_of(opened, subject, key, sample, sample_id)):
                sample = msgspec.structs.replace(sample, **AS_IT_IS | {"aside": copy})
            facts, inputs = seal_sample(subject.cipher, sample_id, *pack_sample(sample))
            aside = (2 if sample.trainable else 1) if sample.aside else 0
            row = (sample_id, subject.subject_id, facts, inputs, aside, key)
            opened.database.write(INSERT, row)
            ids.append(sample_id)
    opened.back_up()
    return ids


def set_aside(opened: Opened) -> list[StoredSample]:
    """Samples that are kept out of training, wholly or in part, without their inputs; `aside` says why."""
    subjects, _ = opened.keys.sound()
    sql = "SELECT sample_id, subject_id, facts FROM samples WHERE aside > 0 ORDER BY number"
    return [open_sample(subjects[owner], sample_id, facts) for sample_id, owner, facts in opened.database.rows(sql)]


def put_aside(opened: Opened, reasons: Mapping[str, str]) -> list[str]:
    """Keep samples out of training from now on, but for those that a person has put back; return the ids of the others.

    reasons: why, by sample id.
    """
    moved, (subjects, _) = [], opened.keys.sound()
    with opened.step("set aside", len(reasons)):
        for sample_id, why in reasons.items():
            sql = "SELECT subject_id, facts, aside FROM samples WHERE sample_id = ?"
            for owner, facts, aside in opened.database.rows(sql, (sample_id,)):
                subject = subjects[owner]
                sample = open_sample(subject, sample_id, facts)
                if aside == 1 or (sample.aside and not aside):
                    continue
                both = "; ".join(filter(None, (sample.aside, why)))
                sample = msgspec.structs.replace(sample, **AS_IT_IS | {"aside": both})
                facts, _ = seal_sample(subject.cipher, sample_id, *pack_sample(sample))
                opened.database.write("UPDATE samples SET facts = ?, aside = 1 WHERE sample_id = ?", (facts, sample_id))
                moved.append(sample_id)
    opened.back_up()
    return moved


def put_back(opened: Opened, sample_ids: Sequence[str]) -> None:
    """Let samples teach after all, all of them; InputError, and nothing changed, if one of them is not set aside."""
    with opened.step("put back", len(sample_ids)):
        for sample_id in sample_ids:
            if not opened.database.write(
                "UPDATE samples SET aside = 0 WHERE sample_id = ? AND aside > 0", (sample_id,)
            ):
                raise InputError(
                    "no such sample is set aside", where=sample_id, remedy="list them with `homeroom device quarantine`"
                )
    opened.back_up()


def read_sample(opened: Opened, sample_id: str) -> StoredSample | None:
    """One that was put back has no reason any more."""
    row = opened.database.one("SELECT subject_id, facts, inputs, aside FROM samples WHERE sample_id = ?", (sample_id,))
    if row is None:
        return None
    sample = open_sample(opened.keys.sound()[0][row[0]], sample_id, row[1], row[2])
    return sample if row[3] else msgspec.structs.replace(sample, **AS_IT_IS)


def relabel(opened: Opened, sample_id: str, labels: Mapping[str, Any]) -> str:
    """Give a sample other labels, in place of all it has; return its new id. InputError if it is not there."""
    sample = read_sample(opened, sample_id)
    if sample is None:
        raise InputError("there is no such sample", remedy="look again: it may have changed")
    sample = msgspec.structs.replace(sample, labels=dict(labels))
    subject = opened.known(sample.subject)
    new_id = subject.cipher.index("sample", *pack_sample(msgspec.structs.replace(sample, **AS_IT_IS))).hex()
    with opened.step("relabel", 1):
        kept = opened.database.one("SELECT aside, near FROM samples WHERE sample_id = ?", (sample_id,))
        opened.database.write("DELETE FROM samples WHERE sample_id = ?", (sample_id,))
        facts, inputs = seal_sample(subject.cipher, new_id, *pack_sample(sample))
        opened.database.write(INSERT, (new_id, subject.subject_id, facts, inputs, *kept))
    opened.back_up()
    return new_id


def _copy_of(opened: Opened, subject: Subject, key: bytes, sample: StoredSample, sample_id: str) -> str:
    """Why a near copy should not teach: it says the same again, or something else; empty if neither."""
    sql = "SELECT sample_id, facts FROM samples WHERE near = ? AND aside != 1 AND sample_id != ?"
    for other_id, facts in opened.database.rows(sql, (key, sample_id)):
        other = open_sample(subject, other_id, facts)
        both = sample.labels.keys() & other.labels.keys()
        if any(sample.labels[task] != other.labels[task] for task in both):
            return f"contradicts sample {other_id[:8]}, which is the same with other labels"
        if both == sample.labels.keys():
            return f"a near copy of sample {other_id[:8]}"
    return ""


def _comparable(sample: StoredSample) -> bool:
    """Whether a copy of it is a mistake: pupils who share the default name may well write the same words."""
    media = any(isinstance(value, bytes) for places in sample.inputs.values() for value in places)
    return media or sample.subject != DEFAULT_SUBJECT
