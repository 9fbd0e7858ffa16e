"""Sub-commands of whoever runs the server: backup and restore."""

from __future__ import annotations

from pathlib import Path

import click

from homeroom.cli.numbers import Folder

FOLDER = Folder()


@click.command()
@click.argument("folder", type=FOLDER)
@click.argument("out", type=FOLDER)
def backup(folder: Path, out: Path) -> None:
    """Copy the aggregator in FOLDER to the new folder OUT, while it serves or not.

    The copy holds keys and plain updates: guard it like FOLDER. Example: homeroom backup district/ backup-monday/
    """
    from homeroom_aggregator.admin.backup import backup as run

    contents = run(folder, out)
    click.echo(f"{out}: version {contents.version}, {len(contents.files)} files")


@click.command()
@click.argument("saved", type=FOLDER)
@click.argument("folder", type=FOLDER)
def restore(saved: Path, folder: Path) -> None:
    """Put the backup SAVED in place as FOLDER, after checking every byte of it.

    Example: homeroom restore backup-monday/ district/
    """
    from homeroom_aggregator.admin.backup import restore as run

    contents = run(saved, folder)
    click.echo(f"{folder}: version {contents.version}")


commands: list[click.Command] = [backup, restore]
