"""`homeroom device`: the samples of a school, training, answers, status."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from homeroom.cli.in_use import installed, lines_on_use, say_installed, say_use
from homeroom.cli.options import (
    as_json,
    budget_of,
    budget_options,
    for_person,
    group_option,
    opened,
    plain,
    print_record,
    progress,
    readable,
    refuse_idle,
    say,
    with_bundle,
)
from homeroom.cli.parameters import FOLDER, OUT_FILE, PATH, Finite, Whole
from homeroom.cli.profile import profile_line
from homeroom.cli.receipt import write_refused
from homeroom.cli.status_lines import status_lines
from homeroom.device.receipt_lines import receipt_lines
from homeroom.errors import InputError
from homeroom.system.printable import counted

if TYPE_CHECKING:
    from homeroom.data.cells import Decimal
    from homeroom.data.samples import Sample
    from homeroom.device.reports import TrainReport


@click.command()
@click.argument("directory", type=FOLDER)
@with_bundle
@click.option("--tier", help="How large an adapter, if not the full one: inspect names those there are.")
@click.option("--runtime", type=click.Choice(["onnx", "litert"]), help="What runs the graphs, from now on.")
@click.option("--anew", is_flag=True, help="Start again in a directory whose key is not on this machine.")
@as_json
def init(
    directory: Path, bundle: Path | None, root: str | None, tier: str | None, runtime: str | None, anew: bool
) -> None:
    """Make the device DIRECTORY with a bundle, or install a newer bundle in it."""
    with opened(directory, bundle, root, anew=anew, tier=tier, runtime=runtime) as device:
        print_record(installed(device, directory))
        say_installed(device, directory)
        say_use(lines_on_use(device, directory))


@click.command()
@click.argument("directory", type=FOLDER)
@click.argument("samples", type=PATH, nargs=-1, required=True)
@click.option("--as-they-are", is_flag=True, help="Quarantine none for its quality, or as a near copy.")
@click.option("--ignore", default="", metavar="COLUMNS", help="Columns to pass over, separated by commas.")
@click.option("--map", "columns", multiple=True, metavar="COLUMN=NAME", help="The bundle's name for a sheet's column.")
@click.option("--decimal", type=click.Choice(["point", "comma"]), help="Of numbers that could be read in two ways.")
@group_option
@click.option(
    "--skip-bad", type=OUT_FILE, metavar="OUT.csv", help="Take the valid rows; write the others there, with why."
)
@as_json
@with_bundle
def add(
    directory: Path,
    samples: tuple[Path, ...],
    as_they_are: bool,
    ignore: str,
    columns: tuple[str, ...],
    decimal: Decimal | None,
    group: str,
    skip_bad: Path | None,
    bundle: Path | None,
    root: str | None,
) -> None:
    """Add SAMPLES: sheets, .jsonl files, or folders with pictures, sounds and texts. All of them, or none."""
    from homeroom.data.ingest import ReadOptions

    names = dict(_column_pair(pair) for given in columns for pair in _column_pairs(given))
    ignored = frozenset(filter(None, (" ".join(name.split()) for row in csv.reader([ignore]) for name in row)))
    options = ReadOptions(ignored, names, decimal or "", skip_bad is not None, group)
    if skip_bad is not None and skip_bad.exists():
        raise InputError("is there already", where=str(skip_bad), remedy="give the name of a new file")
    with opened(directory, bundle, root) as device:
        receipt = device.take_in(*samples, gates=not as_they_are, options=options)
    if skip_bad is not None and receipt.refused:
        write_refused(receipt.refused, skip_bad)
    print_record(asdict(receipt))
    for line in receipt_lines(receipt, directory):
        say(line)
    if skip_bad is not None:
        again = f"; add it with --decimal {decimal}" if decimal else ""
        taken = f"  every row was taken: no {skip_bad}"
        say(f"  the rows not taken are in {skip_bad}{again}" if receipt.refused else taken)


def _column_pairs(given: str) -> list[str]:
    """What --map gives: one pair, or several between commas, where each part is one."""
    parts = next(csv.reader([given]), [])
    return parts if all("=" in part for part in parts) and parts else [given]


def _column_pair(pair: str) -> tuple[str, str]:
    column, separator, name = pair.rpartition("=")
    column, name = " ".join(column.split()), name.strip()
    if not separator or not column or not name:
        raise InputError(f"{pair!r} is no pair", where="--map", remedy='write --map "Which animal?=label.category"')
    return column, name


@click.command()
@click.argument("directory", type=FOLDER)
@click.option("--minutes", type=Finite(0, min_open=True), default=10.0, show_default=True, help="Budget.")
@budget_options
@click.option("--epochs", type=Whole(1), help="In place of what the bundle recommends.")
@click.option(
    "--distillation",
    type=Finite(0, min_open=True),
    help="Weight of the answers of before beside the labels (learning without forgetting); 1 counts them alike.",
)
@for_person
@as_json
@click.pass_context
def train(
    context: click.Context,
    /,
    directory: Path,
    minutes: float,
    epochs: int | None,
    distillation: float | None,
    profile: str | None,
    **limits: Any,
) -> None:
    """Train on all labelled samples within a budget; resumes where it was interrupted."""
    if profile is not None:
        refuse_idle(
            context, "--profile", ("epochs", "threads", "distillation")
        )  # its methods have epochs of their own; it is not planned
    budget = budget_of(minutes, limits)
    with opened(directory) as device:
        report = device.train(
            epochs=epochs, budget=budget, profile=profile, distillation=distillation, progress=_progress
        )
    progress("", done=True)
    print_record(asdict(report))
    if profile is None:
        _show_training(report)
        return
    say(f"{counted(report.samples, 'sample')}, {report.seconds:.1f} s")
    say(profile_line(report.profile))
    if not report.finished:
        say(f"  {report.stopped}: nothing was changed; give it more")


def _show_training(report: TrainReport) -> None:
    from homeroom.train.by_label import label_line

    frozen = f" (the heads alone after {report.settled_after})" if report.settled_after else ""
    much = f"{counted(report.samples, 'sample')}, {counted(report.epochs, 'epoch')}"
    say(f"{much}{frozen}, {report.seconds:.1f} s")
    for task, score in report.scores.items():
        if score.n:
            say(f"  {task}: {score.brief} on {report.judged[task].text}")
            if score.by_part:
                say(f"    {score.by_part}")
            alone = report.by_input.get(task, {})
            if len(alone) > 1:
                figures = ", ".join(f"{slot} {one.brief} of {one.n}" for slot, one in alone.items())
                say(f"    theta from one input alone: {figures}")
            if labels := report.by_label.get(task):
                before = " (and the version before)" if any(one.before is not None for one in labels.values()) else ""
                say(f"    theta by label{before}: {label_line(labels)}")
    for language, scores in report.by_language.items():
        figures = ", ".join(f"{task} {score.brief} of {score.n}" for task, score in scores.items() if score.n)
        say(f"  in language {language}: {figures or 'no sample to judge by'}")
    if report.plan is not None:
        for reason in report.plan.why:
            say(f"  {reason}")
        if report.plan.seconds is not None:
            predicted = f"predicted {report.plan.seconds:.1f} s and {report.plan.megabytes:.0f} MB"
            say(f"  {predicted}; took {report.seconds:.1f} s and {report.megabytes:.0f} MB")
    if report.unsolved:
        say(f"  {report.unsolved}")
    for task, sentence in report.worse_tasks.items():
        say(f"  {task}: {sentence}")
    if report.worse:
        say("  clearly worse than the model before, on the same samples: `homeroom device undo` goes back to that one")
    for note in report.notes:
        say(f"  {note}")
    if report.fitted:
        say(f"  {report.fitted}")
    say(f"  update: {report.update}")


@click.command()
@click.argument("directory", type=FOLDER)
@click.argument("inputs", nargs=-1, required=True, metavar="SLOT=VALUE…")
@for_person
@as_json
@with_bundle
def predict(
    directory: Path, inputs: tuple[str, ...], profile: str | None, bundle: Path | None, root: str | None
) -> None:
    """Answer every task for one sample; a value is a text or a file."""
    from homeroom.data.tasks import kind_of

    sample = sample_of(inputs)
    with opened(directory, bundle, root) if bundle or root else readable(directory) as device:
        if profile is not None and device.profile(profile) is None:
            say(f"no model of {profile} is here: the shared model answers", err=True)
        answers, tasks = device.predict(sample, profile), device.bundle.manifest.tasks
    print_record({task: asdict(answer) for task, answer in answers.items()})
    for task in tasks:
        answer, kind = answers[task.name], kind_of(task)
        shown = "-" if answer.best is None else kind.show(task, answer.best)
        if answer.best is not None and not isinstance(answer.best, list) and answer.probabilities:
            shown += f" ({answer.probabilities[kind.own_label(task, answer)]:.0%})"
        told = f"  ({answer.reason})" if answer.reason else ""
        say(f"{task.said}: {shown}" + (told if answer.sure else f"  not sure: {answer.reason}"))


@click.command()
@click.argument("directory", type=FOLDER)
@click.argument("samples", type=PATH, nargs=-1, required=True)
@group_option
@as_json
def score(directory: Path, samples: tuple[Path, ...], group: str) -> None:
    """Say how well the model in use does on labelled SAMPLES, which are not stored, and what each part of it does.

    Says too how many of them, or of their groups, this device learns from.
    """
    with readable(directory) as device:
        scores = device.score(*samples, note=lambda sentence: say(sentence, err=True), group=group)
    print_record({task: plain(value) for task, value in scores.items()})
    for task, value in scores.items():
        if value.n:
            learned = f", {value.learned:,} of them held here to learn from" if value.learned else ""
            say(f"{task}: {value.detail}, {counted(value.n, 'sample')}{learned}")
            if value.by_part:
                say(f"  {value.by_part}")


@click.command()
@click.argument("directory", type=FOLDER)
@click.option("--put-back", multiple=True, metavar="ID", help="Release this sample to training; may be repeated.")
@click.option("--doubt", is_flag=True, help="First quarantine labels that look wrong; this trains for some minutes.")
@click.option("--inbox", type=FOLDER, help="List the agent's refused entries in this inbox instead.")
@click.option("--give-back", multiple=True, metavar="NAME", help="With --inbox: let the agent try this entry again.")
@as_json
def quarantine(
    directory: Path,
    put_back: tuple[str, ...],
    doubt: bool,
    inbox: Path | None,
    give_back: tuple[str, ...],
) -> None:
    """List the quarantined samples, whole or in part, and why; or release some."""
    if inbox is not None:
        return _refused(inbox, give_back)
    if give_back:
        raise InputError("--give-back needs --inbox", remedy="name the agent's inbox")
    with opened(directory) as device:
        device.put_back(*put_back)
        if doubt:
            device.doubt()
        samples = device.set_aside()
    rows = [
        {"id": s.sample_id, "subject": s.subject, "why": s.quarantine_reason, "labels": s.every_label} for s in samples
    ]
    print_record(rows)
    for line in [f"{s.sample_id}  {s.subject}: {s.quarantine_reason}" for s in samples] or ["none is quarantined"]:
        say(line)


def _refused(inbox: Path, give_back: tuple[str, ...]) -> None:
    from homeroom.agent import inbox as agent_inbox

    for name in give_back:
        agent_inbox.give_back(inbox, name)
    entries = agent_inbox.refused_entries(inbox)
    print_record(entries)
    for line in [f"{entry.name}: {entry.why}" for entry in entries] or ["none is refused"]:
        say(line)


@click.command()
@click.argument("directory", type=FOLDER)
@as_json
def undo(directory: Path) -> None:
    """Use the version of theta before the present one."""
    with opened(directory) as device:
        say(f"in use: {device.rollback()}")
        print_record({"in_use": device.status().in_use})
        say_use(lines_on_use(device, directory)[1:])


@click.command()
@click.argument("directory", type=FOLDER)
@as_json
def status(directory: Path) -> None:
    """Say what the device holds, what waits, and what was found damaged."""
    with readable(directory) as device:
        facts = device.status()
    print_record(facts)
    for line in status_lines(facts):
        say(line)


def _progress(stage: str, done: int, total: int) -> None:
    if done == total or done % max(1, total // 50) == 0:
        progress(f"{stage}: {done} of {total}")


def sample_of(inputs: tuple[str, ...]) -> Sample:
    """The sample that SLOT=VALUE words describe; a slot that is repeated takes a list."""
    from homeroom.data.samples import Sample

    pairs: dict[str, Any] = {}
    for item in inputs:
        slot, equals, value = item.partition("=")
        if not equals:
            raise InputError(f"{item!r} is not SLOT=VALUE", remedy='write for example text="el gato"')
        if slot in pairs:
            pairs[slot] = [*(pairs[slot] if isinstance(pairs[slot], list) else [pairs[slot]]), value]
        else:
            pairs[slot] = json.loads(value) if value.startswith(("{", "[")) and _is_json(value) else value
    return Sample(**pairs)


def _is_json(value: str) -> bool:
    """Whether a value is an object or a list of interactions."""
    try:
        document = json.loads(value)
    except ValueError:
        return False
    return isinstance(document, dict) or (
        isinstance(document, list) and all(isinstance(row, list | dict) for row in document)
    )
