"""`homeroom device offline`: exchange with an aggregator on a removable folder."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import click

from homeroom.cli.in_use import lines_on_use, say_judgement
from homeroom.cli.network import statistics_lines
from homeroom.cli.options import as_json, opened, print_record, say
from homeroom.cli.parameters import FOLDER, INVITATION
from homeroom.federation.unlearning import unlearning_lines
from homeroom.system.printable import counted


@click.command("join")
@click.argument("directory", type=FOLDER)
@click.argument("invitation", type=INVITATION)
@as_json
def offline_join(directory: Path, invitation: str | Path) -> None:
    """Ask to join with the next message."""
    with opened(directory) as device:
        device.join_by_hand(invitation)
        device_key = device.status().device_key
    print_record({"asked_to_join": True, "device": device_key})
    say("the request goes out with the next message")


@click.command("out")
@click.argument("directory", type=FOLDER)
@click.argument("stick", type=FOLDER)
@as_json
def offline_out(directory: Path, stick: Path) -> None:
    """Write what waits to STICK, sealed so that only the aggregator can open it. May be repeated.

    STICK is a removable folder that `homeroom district offline in` has prepared.
    """
    with opened(directory) as device:
        message = device.carry_out(stick)
    print_record(message)
    for update_id, reason in message.refused.items():
        say(f"  not carried, {update_id[:8]}: {reason}")
    asks = ", a request to join" if message.joins else ""
    change = ", a change of statistics" if message.statistics and message.statistics.sent else ""
    say(f"{message.path}: {counted(message.updates, 'update')}, {message.unlearning} to unlearn{change}{asks}")
    if message.statistics:
        for line in statistics_lines(replace(message.statistics, sent=False, release=None)):
            say(line)


@click.command("in")
@click.argument("directory", type=FOLDER)
@click.argument("stick", type=FOLDER)
@as_json
def offline_in(directory: Path, stick: Path) -> None:
    """Take in the aggregator's answer from STICK."""
    with opened(directory) as device:
        answer = device.carry_in(stick)
        version = device.status()["global_version"]
        told = lines_on_use(device, directory) if answer.fetched.in_use == "local" else []
    print_record({**asdict(answer), "version": version})
    if answer.joined:
        say("joined")
    say(f"arrived: {counted(len(answer.sent), 'update')}")
    for line in unlearning_lines(answer.unlearning):
        say(line)
    for update_id, reason in answer.refused.items():
        say(f"  {update_id[:8]}: {reason}")
    if answer.statistics:
        if answer.statistics.sent:
            say("the change of statistics has arrived")
        for line in statistics_lines(replace(answer.statistics, sent=False)):
            say(line)
    say(f"global version {version}; in use: {answer.fetched.in_use}")
    say_judgement(told, answer.worse, answer.fetched.dropped, rewound=answer.fetched.rewound)
