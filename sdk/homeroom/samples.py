"""Samples: what a user gives, checked against a bundle and made ready to be stored; imports preprocess."""

from __future__ import annotations

import datetime
import difflib
import math
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from homeroom.contract.manifest import Manifest, Slot, Task
from homeroom.errors import InputError
from homeroom.preprocess import check_value, content

TEXT_LIMIT = 20_000  # characters; far more than any bucket holds
MEDIA_LIMIT_BYTES = 64 << 20
SUBJECT = "classroom"  # whom a sample is about when nobody says
NAME_LIMIT = 256

Row = dict[str, float | str | None]
Label = str | int | float | bool | list[str]
RESERVED = ("labels", "subject", "consent", "source", "retain_until", "language")


class Sample:
    """One example: inputs by slot name, or by modality as the short form; any subset may be given.

    A text is a string; a picture or a sound the path of a file or its bytes; a table row a mapping. A slot of several
    places takes a list. Labels are by task name: the class, the level, a list of classes, a number, the index of the
    right option, or whether two inputs match. `subject` is the person the sample is about.
    """

    def __init__(
        self,
        *,
        labels: Mapping[str, Label] | None = None,
        subject: str | None = None,
        consent: str | None = None,
        source: str | None = None,
        retain_until: str | datetime.date | None = None,
        language: str | None = None,
        **inputs: Any,
    ) -> None:
        self.inputs = inputs
        self.labels = dict(labels or {})
        self.subject, self.consent, self.source, self.language = subject, consent, source, language
        self.retain_until = retain_until
        self.origin: str | None = None  # the file and row it was read from, for messages

    def __repr__(self) -> str:
        return f"Sample({', '.join(self.inputs)}; labels {self.labels}; subject {self.subject!r})"


class Kept(msgspec.Struct, frozen=True):
    """Stands for a picture or a sound that stays in the store; digest: SHA-256 of its `preprocess.content`."""

    sample_id: str
    slot: str
    place: int
    digest: bytes
    size: int


StoredInput = str | bytes | Row | Kept


class StoredSample(msgspec.Struct, frozen=True, kw_only=True):
    """A checked sample. `inputs`: by slot, a list with a value or None for each place; media as encoded files.

    `aside`: why it is kept out of training until a person has looked at it; empty where it is not.
    """

    inputs: dict[str, list[StoredInput | None]]
    labels: dict[str, Label] = {}
    subject: str = SUBJECT
    consent: str | None = None
    source: str | None = None
    retain_until: str | None = None
    language: str | None = None
    aside: str = ""
    sample_id: str = ""


def without_media(sample: StoredSample) -> StoredSample:
    """The same sample, its pictures and sounds left where they are: thousands of them need not fit in memory."""

    def kept(slot: str, place: int, value: StoredInput | None) -> StoredInput | None:
        if not isinstance(value, bytes):
            return value
        return Kept(sample.sample_id, slot, place, digest_of(value), len(value))

    inputs = {slot: [kept(slot, i, value) for i, value in enumerate(row)] for slot, row in sample.inputs.items()}
    return msgspec.structs.replace(sample, inputs=inputs)


def digest_of(value: StoredInput) -> bytes:
    """SHA-256 of an input's content, by which its features are found."""
    return value.digest if isinstance(value, Kept) else sha256(content(value)).digest()


