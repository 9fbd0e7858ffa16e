"""`homeroom device explain`: the reasons for an answer, in words, as JSON or as a page."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from homeroom.cli.device import sample_of
from homeroom.cli.options import as_json, print_record, readable, say
from homeroom.cli.parameters import FOLDER, OUT_FILE


@click.command()
@click.argument("directory", type=FOLDER)
@click.argument("task")
@click.argument("inputs", nargs=-1, required=True, metavar="SLOT=VALUE…")
@click.option("--label", help="Say what speaks for this label, in place of the answer's own.")
@click.option("--html", type=OUT_FILE, help="Also write a page that shows the inputs.")
@as_json
def explain(directory: Path, task: str, inputs: tuple[str, ...], label: str | None, html: Path | None) -> None:
    """Say which words, regions, moments and columns speak for the answer to TASK, and which against it."""
    from homeroom.data.validation import resolve
    from homeroom.inference.explanation_page import page
    from homeroom.system.files import write_durable

    sample = sample_of(inputs)
    with readable(directory) as device:
        why = device.explain(sample, task, label)
        if html is not None:
            manifest = device.bundle.manifest
            write_durable(html, page(why, resolve(sample, manifest), manifest).encode())
    print_record({**asdict(why), "sentences": why.sentences()})
    for sentence in why.sentences():
        say(sentence)
    if html is not None:
        say(f"{html} shows it")
