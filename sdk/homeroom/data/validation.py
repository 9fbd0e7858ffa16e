"""Checks samples against a manifest: slots, input values, labels, metadata."""

from __future__ import annotations

import datetime
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from homeroom.contract.manifest import Column, Manifest, Preprocess, SequencePreprocess, Slot, Task
from homeroom.data.cells import Range, parse_day, parse_number
from homeroom.data.consent import check_consent
from homeroom.data.decoder import client
from homeroom.data.interactions import check_interactions
from homeroom.data.media_values import MEDIA_LIMIT_BYTES, media_bytes
from homeroom.data.names import check_person, check_text_field, refuse_control_characters
from homeroom.data.preprocess.media import check
from homeroom.data.samples import (
    DEFAULT_SUBJECT,
    LATER_FIELDS,
    RESERVED_FIELDS,
    TEXT_LIMIT_CHARACTERS,
    Label,
    Row,
    Sample,
    StoredInput,
    StoredSample,
)
from homeroom.data.tasks import kind_of
from homeroom.data.tasks.base import match_name, suggestion
from homeroom.errors import InputError
from homeroom.system.files import read_below, read_bounded

SOUND_LIMIT = 4096  # files; a hundred bytes each
_sound: dict[tuple[bytes, Preprocess], None] = {}  # those that the decoder took without a word, the newest last
_lock = threading.Lock()
FLOAT32_LIMIT = 3.4e38  # graphs compute in float32


def resolve(
    sample: Sample,
    manifest: Manifest,
    *,
    base: Path | None = None,
    trusted: bool = False,
    note: Callable[[str], None] | None = None,
) -> StoredSample:
    """Binds inputs to slots, reads every file once and has the decoder decode it, checks labels and metadata.

    base: the folder of the entry, below which its files are; without one, the caller names any file.
    trusted: files are not decoded, as of the golden samples of a signed bundle.
    note: takes a sentence on a file that was read otherwise than its header says.

    Raises InputError, which names the field and the remedy.
    """
    if not isinstance(sample, Sample):
        raise InputError(f"needs a Sample, not {type(sample).__name__}", remedy='such as Sample(text="…")')
    inputs: dict[str, list[StoredInput | None]] = {}
    told = None if trusted else note or _say_nothing
    given = _inputs_of(sample, manifest)
    if told is not None and (names := [name for name in LATER_FIELDS if name in given]):
        told(f"{' and '.join(names)}: taken as this bundle's input of that name, not as a fact about the sample")
    for name, value in given.items():
        slot = find_slot(name, manifest)
        if slot.name in inputs:
            raise InputError(f"slot {slot.name} is given twice", where=name)
        inputs[slot.name] = [
            None
            if item is None
            else _check_input(slot, item, manifest, base, f"{slot.name}[{index}]" if slot.count > 1 else name, told)
            for index, item in enumerate(_slot_values(slot, value))
        ]
    if not any(value is not None for values in inputs.values() for value in values):
        raise InputError("the sample has no input", remedy=f"give at least one of {[s.name for s in manifest.slots]}")
    labels = {name: check_label(find_task(name, manifest), label) for name, label in sample.labels.items()}
    for name, label in labels.items():
        task = manifest.task(name)
        kind_of(task).check_inputs(task, label, inputs)
    subject = check_person("subject", sample.subject) or DEFAULT_SUBJECT
    author = None if "author" in given else check_person("author", sample.author)
    return StoredSample(
        inputs=inputs,
        labels=labels,
        subject=subject,
        author=None if author == subject else author,
        group=sample.group,
        consent=check_consent(sample.consent),
        source=check_text_field("source", sample.source),
        retain_until=_check_date(sample.retain_until),
        language=check_text_field("language", sample.language),
    )


def reserved_fields(manifest: Manifest) -> tuple[str, ...]:
    """The reserved fields of a sample, without those that are slots of a bundle from before they were reserved."""
    slots = {slot.name for slot in manifest.slots}
    return tuple(name for name in RESERVED_FIELDS if name not in LATER_FIELDS or name not in slots)


def _inputs_of(sample: Sample, manifest: Manifest) -> dict[str, Any]:
    """The inputs by name; with what was given as author, where that is a slot."""
    if sample.author is None or "author" in (*sample.inputs, *reserved_fields(manifest)):
        return sample.inputs
    return {**sample.inputs, "author": sample.author}


def media_names(sample: Sample, manifest: Manifest) -> list[str | Path]:
    """The files that a sample names, as it names them."""
    return [
        item
        for name, value in _inputs_of(sample, manifest).items()
        if find_slot(name, manifest).modality in ("image", "audio")
        for item in (value if isinstance(value, list | tuple) else [value])
        if isinstance(item, str | Path)
    ]


def find_slot(name: str, manifest: Manifest) -> Slot:
    """Returns the slot of that name, or the only single slot of that modality; InputError if there is none."""
    for slot in manifest.slots:
        if slot.name == name:
            return slot
    single = [slot for slot in manifest.slots if slot.modality == name and slot.count == 1]
    if len(single) == 1:
        return single[0]
    known = [slot.name for slot in manifest.slots]
    if single:
        raise InputError(f"{name!r} could be any of {[s.name for s in single]}", where=name, remedy="name the slot")
    raise InputError(f"the bundle has no input {name!r}", where=name, remedy=suggestion(name, known))