def resolve(sample: Sample, manifest: Manifest, *, base: Path | None = None) -> StoredSample:
    """Bind inputs to slots, read and decode every file once, check labels; InputError says what is wrong.

    base: the folder that relative paths start from.
    """
    inputs: dict[str, list[StoredInput | None]] = {}
    for name, value in sample.inputs.items():
        slot = find_slot(name, manifest)
        if slot.name in inputs:
            raise InputError(f"slot {slot.name} is given twice", where=name)
        places = _places(slot, value)
        inputs[slot.name] = [
            None
            if place is None
            else _value(slot, place, manifest, base, f"{slot.name}[{i}]" if slot.count > 1 else name)
            for i, place in enumerate(places)
        ]
    if not any(place is not None for places in inputs.values() for place in places):
        raise InputError("the sample has no input", remedy=f"give at least one of {[s.name for s in manifest.slots]}")
    labels = {name: check_label(find_task(name, manifest), label) for name, label in sample.labels.items()}
    for name, label in labels.items():
        _check_option(manifest.task(name), label, inputs)
    return StoredSample(
        inputs=inputs,
        labels=labels,
        subject=_short("subject", sample.subject) or SUBJECT,
        consent=_short("consent", sample.consent),
        source=_short("source", sample.source),
        retain_until=_day(sample.retain_until),
        language=_short("language", sample.language),
    )


def find_slot(name: str, manifest: Manifest) -> Slot:
    """The slot of that name, or the only single slot of that modality."""
    for slot in manifest.slots:
        if slot.name == name:
            return slot
    single = [slot for slot in manifest.slots if slot.modality == name and slot.count == 1]
    if len(single) == 1:
        return single[0]
    known = [slot.name for slot in manifest.slots]
    if single:
        raise InputError(f"{name!r} could be any of {[s.name for s in single]}", where=name, remedy="name the slot")
    raise InputError(f"the bundle has no input {name!r}", where=name, remedy=_near(name, known))


def find_task(name: str, manifest: Manifest) -> Task:
    for task in manifest.tasks:
        if task.name == name:
            return task
    raise InputError(
        f"the bundle has no task {name!r}", where="labels", remedy=_near(name, [t.name for t in manifest.tasks])
    )


def check_label(task: Task, label: Any) -> Label:
    """The label in its stored form; InputError if the task has no such label."""
    where = f"labels.{task.name}"
    if task.kind in ("classification", "ordinal"):
        return _class(task, label, where)
    if task.kind == "multilabel":
        if not isinstance(label, list | tuple | set) or isinstance(label, str):
            raise InputError("needs a list of labels", where=where, remedy=f"some of {list(task.labels)}")
        return sorted({_class(task, one, where) for one in label})
    if task.kind == "regression":
        if isinstance(label, bool) or not isinstance(label, int | float) or not math.isfinite(label):
            raise InputError(f"{label!r} is not a finite number", where=where)
        return float(label)
    if task.kind == "choice":
        if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < task.width:
            raise InputError(f"{label!r} is not the index of an option", where=where, remedy=f"0 to {task.width - 1}")
        return label
    if label not in (True, False):
        raise InputError(f"{label!r} is neither true nor false", where=where)
    return bool(label)


def target(task: Task, label: Label) -> np.ndarray:
    """What the training graph compares with: float32 [width], as `Task` and the losses say."""
    values = np.zeros(task.width, np.float32)
    if task.kind == "classification":
        values[task.labels.index(str(label))] = 1.0
    elif task.kind == "ordinal":
        values[: task.labels.index(str(label))] = 1.0
    elif task.kind == "multilabel":
        assert isinstance(label, list)
        values[[task.labels.index(one) for one in label]] = 1.0
    elif task.kind == "choice":
        values[int(label)] = 1.0  # type: ignore[arg-type]
    elif task.kind == "regression":
        values[0] = (float(label) - task.offset) / task.scale  # type: ignore[arg-type]
    else:
        values[0] = float(bool(label))
    return values


def _places(slot: Slot, value: Any) -> Sequence[Any]:
    if slot.count == 1:
        return [value]
    if not isinstance(value, list | tuple):
        raise InputError(f"needs a list of up to {slot.count} {slot.modality} inputs", where=slot.name)
    if len(value) > slot.count:
        raise InputError(f"{len(value)} inputs are more than its {slot.count} places", where=slot.name)
    return [*value, *[None] * (slot.count - len(value))]


