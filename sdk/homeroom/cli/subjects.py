"""`homeroom device subjects`, `forget` and `hand-over`: who is held, and the rights of a subject."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import click

from homeroom.cli.in_use import lines_on_use, say_use
from homeroom.cli.options import as_json, json_text, opened, print_record, say
from homeroom.cli.parameters import FOLDER, OUT_FOLDER
from homeroom.data.names import all_near_names, near_names
from homeroom.system.printable import counted

TEXTS: tuple[Literal["text"], ...] = ("text",)
TEXT_SHOWN = 40  # characters


@click.command()
@click.argument("directory", type=FOLDER)
@click.argument("subject")
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json
def forget(directory: Path, subject: str, yes: bool) -> None:
    """Destroy the key of SUBJECT and everything under it. This cannot be undone, not with a backup either."""
    if not yes:
        click.confirm(f"Forget {subject} for ever?", abort=True, err=True)
    with opened(directory) as device:
        report = device.forget(subject)
        near, told = near_names(subject, device.store.subjects()), lines_on_use(device, directory)
    print_record({**asdict(report), "also_held": near})
    say(
        f"forgotten: {counted(report.samples, 'sample')}, {counted(report.versions, 'version')}, "
        f"{counted(report.profiles, 'profile')}, {counted(report.unsent_updates, 'unsent update')}; "
        f"{counted(len(report.unlearning), 'sent update')} will be unlearned at the next sync"
    )
    if report.labels:
        say(f"  no sample has these labels of this device any more, and they went too: {', '.join(report.labels)}")
    if report.subtracting:
        say(
            "  statistics that were sent are taken away with changes of other subjects, at the latest some weeks from "
            "now (docs/statistics.md); until then the last totals stay here, under the device's key"
        )
    if report.versions:
        say_use(told)
    else:
        for line in told[1:-1]:
            say(f"  {line}")
    if near:
        say(f"  also held: {', '.join(near)}: forget them too where they are the same person")


@click.command()
@click.argument("directory", type=FOLDER)
@click.option("--samples", metavar="PERSON", help="List this person's samples with their ids instead.")
@as_json
def subjects(directory: Path, samples: str | None) -> None:
    """List who is held, with the number of samples; names that may be the same person's stand together."""
    if samples is not None:
        return _list_samples(directory, samples)
    with opened(directory) as device:
        people = [(sample.subject, sample.author) for sample in device.store.each_without_inputs()]
        counts, authored = Counter(subject for subject, _ in people), Counter(author for _, author in people)
        held = {name: counts[name] for name in sorted(device.store.subjects(), key=str.casefold)}
    print_record(held)
    width, all_near = max(map(len, held), default=0), all_near_names(held)
    for name, number in held.items():
        near = all_near.get(name)
        by = f", author of {counted(authored[name], 'sample')}" if authored[name] else ""
        say(f"{name:{width}}  {counted(number, 'sample')}{by}" + (f"  also held: {', '.join(near)}" if near else ""))


def _list_samples(directory: Path, person: str) -> None:
    with opened(directory) as device:
        name = device.store.known(person)
        held = [sample for sample in device.store.each_without_inputs() if name in (sample.subject, sample.author)]
        texts = [device.store.with_inputs(sample, TEXTS) for sample in held]
    rows: list[dict[str, Any]] = [
        {
            "id": sample.sample_id,
            "subject": sample.subject,
            "author": sample.author,
            "labels": sample.every_label,
            "consent": sample.consent_state,
            "inputs": {
                slot: next((v for v in values if isinstance(v, str)), "") for slot, values in text.inputs.items()
            },
        }
        for sample, text in zip(held, texts, strict=True)
        if text is not None
    ]
    print_record(rows)
    for row in rows:
        inputs = ", ".join(f"{slot} {text[:TEXT_SHOWN]!r}" if text else slot for slot, text in row["inputs"].items())
        labels = ", ".join(f"{task}={label}" for task, label in row["labels"].items()) or "no label"
        say(f"{row['id']}  {inputs}: {labels}; consent {row['consent']}")


@click.command("hand-over")
@click.argument("directory", type=FOLDER)
@click.argument("subject")
@click.option("--out", type=OUT_FOLDER, help="Write it into this folder, with media; else print JSON without them.")
@as_json
def hand_over(directory: Path, subject: str, out: Path | None) -> None:
    """Show all that is held about SUBJECT."""
    from homeroom.store.subject_export import describe, write_export

    with opened(directory) as device:
        held = device.export(subject)
        near = near_names(held.subject, device.store.subjects())
    if out is None:
        click.echo(json_text(describe(held)))  # as JSON in any case
    else:
        count = write_export(held, out)
        print_record({"folder": out, "files": count})
        say(f"{counted(count, 'file')} in {out}")
    if near:
        say(f"also held: {', '.join(near)}", err=True)