def find_task(name: str, manifest: Manifest) -> Task:
    """Returns the task of that name; InputError if the bundle has none."""
    for task in manifest.tasks:
        if task.name == name:
            return task
    raise InputError(
        f"the bundle has no task {name!r}", where="labels", remedy=suggestion(name, [t.name for t in manifest.tasks])
    )


def check_label(task: Task, label: Any) -> Label:
    """Returns the label in its stored form; InputError if it does not fit the task."""
    return kind_of(task).check(task, label, f"labels.{task.name}")


def _slot_values(slot: Slot, value: Any) -> Sequence[Any]:
    """Returns `slot.count` values, None where one is absent."""
    if slot.count == 1:
        return [value]
    if not isinstance(value, list | tuple):
        raise InputError(f"needs a list of up to {slot.count} {slot.modality} inputs", where=slot.name)
    if len(value) > slot.count:
        raise InputError(f"{len(value)} inputs are more than its {slot.count} places", where=slot.name)
    return [*value, *[None] * (slot.count - len(value))]


def _say_nothing(_: str) -> None:
    pass


def _check_input(
    slot: Slot, value: Any, manifest: Manifest, base: Path | None, where: str, note: Callable[[str], None] | None
) -> StoredInput:
    modality = manifest.modality(slot.modality)
    if slot.modality == "text":
        return _check_text(value, where)
    if slot.modality == "table":
        if not isinstance(value, Mapping):
            raise InputError(f"needs a mapping of columns, not {type(value).__name__}", where=where)
        return _check_row(modality.preprocess.columns, value, where)  # type: ignore[union-attr]
    if isinstance(modality.preprocess, SequencePreprocess):
        return check_interactions(modality.preprocess.skills, value, where, note)
    data, where = _read_media(value, slot.modality, base, where)
    if note is not None and (sentence := _decoded(modality.preprocess, data, where)):
        note(sentence)
    return data


def _decoded(preprocess: Preprocess, data: bytes, where: str) -> str:
    """What the decoder says of a file, once for each content: options of one sample are pictures of others."""
    key = sha256(data).digest(), preprocess
    if key in _sound:
        return ""
    if not (sentence := client.run(check, preprocess, data, where, where=where)):
        with _lock:
            while len(_sound) >= SOUND_LIMIT:
                del _sound[next(iter(_sound))]
            _sound[key] = None
    return sentence


def _check_text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"needs a text, not {type(value).__name__}", where=where)
    if not value.strip():
        raise InputError("the text is empty", where=where, remedy="leave the input out instead")
    refuse_control_characters(value, where)
    if len(value) > TEXT_LIMIT_CHARACTERS:
        what = f"{len(value):,} characters are more than {TEXT_LIMIT_CHARACTERS:,}"
        raise InputError(what, where=where, remedy="shorten the text")
    return value


def _read_media(value: Any, kind: str, base: Path | None, where: str) -> tuple[bytes, str]:
    """Returns the encoded file and where it came from, for messages."""
    if isinstance(value, str | Path):
        where = str(value)
        try:
            data = read_below(base, value, MEDIA_LIMIT_BYTES) if base else read_bounded(Path(value), MEDIA_LIMIT_BYTES)
        except (OSError, ValueError) as problem:
            reason = getattr(problem, "strerror", None) or str(problem)
            remedy = "write / between folders" if "\\" in str(value) else "check the path"
            raise InputError(f"cannot be read: {reason}", where=where, remedy=remedy) from None
    else:
        data = media_bytes(value, kind, where)
    if len(data) > MEDIA_LIMIT_BYTES:
        raise InputError(f"is larger than {MEDIA_LIMIT_BYTES >> 20} MB", where=where)
    return data, where


def _check_row(columns: Sequence[Column], value: Mapping[str, Any], where: str) -> Row:
    known = {column.name: column for column in columns}
    row: Row = {}
    for name, cell in value.items():
        if name not in known:
            raise InputError(f"no column {name!r}", where=where, remedy=suggestion(str(name), list(known)))
        row[name] = _check_cell(known[name], cell, f"{where}.{name}")
    if all(cell is None for cell in row.values()):
        raise InputError("every cell is missing", where=where, remedy="leave the input out instead")
    return row


def _check_cell(column: Column, cell: Any, where: str) -> float | str | None:
    if cell is None or cell == "" or (isinstance(cell, float) and math.isnan(cell)):
        return None
    if column.categories:
        category = match_name(str(cell), column.categories)
        if category is None:
            remedy = suggestion(str(cell), column.categories)
            raise InputError(f"unknown category {cell!r}", where=where, remedy=remedy)
        return category
    try:
        number = parse_number(cell, "", Range(*column.usual)) if isinstance(cell, str) else float(cell)
    except InputError as problem:
        raise InputError(problem.what, where=where, remedy=problem.remedy) from None
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{cell!r} is not a number", where=where) from None
    if isinstance(cell, bool):
        raise InputError(f"{cell!r} is not a number", where=where)
    if math.isinf(number):
        raise InputError("is infinite", where=where, remedy="leave the cell empty if the value is missing")
    if abs(number) > FLOAT32_LIMIT:
        raise InputError(f"{cell!r} is too large a number", where=where, remedy="correct it, or leave the cell empty")
    return None if math.isnan(number) else number


def _check_date(value: str | datetime.date | None) -> str | None:
    if value is None or value == "":
        return None
    if isinstance(value, str):
        value = parse_day(value)
    if not isinstance(value, datetime.date):
        raise InputError(f"{value!r} is not a day", where="retain_until", remedy="write it as 2027-07-31")
    return value.isoformat()[:10]