def _value(slot: Slot, value: Any, manifest: Manifest, base: Path | None, where: str) -> StoredInput:
    modality = manifest.modality(slot.modality)
    if slot.modality == "text":
        if not isinstance(value, str):
            raise InputError(f"needs a text, not {type(value).__name__}", where=where)
        if not value.strip():
            raise InputError("the text is empty", where=where, remedy="leave the input out instead")
        if len(value) > TEXT_LIMIT:
            raise InputError(
                f"{len(value):,} characters are more than {TEXT_LIMIT:,}",
                where=where,
                remedy="shorten the text",
            )
        return value
    if slot.modality == "table":
        if not isinstance(value, Mapping):
            raise InputError(f"needs a mapping of columns, not {type(value).__name__}", where=where)
        return _row(modality.preprocess.columns, value, where)  # type: ignore[union-attr]
    data, where = _media(value, base, where)
    check_value(modality, data, where)
    return data


def _media(value: Any, base: Path | None, where: str) -> tuple[bytes, str]:
    if isinstance(value, bytes | bytearray):
        data = bytes(value)
    elif isinstance(value, str | Path):
        path = Path(base or ".") / value
        where = str(value)
        try:
            if path.stat().st_size > MEDIA_LIMIT_BYTES:
                raise InputError(f"is larger than {MEDIA_LIMIT_BYTES >> 20} MB", where=where)
            data = path.read_bytes()
        except (OSError, ValueError) as problem:
            reason = getattr(problem, "strerror", None) or str(problem)
            raise InputError(f"cannot be read: {reason}", where=where, remedy="check the path") from None
    else:
        raise InputError(f"needs a file's path or bytes, not {type(value).__name__}", where=where)
    if len(data) > MEDIA_LIMIT_BYTES:
        raise InputError(f"is larger than {MEDIA_LIMIT_BYTES >> 20} MB", where=where)
    return data, where


def _row(columns: Sequence[Any], value: Mapping[str, Any], where: str) -> Row:
    known = {column.name: column for column in columns}
    row: Row = {}
    for name, cell in value.items():
        if name not in known:
            raise InputError(f"no column {name!r}", where=where, remedy=_near(str(name), list(known)))
        here = f"{where}.{name}"
        if cell is None or cell == "" or (isinstance(cell, float) and math.isnan(cell)):
            row[name] = None
        elif known[name].categories:
            if str(cell) not in known[name].categories:
                raise InputError(
                    f"unknown category {cell!r}", where=here, remedy=_near(str(cell), known[name].categories)
                )
            row[name] = str(cell)
        else:
            try:
                number = float(cell)
            except (TypeError, ValueError, OverflowError):
                raise InputError(f"{cell!r} is not a number", where=here) from None
            if math.isinf(number):
                raise InputError("is infinite", where=here, remedy="leave the cell empty if the value is missing")
            row[name] = None if math.isnan(number) else number
    if all(cell is None for cell in row.values()):
        raise InputError("every cell is missing", where=where, remedy="leave the input out instead")
    return row


def _class(task: Task, label: Any, where: str) -> str:
    if str(label) not in task.labels:
        raise InputError(f"no label {label!r}", where=where, remedy=_near(str(label), task.labels))
    return str(label)


def _check_option(task: Task, label: Label, inputs: Mapping[str, list[StoredInput | None]]) -> None:
    if task.kind == "choice":
        options = inputs.get(task.reads[1])
        if options is None or options[int(label)] is None:  # type: ignore[arg-type]
            raise InputError(
                f"option {label} is not given", where=f"labels.{task.name}", remedy=f"fill {task.reads[1]}"
            )


def _near(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known[:12])}"


def _short(field: str, value: str | None) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str) or len(value) > NAME_LIMIT:
        raise InputError(f"needs a text of at most {NAME_LIMIT} characters", where=field)
    return value


def _day(value: str | datetime.date | None) -> str | None:
    if value is None or value == "":
        return None
    try:
        return (value if isinstance(value, datetime.date) else datetime.date.fromisoformat(value)).isoformat()[:10]
    except (TypeError, ValueError):
        raise InputError(f"{value!r} is not a day", where="retain_until", remedy="write it as 2027-07-31") from None
