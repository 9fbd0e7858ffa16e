"""`homeroom device labels`: the labels of each task, and those that this device alone has."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from homeroom.cli.options import as_json, hint, opened, print_record, readable, say
from homeroom.cli.parameters import FOLDER
from homeroom.system.installation import quoted
from homeroom.system.printable import counted

if TYPE_CHECKING:
    from homeroom.store.local_labels import LocalScope

A_HANDFUL = 5  # samples of a label, below which more are asked for


@click.command()
@click.argument("directory", type=FOLDER)
@as_json
def labels_show(directory: Path) -> None:
    """List the labels of each task: the bundle's, and those of this device alone, with their samples."""
    with readable(directory) as device:
        found = device.labels()
    print_record([asdict(one) for one in found])
    for task in dict.fromkeys(one.task for one in found):
        say(task)
        own = [one for one in found if one.task == task]
        width = max(len(one.label) for one in own)
        for one in own:
            learned = "" if one.learned is None else f", {one.learned:,} of them learned"
            say(f"  {one.label:{width}}  {one.scope:11}  {counted(one.samples, 'sample')}{learned}")
            if one.asks:
                say(f"    {one.asks}")
    if not found:
        say("no task of this bundle has labels")


@click.command()
@click.argument("directory", type=FOLDER)
@click.argument("task")
@click.argument("labels", nargs=-1, required=True, metavar="LABEL…")
@click.option(
    "--scope",
    type=click.Choice(["personal", "institution"]),
    default="personal",
    show_default=True,
    help="Whether samples may ever become a later bundle's, once somebody merges them.",
)
@as_json
def labels_add(directory: Path, task: str, labels: tuple[str, ...], scope: LocalScope) -> None:
    """Add each LABEL to TASK, on this device alone; samples that have it are learned at once, from a handful."""
    from homeroom.device.local_labels import KEPT_HERE, add_labels

    with opened(directory) as device:
        added = device.change_labels(partial(add_labels, task=task, labels=labels, scope=scope))
        found = {(one.task, one.label): one for one in device.labels()}
        told = [one for one in device.labels() if one.task == task and one.scope == "bundle" and not one.samples]
    print_record([asdict(found[one.task, one.label]) for one in added])
    for one in added:
        number = counted(found[one.task, one.label].samples, "sample")
        say(f"{one.task}: {one.label}, {one.scope}, {number}. {KEPT_HERE}")
    if told:
        names = ", ".join(one.label for one in told)
        say(f"  no sample of {names} is here: unless other schools share statistics, it cannot be told from these")
    if any(found[one.task, one.label].samples < A_HANDFUL for one in added):
        hint(f"homeroom device add {quoted(directory)} SAMPLES: a handful of each ({A_HANDFUL} or more) with its name")


@click.command()
@click.argument("directory", type=FOLDER)
@click.argument("task")
@click.argument("label")
@as_json
def labels_remove(directory: Path, task: str, label: str) -> None:
    """Remove LABEL of this device from TASK. Its samples stay, without a label of the task."""
    from homeroom.device.local_labels import remove_label

    with opened(directory) as device:
        one, number = device.change_labels(lambda store, _: remove_label(store, task, label))
    print_record({"task": one.task, "label": one.label, "samples": number})
    say(f"{one.task}: {one.label} is removed, and all that was learned of it")
    say(f"  {counted(number, 'sample')} had it: kept, without a label of {one.task}")


@click.command()
@click.argument("directory", type=FOLDER)
@click.argument("task")
@click.argument("label")
@click.argument("name", metavar="NEW")
@as_json
def labels_rename(directory: Path, task: str, label: str, name: str) -> None:
    """Give LABEL of this device the name NEW, with its samples."""
    from homeroom.device.local_labels import rename_label

    with opened(directory) as device:
        one, number = device.change_labels(partial(rename_label, task=task, label=label, name=name))
    print_record({"task": one.task, "label": one.label, "samples": number})
    say(f"{one.task}: {label} is {one.label} now, with {counted(number, 'sample')}")


@click.command()
@click.argument("directory", type=FOLDER)
@click.argument("task")
@click.argument("label")
@as_json
def labels_merge(directory: Path, task: str, label: str) -> None:
    """Make LABEL of this device the bundle's label of the same name: from then on its samples train as all others."""
    from homeroom.device.local_labels import merge_label

    with opened(directory) as device:
        name, number = device.change_labels(partial(merge_label, task=task, label=label))
    print_record({"task": task, "label": name, "samples": number})
    say(f"{task}: {counted(number, 'sample')} of this device's label are now of the bundle's {name}")
    say("  the next training learns them, and what the round's rules let leave may hold what they teach")
    hint(f"homeroom device train {quoted(directory)}")
