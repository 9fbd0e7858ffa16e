"""`homeroom district offline`: exchange with schools that have no network."""

from __future__ import annotations

from pathlib import Path

import click

from homeroom.cli.options import as_json, print_record, say
from homeroom.cli.parameters import FOLDER
from homeroom.system.printable import counted


@click.command("in")
@click.argument("folder", type=FOLDER)
@click.argument("stick", type=FOLDER)
@as_json
def offline_in(folder: Path, stick: Path) -> None:
    """Take in the messages on STICK and leave answers; also prepares a new removable folder. Stop the server first.

    Run it again if the stick was pulled out.
    """
    from homeroom_aggregator.admin.offline import take_in_messages

    outcome = take_in_messages(folder, stick, say)
    print_record(outcome)
    messages = f"{counted(outcome.messages, 'message')}, {outcome.joined} to join"
    updates = f"{counted(outcome.accepted, 'update')} accepted, {outcome.already} were here, {outcome.refused} refused"
    waits = f", {outcome.waits} wait for a school's consent" if outcome.waits else ""
    say(f"{messages}; {updates}{waits}; {outcome.unlearned} to unlearn")
    for name, why in outcome.unreadable.items():
        say(f"  left alone: {name}: {why}")
