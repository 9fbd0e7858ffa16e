"""`homeroom district rebuild` and `go-back`: versions from the log."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import click

from homeroom.cli.parameters import FOLDER, NAME, Whole
from homeroom.errors import StoreError


@click.command()
@click.argument("folder", type=FOLDER)
@click.option("--release", is_flag=True, help="Then release what is ready, without waiting for a full buffer.")
def rebuild(folder: Path, release: bool) -> None:
    """Compute every version of FOLDER again from its log, and compare bit for bit; stop the server first.

    Example: homeroom district rebuild district/
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


@click.command("go-back")
@click.argument("folder", type=FOLDER)
@click.argument("version", type=Whole(0))
@click.option("--by", type=NAME, required=True, help="Who goes back; it stands in the audit log.")
@click.option("--why", type=NAME, required=True, help="Why; it stands in the audit log.")
def go_back(folder: Path, version: int, by: str, why: str) -> None:
    """Release a new version with the theta of the older VERSION; 0 is the bundle's own. Stop the server first.

    While it serves, the dashboard does the same.
    Example: homeroom district go-back district/ 12 --by "Ms Lee" --why "worse"
    """
    from homeroom_aggregator.admin.folder import open_rounds

    with contextlib.closing(open_rounds(folder)) as rounds:
        new = rounds.roll_back(version, by, why)
    click.echo(f"version {new} is version {version} again")
