"""The group of a sample, which is held out whole to judge by: a slot or a further column that a person names."""

from __future__ import annotations

import copy
from typing import Any

from homeroom.contract.manifest import Manifest
from homeroom.data.cells import is_missing
from homeroom.data.ingest.intake import Intake
from homeroom.data.names import check_text_field, normal_name
from homeroom.data.samples import OTHER_RESERVED, HeldOutGroup, Sample
from homeroom.data.validation import reserved_fields
from homeroom.errors import InputError

WHERE = "--group"


def check_group(name: str, manifest: Manifest) -> None:
    """InputError where samples cannot be grouped by a slot or column of this name, or are already; "" is none."""
    if not name:
        return
    remedy = "name a slot with a single input, or a column beside the inputs, such as topic"
    named = {task.name: task.group for task in manifest.tasks if isinstance(task.group, str)}
    if other := next((task for task, group in named.items() if group != name), None):
        what = f"the bundle judges {other} by whole {named[other]!r}, not by {name!r}"
        raise InputError(what, where=WHERE, remedy="leave the option out")
    if named and len(named) == len(manifest.tasks):
        raise InputError(f"the bundle judges by whole {name!r} already", where=WHERE, remedy="leave the option out")
    slots = {slot.name: slot for slot in manifest.slots}
    if name in slots:
        if slots[name].count > 1:
            raise InputError(f"the slot {name!r} has several inputs", where=WHERE, remedy=remedy)
    elif name == "subject":
        raise InputError("pupils are held out whole without it", where=WHERE, remedy=remedy)
    elif (
        name in (*reserved_fields(manifest), *OTHER_RESERVED, *(slot.modality for slot in manifest.slots))
        or "." in name
    ):
        raise InputError(f"{name!r} is read otherwise", where=WHERE, remedy=remedy)
    elif name != normal_name(name):
        raise InputError(f"{name!r} has blanks or signs that nobody sees", where=WHERE, remedy=remedy)


def with_group(sample: Sample, manifest: Manifest, intake: Intake) -> Sample:
    """The sample with its group by `intake.options.group`, whose further column is then no input; itself without one.

    Raises InputError where the column holds no short text.
    """
    if not (name := intake.options.group):
        intake.grouped += sample.group is not None
        return sample
    grouped = copy.copy(sample)
    if any(slot.name == name for slot in manifest.slots):
        slot = manifest.slot(name)
        single = [one for one in manifest.slots if one.modality == slot.modality and one.count == 1]
        names = (name, slot.modality) if single == [slot] else (name,)
        grouped.group = HeldOutGroup(name) if any(sample.inputs.get(one) is not None for one in names) else None
    else:
        grouped.inputs = {key: value for key, value in sample.inputs.items() if key != name}
        text = check_text_field(name, sample.inputs.get(name)) or ""
        if text and is_missing(text):
            intake.missing[text.strip()] += 1
        elif value := normal_name(text):
            grouped.group = HeldOutGroup(name, value)
    intake.grouped += grouped.group is not None
    return grouped


def stated_group(given: Any) -> HeldOutGroup | None:
    """The group of a sample as export.json states it; InputError where it is none."""
    if given is None:
        return None
    name = check_text_field("group", given.get("name")) if isinstance(given, dict) else None
    if not name:
        raise InputError("needs a name", where="group", remedy="give the folder as it was written")
    return HeldOutGroup(name, normal_name(check_text_field("group", given.get("value")) or ""))
