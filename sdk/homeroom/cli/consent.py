"""`homeroom device consent` and `remove`: what may be learned from, and samples that are to go."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from homeroom.cli.in_use import lines_on_use, say_use
from homeroom.cli.options import as_json, hint, opened, print_record, say
from homeroom.cli.parameters import FOLDER
from homeroom.errors import InputError
from homeroom.system.printable import counted

STAYS = "what was learned from them before stays in the model, and with who has it, until `forget` or `remove`"


@click.command()
@click.argument("directory", type=FOLDER)
@click.option("--subject", help="Of all samples of this person.")
@click.option("--text", help="Of all samples with these undecided words.")
@click.option("--state", type=click.Choice(["given", "refused", "withdrawn", "unstated"]), help="What they mean.")
@click.option("--by", default="", help="Who gave, refused or withdrew it.")
@click.option("--on", "day", default="", help="The day, such as 2027-07-31; today where it is left out.")
@click.option("--basis", default="", help='On what basis, such as "form 7".')
@as_json
def consent(
    directory: Path,
    subject: str | None,
    text: str | None,
    state: str | None,
    by: str,
    day: str,
    basis: str,
) -> None:
    """List consents in words alone, each once, or decide one: only `given` counts as consent."""
    from homeroom.data.cells import parse_day
    from homeroom.data.consent import Consent
    from homeroom.device.consents import undecided_consents

    if state is None:
        if subject or text or by or day or basis:
            raise InputError("--state is missing", where="options", remedy="say given, refused, withdrawn or unstated")
        with opened(directory) as device:
            found = undecided_consents(device.store)
        print_record([asdict(one) for one in found])
        for one in found:
            say(f"{one.text!r}: {counted(sum(one.subjects.values()), 'sample')} of {', '.join(one.subjects)}")
        if found:
            hint("decide each: --text WORDS --state given --by NAME")
        else:
            say("none is to be decided")
        return
    if not by:
        raise InputError("--by is missing", where="options", remedy="name who gave, refused or withdrew it")
    decided = Consent(state, by, parse_day(day, "--on").isoformat() if day else "", basis)  # type: ignore[arg-type]
    with opened(directory) as device:
        report = device.set_consent(decided, subject=subject, text=text)
    print_record(asdict(report))
    say(f"{state}: {counted(report.samples, 'sample')} of {counted(report.subjects, 'person')}")
    if state in ("refused", "withdrawn"):
        say(f"  never trained on from now; {counted(report.unsent_updates, 'unsent update')} dropped; {STAYS}")


@click.command()
@click.argument("directory", type=FOLDER)
@click.argument("samples", nargs=-1, required=True, metavar="ID…")
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json
def remove(directory: Path, samples: tuple[str, ...], yes: bool) -> None:
    """Remove samples by ID, or its first 8 characters, and what may have been learned from them."""
    if not yes:
        click.confirm(f"Remove {counted(len(samples), 'sample')} for ever?", abort=True, err=True)
    with opened(directory) as device:
        report = device.remove(*samples)
        told = lines_on_use(device, directory) if report.versions else []
    print_record(asdict(report))
    gone = [(report.versions, "version"), (report.profiles, "profile"), (report.unsent_updates, "unsent update")]
    what = ", ".join(counted(count, name) for count, name in gone)
    whose = counted(report.subjects, "person")
    say(f"removed: {counted(report.samples, 'sample')}; of what {whose} entered: {what}; train again")
    sent = counted(len(report.unlearning), "sent update")
    say(f"  {sent} will be unlearned at the next sync, with all that is in it")
    say_use(told)
    say("  not taken back: releases that others hold already, answers that were given, copies outside this directory")
