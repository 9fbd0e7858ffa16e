"""Checks samples against a manifest: slots, input values, labels, metadata."""

from __future__ import annotations

import datetime
import difflib
import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from homeroom.contract.manifest import Column, Manifest, SequencePreprocess, Slot, Task
from homeroom.data.preprocess import check_value
from homeroom.data.preprocess.sequence import Interaction
from homeroom.data.samples import (
    DEFAULT_SUBJECT,
    INTERACTION_LIMIT,
    MEDIA_LIMIT_BYTES,
    NAME_LIMIT_CHARACTERS,
    TEXT_LIMIT_CHARACTERS,
    TRUTH_WORDS,
    Label,
    Row,
    Sample,
    SpanLabel,
    StoredInput,
    StoredSample,
)
from homeroom.errors import InputError


def resolve(sample: Sample, manifest: Manifest, *, base: Path | None = None) -> StoredSample:
    """Binds inputs to slots, reads and decodes every file once, checks labels and metadata.

    base: the folder that relative paths start from. Raises InputError, which names the field and the remedy.
    """
    inputs: dict[str, list[StoredInput | None]] = {}
    for name, value in sample.inputs.items():
        slot = find_slot(name, manifest)
        if slot.name in inputs:
            raise InputError(f"slot {slot.name} is given twice", where=name)
        inputs[slot.name] = [
            None
            if item is None
            else _check_input(slot, item, manifest, base, f"{slot.name}[{index}]" if slot.count > 1 else name)
            for index, item in enumerate(_slot_values(slot, value))
        ]
    if not any(value is not None for values in inputs.values() for value in values):
        raise InputError("the sample has no input", remedy=f"give at least one of {[s.name for s in manifest.slots]}")
    labels = {name: check_label(find_task(name, manifest), label) for name, label in sample.labels.items()}
    for name, label in labels.items():
        _check_option_given(manifest.task(name), label, inputs)
        _check_span_ends(manifest.task(name), label, inputs)
    return StoredSample(
        inputs=inputs,
        labels=labels,
        subject=_check_name("subject", sample.subject) or DEFAULT_SUBJECT,
        consent=_check_name("consent", sample.consent),
        source=_check_name("source", sample.source),
        retain_until=_check_date(sample.retain_until),
        language=_check_name("language", sample.language),
    )


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
    raise InputError(f"the bundle has no input {name!r}", where=name, remedy=_suggestion(name, known))


def find_task(name: str, manifest: Manifest) -> Task:
    """Returns the task of that name; InputError if the bundle has none."""
    for task in manifest.tasks:
        if task.name == name:
            return task
    raise InputError(
        f"the bundle has no task {name!r}", where="labels", remedy=_suggestion(name, [t.name for t in manifest.tasks])
    )


def check_label(task: Task, label: Any) -> Label:
    """Returns the label in its stored form; InputError if it does not fit the task."""
    where = f"labels.{task.name}"
    if task.kind in ("classification", "ordinal"):
        return _check_class(task, label, where)
    if task.kind == "multilabel":
        if not isinstance(label, list | tuple | set) or isinstance(label, str):
            raise InputError("needs a list of labels", where=where, remedy=f"some of {list(task.labels)}")
        return list(sorted({_check_class(task, name, where) for name in label}))
    if task.kind == "regression":
        if isinstance(label, bool) or not isinstance(label, int | float) or not math.isfinite(label):
            raise InputError(f"{label!r} is not a finite number", where=where)
        return float(label)
    if task.kind == "choice":
        if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < task.width:
            raise InputError(f"{label!r} is not the index of an option", where=where, remedy=f"0 to {task.width - 1}")
        return label
    if task.kind == "spans":
        return _check_spans(task, label, where)
    if task.kind == "tracing":
        raise InputError("takes no label", where=where, remedy=f"{task.reads[0]} itself says what was right")
    if label not in (True, False):
        raise InputError(f"{label!r} is neither true nor false", where=where)
    return bool(label)


def _slot_values(slot: Slot, value: Any) -> Sequence[Any]:
    """Returns `slot.count` values, None where one is absent."""
    if slot.count == 1:
        return [value]
    if not isinstance(value, list | tuple):
        raise InputError(f"needs a list of up to {slot.count} {slot.modality} inputs", where=slot.name)
    if len(value) > slot.count:
        raise InputError(f"{len(value)} inputs are more than its {slot.count} places", where=slot.name)
    return [*value, *[None] * (slot.count - len(value))]


