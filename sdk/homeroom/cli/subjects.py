"""`homeroom device forget` and `hand-over`: the rights of a subject."""

from __future__ import annotations

from pathlib import Path

import click

from homeroom.cli.options import json_text, opened
from homeroom.cli.parameters import FOLDER


@click.command()
@click.argument("directory", type=FOLDER)
@click.argument("subject")
@click.option("--yes", is_flag=True, help="Do not ask.")
def forget(directory: Path, subject: str, yes: bool) -> None:
    """Destroy the key of SUBJECT and everything under it. This cannot be undone, not with a backup either.

    Example: homeroom device forget classroom/ p-17
    """
    if not yes:
        click.confirm(f"Forget {subject} for ever?", abort=True)
    with opened(directory) as device:
        report = device.forget(subject)
    click.echo(
        f"forgotten: {report.samples} samples, {report.versions} versions, {report.profiles} profiles, "
        f"{report.unsent_updates} unsent updates; "
        f"{len(report.unlearning)} sent updates will be unlearned at the next sync"
    )


@click.command("hand-over")
@click.argument("directory", type=FOLDER)
@click.argument("subject")
@click.option("--out", type=FOLDER, help="Write it into this folder, media as files; else print JSON without media.")
def hand_over(directory: Path, subject: str, out: Path | None) -> None:
    """Show all that is held about SUBJECT.

    Example: homeroom device hand-over classroom/ p-17 --out p-17/
    """
    from homeroom.store.subject_export import describe, write_export

    with opened(directory) as device:
        held = device.export(subject)
    if out is None:
        click.echo(json_text(describe(held)))
    else:
        click.echo(f"{write_export(held, out)} files in {out}")
