"""The aggregator's sub-commands; `homeroom.cli.main` loads them by name."""

from __future__ import annotations

import json
from pathlib import Path

import click

from homeroom.errors import StoreError
from homeroom_aggregator.cli import backup, dashboard, members, privacy, simulate, upgrade
from homeroom_aggregator.cli.files import FOLDER
from homeroom_aggregator.cli.serve import serve
from homeroom_aggregator.cli.trust import trust


@click.command()
@click.argument("folder", type=FOLDER)
@click.option("--release", is_flag=True, help="Then release what is ready, without waiting for a full buffer.")
def rebuild(folder: Path, release: bool) -> None:
    """Compute every version of FOLDER again from its log, and compare bit for bit; stop the server first.

    Example: homeroom rebuild district/
    """
    from homeroom_aggregator.admin.folder import open_rounds

    rounds = open_rounds(folder)
    try:
        problems = rounds.verify()
        if problems:
            raise StoreError("; ".join(problems), where=str(folder), remedy="restore the last backup")
        click.echo(json.dumps(rounds.facts()))
        if release:
            click.echo(f"version {rounds.release_now()}")
    finally:
        rounds.close()


commands: list[click.Command] = [trust, serve, rebuild, simulate.simulate]
commands += [*members.commands, *backup.commands, *upgrade.commands, *privacy.commands]
commands += dashboard.commands
