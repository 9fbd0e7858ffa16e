"""Labels of this device on the agent's page: added, renamed, and merged or removed in two steps."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial

from homeroom.agent.decisions import Confirmation, require_seen
from homeroom.device.device import Device
from homeroom.device.local_labels import (
    KEPT_HERE,
    LabelCount,
    add_labels,
    label_counts,
    merge_label,
    remove_label,
    rename_label,
    takes_labels,
)
from homeroom.errors import InputError
from homeroom.store.local_labels import LOCAL_SCOPES
from homeroom.system.printable import counted

log = logging.getLogger("homeroom.agent")


def taking_tasks(device: Device) -> list[str]:
    """The tasks that labels of this device can be added to."""
    manifest = device.bundle.manifest
    return [task.name for task in manifest.tasks if takes_labels(manifest, task)]


def own_labels(device: Device) -> list[LabelCount]:
    """The labels of this device."""
    return [one for one in label_counts(device.store, device.bundle) if one.scope in LOCAL_SCOPES]


def add_label(device: Device, fields: Mapping[str, str]) -> str:
    """Adds the label of a form, or gives it another scope; returns what was done."""
    task, name, scope = (fields.get(field, "").strip() for field in ("task", "label", "scope"))
    chosen = next((one for one in LOCAL_SCOPES if one == scope), None)
    if chosen is None or not task:
        raise InputError("says no task, or no scope", where="label", remedy="choose both")
    (one,) = device.change_labels(partial(add_labels, task=task, labels=[name], scope=chosen))
    log.info("page: a label of this device, %s", chosen)
    return f"{one.label} is a label of {task} on this device, {chosen}: give it to a handful of samples. {KEPT_HERE}"


def rename(device: Device, fields: Mapping[str, str]) -> str:
    """Gives a label of this device the name of a form; returns what was done."""
    task, label, name = (fields.get(field, "").strip() for field in ("task", "label", "name"))
    one, number = device.change_labels(partial(rename_label, task=task, label=label, name=name))
    return f"{label} is {one.label} now, with {counted(number, 'sample')}."


def removal(device: Device, fields: Mapping[str, str]) -> Confirmation:
    """What removing a label of this device would do."""
    one = _found(device, fields)
    sentences = (
        f"{one.label} of {one.task} goes, with all that was learned of it.",
        f"{counted(one.samples, 'sample')} had it: kept, without a label of {one.task}.",
    )
    return _asked("Remove this label?", sentences, "/labels/remove", "Remove it", one)


def remove(device: Device, fields: Mapping[str, str]) -> str:
    """Removes a label of this device as was shown; returns what was done."""
    one = _found(device, fields)
    require_seen(fields["seen"], _seen(one))
    _, number = device.change_labels(lambda store, _: remove_label(store, one.task, one.label))
    return f"{one.label} is removed; {counted(number, 'sample')} had it and stay, without a label of {one.task}."


def merging(device: Device, fields: Mapping[str, str]) -> Confirmation:
    """What merging a label of this device into the bundle's of the same name would do."""
    one = _found(device, fields)
    sentences = (
        f"{counted(one.samples, 'sample')} of this device's {one.label} become samples of the bundle's {one.label}.",
        "The next training learns them, and what the round's rules let leave may hold what they teach.",
    )
    return _asked("Do both mean the same?", sentences, "/labels/merge", "Merge them", one)


def merge(device: Device, fields: Mapping[str, str]) -> str:
    """Merges a label of this device as was shown; returns what was done."""
    one = _found(device, fields)
    require_seen(fields["seen"], _seen(one))
    name, number = device.change_labels(partial(merge_label, task=one.task, label=one.label))
    return f"Merged, with {counted(number, 'sample')}: labelled {name} now, and learned by the next training."


def _found(device: Device, fields: Mapping[str, str]) -> LabelCount:
    asked = fields.get("task"), fields.get("label")
    found = next((one for one in own_labels(device) if (one.task, one.label) == asked), None)
    if found is None:
        raise InputError("there is no such label", where="label", remedy="open the page again: it may have changed")
    return found


def _asked(title: str, sentences: tuple[str, ...], action: str, button: str, one: LabelCount) -> Confirmation:
    return Confirmation(title, sentences, action, button, _seen(one), {"task": one.task, "label": one.label})


def _seen(one: LabelCount) -> str:
    return f"{one.scope}/{one.samples}"
