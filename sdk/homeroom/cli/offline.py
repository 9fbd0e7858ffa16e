"""`homeroom device carry`: to and from an aggregator by hand; imports device when used."""

from __future__ import annotations

from pathlib import Path

import click

from homeroom.cli.device import DIRECTORY, device, opened


@device.group()
def carry() -> None:
    """By hand, where there is no network: a letter out on a stick, an answer in from it.

    Example: homeroom device carry out classroom/ /media/stick
    """


@carry.command("join")
@click.argument("directory", type=DIRECTORY)
@click.argument("invitation", type=click.Path(dir_okay=False, path_type=Path))
def carry_join(directory: Path, invitation: Path) -> None:
    """Ask to join with the next letter.

    Example: homeroom device carry join classroom/ invitation.json
    """
    with opened(directory) as found:
        found.join_by_hand(invitation)
    click.echo("the request goes out with the next letter")


@carry.command("out")
@click.argument("directory", type=DIRECTORY)
@click.argument("stick", type=DIRECTORY)
def carry_out(directory: Path, stick: Path) -> None:
    """Write what waits to STICK, sealed so that only the aggregator can open it. May be repeated.

    The stick comes from the district, where `homeroom carry in` has prepared it.
    Example: homeroom device carry out classroom/ /media/stick
    """
    with opened(directory) as found:
        written = found.carry_out(stick)
    for update_id, reason in written.refused.items():
        click.echo(f"  not carried, {update_id[:8]}: {reason}")
    asks = ", a request to join" if written.joins else ""
    click.echo(f"{written.path}: {written.updates} updates, {written.unlearning} to unlearn{asks}")


@carry.command("in")
@click.argument("directory", type=DIRECTORY)
@click.argument("stick", type=DIRECTORY)
def carry_in(directory: Path, stick: Path) -> None:
    """Take in the aggregator's answer from STICK.

    Example: homeroom device carry in classroom/ /media/stick
    """
    with opened(directory) as found:
        taken = found.carry_in(stick)
        version = found.status()["global_version"]
    if taken.joined:
        click.echo("joined")
    click.echo(f"{len(taken.sent)} updates have arrived, {len(taken.unlearned)} will be unlearned")
    for update_id, reason in taken.refused.items():
        click.echo(f"  {update_id[:8]}: {reason}")
    click.echo(f"global version {version}; in use: {taken.fetched.in_use}")
