"""`homeroom succeed` and `carry`: from one aggregator's folder to the next, and letters that come by hand."""

from __future__ import annotations

from pathlib import Path

import click

from homeroom.cli.numbers import Folder

FOLDER = Folder()


@click.command()
@click.argument("folder", type=FOLDER)
@click.argument("old", type=FOLDER)
@click.option("--bundle", type=click.Path(path_type=Path), required=True, help="The newer bundle.")
def succeed(folder: Path, old: Path, bundle: Path) -> None:
    """Make FOLDER for a newer bundle, with the key, invitations and devices of OLD; then stop OLD and serve FOLDER.

    Devices fetch the bundle from it (`homeroom device update`) and stay enrolled.
    Example: homeroom succeed district-2/ district/ --bundle vocabulary-2.homeroom
    """
    from homeroom_aggregator.admin.bundle_upgrade import succeed as take_over

    facts = take_over(folder, old, bundle)
    click.echo(f"{folder}: bundle {facts.bundle_id[:12]}, root {facts.root}")


@click.group()
def carry() -> None:
    """By hand, where schools have no network: what `homeroom device carry` writes to a stick, and back."""


@carry.command("in")
@click.argument("folder", type=FOLDER)
@click.argument("stick", type=FOLDER)
def carry_in(folder: Path, stick: Path) -> None:
    """Take in the letters on STICK and leave answers; also prepares a new stick. Stop the server of FOLDER first.

    Run it again if the stick was pulled out. Example: homeroom carry in district/ /media/stick
    """
    from homeroom_aggregator.admin.offline import take_in

    taken = take_in(folder, stick, click.echo)
    told = f"{taken.accepted} updates accepted, {taken.already} were here, {taken.refused} refused"
    waits = f", {taken.waits} wait for a school's consent" if taken.waits else ""
    click.echo(f"{taken.letters} letters, {taken.joined} to join; {told}{waits}; {taken.unlearned} to unlearn")
    for name, why in taken.unreadable.items():
        click.echo(f"  left alone: {name}: {why}")


commands: list[click.Command] = [succeed, carry]
