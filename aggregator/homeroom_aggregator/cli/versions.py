"""`homeroom district rebuild`, `go-back`, `rewind` and `new-total`: versions from the log, statistics begun anew."""

from __future__ import annotations

import contextlib
from pathlib import Path

import click

from homeroom.cli.options import as_json, print_record, say
from homeroom.cli.parameters import FOLDER, NAME, Whole
from homeroom.errors import StoreError


@click.command()
@click.argument("folder", type=FOLDER)
@click.option("--release", is_flag=True, help="Then release what is ready, without waiting for a full buffer.")
@as_json
def rebuild(folder: Path, release: bool) -> None:
    """Compute every version of FOLDER again from its log, and compare bit for bit; stop the server first."""
    from homeroom_aggregator.admin.folder import open_rounds

    rounds = open_rounds(folder)
    try:
        problems = rounds.verify()
        if problems:
            raise StoreError("; ".join(problems), where=str(folder), remedy="restore the last backup")
        facts, released = rounds.facts(), rounds.release_now() if release else None
        print_record({**facts, "released": released} if release else facts)
        say(f"{folder}: every version is as the log says")
        for name, count in facts.items():
            say(f"  {name.replace('_', ' ')}: {count}")
        if release:
            say(f"released: version {released}")
    finally:
        rounds.close()


@click.command("go-back")
@click.argument("folder", type=FOLDER)
@click.argument("version", type=Whole(0))
@click.option("--by", type=NAME, required=True, help="Who goes back; it stands in the audit log.")
@click.option("--why", type=NAME, required=True, help="Why; it stands in the audit log.")
@as_json
def go_back(folder: Path, version: int, by: str, why: str) -> None:
    """Release a new version with the theta of the older VERSION; 0 is the bundle's own. Stop the server first.

    While it serves, the dashboard does the same.
    """
    from homeroom_aggregator.admin.folder import open_rounds

    with contextlib.closing(open_rounds(folder)) as rounds:
        new = rounds.roll_back(version, by, why)
    print_record({"version": new, "again": version})
    say(f"version {new} is version {version} again")


@click.command()
@click.argument("folder", type=FOLDER)
@click.option("--by", type=NAME, required=True, help="Who decides; it stands in the audit log.")
@click.option("--why", type=NAME, required=True, help="Why; it stands in the audit log.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json
def rewind(folder: Path, by: str, why: str, yes: bool) -> None:
    """Unlearn now what waits for it: go on from the version of before, and make void what came since.

    Stop the server first; while it serves, the dashboard does the same.
    """
    from homeroom_aggregator.admin.folder import open_rounds
    from homeroom_aggregator.admin.rewind_forecast import rewind_lines

    with contextlib.closing(open_rounds(folder)) as rounds:
        if (planned := rounds.to_unlearn()) is None:
            print_record({"version": None, "again": None})
            say("nothing waits to be unlearned")
            return
        for line in rewind_lines(rounds, planned):
            say(line)
        if not yes:
            click.confirm("Rewind?", abort=True, err=True)
        new = rounds.rewind(by=by, why=why)
    print_record({"version": new, "again": planned.to, "unlearned": planned.update_ids})
    say(f"version {new} is version {planned.to} again; every device drops what it learned since with its next sync")


@click.command("new-total")
@click.argument("folder", type=FOLDER)
@click.option("--by", type=NAME, required=True, help="Who begins it; it stands in the audit log.")
@click.option("--why", type=NAME, required=True, help="Why; it stands in the audit log.")
@as_json
def begin_new_total(folder: Path, by: str, why: str) -> None:
    """Begin a new total of secure statistics, to which every device sends its whole sums. Stop the server first.

    What is there is erased and served no more. It is the way out of false sums, lost devices and restored copies.
    """
    from homeroom_aggregator.admin.folder import open_rounds
    from homeroom_aggregator.secagg.statistics_sums import new_total

    with contextlib.closing(open_rounds(folder)) as rounds:
        number = new_total(rounds, by, why)
    print_record({"total": number})
    say(f"total {number} begins: every device sends its whole sums with its next syncs")
