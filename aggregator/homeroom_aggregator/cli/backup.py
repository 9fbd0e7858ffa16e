"""`homeroom district backup` and `restore`."""

from __future__ import annotations

from pathlib import Path

import click

from homeroom.cli.parameters import FOLDER

UNDONE = (
    "what was done after the backup is undone: keys that were revoked, consents that were withdrawn and updates that "
    "were withdrawn or unlearned since then count again, until you do it again (the dashboard reminds of it)"
)


@click.command()
@click.argument("folder", type=FOLDER)
@click.argument("out", type=FOLDER)
def backup(folder: Path, out: Path) -> None:
    """Copy the aggregator in FOLDER to the new folder OUT, while it serves or not.

    The copy holds keys and plain updates: guard it like FOLDER.
    Example: homeroom district backup district/ backup-monday/
    """
    from homeroom_aggregator.admin.backup import backup as run

    contents = run(folder, out)
    click.echo(f"{out}: version {contents.version}, {len(contents.files)} files")


@click.command()
@click.argument("folder", type=FOLDER)
@click.argument("saved", type=FOLDER)
def restore(folder: Path, saved: Path) -> None:
    """Make FOLDER from the backup SAVED, after checking every byte of it.

    Example: homeroom district restore district/ backup-monday/
    """
    from homeroom_aggregator.admin.backup import restore as run

    contents = run(saved, folder)
    click.echo(f"{folder}: version {contents.version}")
    click.echo(UNDONE, err=True)