def _check_input(slot: Slot, value: Any, manifest: Manifest, base: Path | None, where: str) -> StoredInput:
    modality = manifest.modality(slot.modality)
    if slot.modality == "text":
        return _check_text(value, where)
    if slot.modality == "table":
        if not isinstance(value, Mapping):
            raise InputError(f"needs a mapping of columns, not {type(value).__name__}", where=where)
        return _check_row(modality.preprocess.columns, value, where)  # type: ignore[union-attr]
    if isinstance(modality.preprocess, SequencePreprocess):
        return _check_interactions(modality.preprocess.skills, value, where)
    data, where = _read_media(value, base, where)
    check_value(modality, data, where)
    return data


def _check_text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"needs a text, not {type(value).__name__}", where=where)
    if not value.strip():
        raise InputError("the text is empty", where=where, remedy="leave the input out instead")
    if len(value) > TEXT_LIMIT_CHARACTERS:
        what = f"{len(value):,} characters are more than {TEXT_LIMIT_CHARACTERS:,}"
        raise InputError(what, where=where, remedy="shorten the text")
    return value


def _read_media(value: Any, base: Path | None, where: str) -> tuple[bytes, str]:
    """Returns the encoded file and where it came from, for messages."""
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


def _check_row(columns: Sequence[Column], value: Mapping[str, Any], where: str) -> Row:
    known = {column.name: column for column in columns}
    row: Row = {}
    for name, cell in value.items():
        if name not in known:
            raise InputError(f"no column {name!r}", where=where, remedy=_suggestion(str(name), list(known)))
        row[name] = _check_cell(known[name], cell, f"{where}.{name}")
    if all(cell is None for cell in row.values()):
        raise InputError("every cell is missing", where=where, remedy="leave the input out instead")
    return row


def _check_cell(column: Column, cell: Any, where: str) -> float | str | None:
    if cell is None or cell == "" or (isinstance(cell, float) and math.isnan(cell)):
        return None
    if column.categories:
        if str(cell) not in column.categories:
            remedy = _suggestion(str(cell), column.categories)
            raise InputError(f"unknown category {cell!r}", where=where, remedy=remedy)
        return str(cell)
    try:
        number = float(cell)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{cell!r} is not a number", where=where) from None
    if math.isinf(number):
        raise InputError("is infinite", where=where, remedy="leave the cell empty if the value is missing")
    return None if math.isnan(number) else number


def _check_interactions(skills: Sequence[str], value: Any, where: str) -> list[Interaction]:
    """Returns the interactions, the oldest first; times, where given, must not fall."""
    if isinstance(value, Mapping):
        value = [value]
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise InputError(f"needs a list of interactions, not {type(value).__name__}", where=where)
    if not value:
        raise InputError("the sequence is empty", where=where, remedy="leave the input out instead")
    if len(value) > INTERACTION_LIMIT:
        raise InputError(f"{len(value):,} interactions are more than {INTERACTION_LIMIT:,}", where=where)
    interactions: list[Interaction] = []
    latest_s, known = -math.inf, dict.fromkeys(skills)  # a dict, since a bundle may have hundreds of skills
    for index, item in enumerate(value):
        interaction = _check_interaction(known, item, f"{where}[{index}]")
        time_s = latest_s if interaction[2] is None else interaction[2]
        if time_s < latest_s:
            raise InputError(
                "is earlier than one before it", where=f"{where}[{index}]", remedy="put the oldest interaction first"
            )
        latest_s = time_s
        interactions.append(interaction)
    return interactions


def _check_interaction(skills: Collection[str], item: Any, where: str) -> Interaction:
    if not isinstance(item, Mapping):
        if isinstance(item, str) or not isinstance(item, Sequence) or len(item) not in (2, 3):
            raise InputError(f"{item!r} is no interaction", where=where, remedy='write ["fractions", true]')
        item = dict(zip(("skill", "correct", "time"), item, strict=False))
    if unknown := sorted(map(str, item.keys() - {"skill", "correct", "time"})):
        raise InputError(f"an interaction has no {unknown[0]!r}", where=where, remedy="skill, correct and time")
    skill, correct = item.get("skill"), TRUTH_WORDS.get(str(item.get("correct")).strip().lower())
    if skill is None or skill == "":
        raise InputError("the skill is missing", where=where, remedy="name the skill that was practised")
    if str(skill) not in skills:
        raise InputError(
            f"the bundle has no skill {skill!r}", where=where, remedy=_suggestion(str(skill), list(skills))
        )
    if correct is None:
        raise InputError(f"{item.get('correct')!r} is neither right nor wrong", where=where, remedy="true or false")
    return str(skill), correct, _check_seconds(item.get("time"), where)


