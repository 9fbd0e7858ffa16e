"""What `homeroom device hand-over` wrote about a person, read by the device that the person moves to: export.json."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from homeroom.contract.manifest import Manifest
from homeroom.data.ingest.group_column import stated_group
from homeroom.data.ingest.intake import Intake
from homeroom.data.samples import Sample
from homeroom.data.validation import find_slot
from homeroom.errors import InputError
from homeroom.system.files import read_below

EXPORT_FILE, PROFILE_FILE = "export.json", "profile.safetensors"
EXPORT_LIMIT_BYTES = 256 << 20
STATED_FIELDS = ("labels", "subject", "author", "consent", "source", "retain_until", "language")
UNREAD = {PROFILE_FILE: "a person's own model moves with `homeroom device profile pack` and `profile import`"}


class HandOver(msgspec.Struct, frozen=True):
    """What is read of export.json; quality is judged anew, and ids are this device's own."""

    subject: str
    samples: list[dict[str, Any]]


def read_hand_over(folder: Path, manifest: Manifest, intake: Intake) -> Iterator[Sample]:
    """Yields the samples, not yet checked: labels, texts, media, people, group, consent, source and last day.

    Raises InputError where export.json is none of `hand-over`.
    """
    held = _read(folder)
    intake.read.add(folder / EXPORT_FILE)
    named: set[str] = {EXPORT_FILE}
    for number, row in enumerate(held.samples, 1):
        where = f"{EXPORT_FILE} sample {number}"
        with intake.row(where, {"sample": msgspec.json.encode(row).decode()}):
            sample = _to_sample(row, manifest)
            sample.origin = where
            media = (
                value
                for values in sample.inputs.values()
                for value in (values if isinstance(values, list) else [values])
            )
            named |= {value for value in media if isinstance(value, str)}
            yield sample
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name not in named and not path.is_dir() and not name.startswith("."):
            intake.unread[name] = UNREAD.get(name, f"{EXPORT_FILE} does not name it")


def _read(folder: Path) -> HandOver:
    try:
        data = read_below(folder, EXPORT_FILE, EXPORT_LIMIT_BYTES)
        return msgspec.json.decode(data, type=HandOver)
    except OSError as problem:
        raise InputError(f"cannot be read: {problem.strerror}", where=EXPORT_FILE) from None
    except (ValueError, RecursionError) as problem:  # msgspec's errors are ValueErrors
        what = f"is not what `homeroom device hand-over` writes: {problem}"
        remedy = "give the folder as it was written, or remove export.json to read the others"
        raise InputError(what, where=EXPORT_FILE, remedy=remedy) from None


def _to_sample(row: dict[str, Any], manifest: Manifest) -> Sample:
    inputs: dict[str, Any] = {}
    given = row.get("inputs")
    for name, values in given.items() if isinstance(given, dict) else ():
        slot = find_slot(str(name), manifest)
        if not isinstance(values, list) or (slot.count == 1 and len(values) != 1):
            raise InputError("needs a list of its inputs", where=slot.name)
        inputs[slot.name] = values if slot.count > 1 else values[0]
    stated = {name: row[name] for name in STATED_FIELDS if row.get(name) is not None}
    local = row.get("local_labels", {})  # of the device that wrote it: a label of this one too, or refused
    if not isinstance(stated.get("labels", {}), dict) or not isinstance(local, dict):
        raise InputError("labels must be an object of task and label")
    stated["labels"] = {**stated.get("labels", {}), **local}
    sample = Sample(**stated)
    sample.inputs, sample.group = inputs, stated_group(row.get("group"))
    return sample