def _check_seconds(value: Any, where: str) -> float | None:
    if value is None or value == "":
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not math.isfinite(seconds):
        raise InputError(f"{value!r} is no time", where=where, remedy="give seconds, from any moment on")
    return seconds


def _check_spans(task: Task, label: Any, where: str) -> list[str | SpanLabel]:
    """Returns spans as mappings, in the order of the text; they must not overlap."""
    if isinstance(label, str) or not isinstance(label, Sequence):
        raise InputError("needs a list of spans", where=where, remedy='[{"start": 0, "end": 5, "label": …}, …]')
    spans = sorted((_check_span(task, item, where) for item in label), key=lambda span: (span["start"], span["end"]))
    for before, after in itertools.pairwise(spans):
        if after["start"] < before["end"]:
            raise InputError(
                f"spans {before['start']} to {before['end']} and {after['start']} to {after['end']} overlap",
                where=where,
            )
    return list(spans)


def _check_span(task: Task, item: Any, where: str) -> dict[str, Any]:
    if not isinstance(item, Mapping) and not (isinstance(item, Sequence) and len(item) == 3):
        raise InputError(f"{item!r} is no span", where=where, remedy="give its start, end and label")
    span = dict(item) if isinstance(item, Mapping) else dict(zip(("start", "end", "label"), item, strict=True))
    if span.keys() != {"start", "end", "label"} or not all(type(span[edge]) is int for edge in ("start", "end")):
        raise InputError(f"{item!r} is no span", where=where, remedy="give its start, end and label")
    if not 0 <= span["start"] < span["end"]:
        raise InputError(f"characters {span['start']} to {span['end']} are no span", where=where)
    return {"start": span["start"], "end": span["end"], "label": _check_class(task, span["label"], where)}


def _check_span_ends(task: Task, label: Label, inputs: Mapping[str, list[StoredInput | None]]) -> None:
    if task.kind != "spans":
        return
    (text,) = inputs.get(task.reads[0], [None])
    if not isinstance(text, str):
        raise InputError(f"{task.reads[0]} is not given", where=f"labels.{task.name}", remedy="give the text, too")
    assert isinstance(label, list)
    for span in label:
        assert isinstance(span, dict)
        if int(span["end"]) > len(text):
            raise InputError(
                f"the span to {span['end']} leads past the text's {len(text)} characters", where=f"labels.{task.name}"
            )


def _check_class(task: Task, label: Any, where: str) -> str:
    if str(label) not in task.labels:
        raise InputError(f"no label {label!r}", where=where, remedy=_suggestion(str(label), task.labels))
    return str(label)


def _check_option_given(task: Task, label: Label, inputs: Mapping[str, list[StoredInput | None]]) -> None:
    if task.kind == "choice":
        options = inputs.get(task.reads[1])
        if options is None or options[int(label)] is None:  # type: ignore[arg-type]
            raise InputError(
                f"option {label} is not given", where=f"labels.{task.name}", remedy=f"fill {task.reads[1]}"
            )


def _suggestion(name: str, known: Sequence[str]) -> str:
    """Returns a remedy: the known names closest to this one, or the first twelve."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known[:12])}"


def _check_name(field: str, value: str | None) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str) or len(value) > NAME_LIMIT_CHARACTERS:
        raise InputError(f"needs a text of at most {NAME_LIMIT_CHARACTERS} characters", where=field)
    return value


def _check_date(value: str | datetime.date | None) -> str | None:
    if value is None or value == "":
        return None
    try:
        return (value if isinstance(value, datetime.date) else datetime.date.fromisoformat(value)).isoformat()[:10]
    except (TypeError, ValueError):
        raise InputError(f"{value!r} is not a day", where="retain_until", remedy="write it as 2027-07-31") from None
