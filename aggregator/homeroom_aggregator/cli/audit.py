"""`homeroom district audit`: the log of who did what."""

from __future__ import annotations

import contextlib
from pathlib import Path

import click
import msgspec

from homeroom.cli.options import as_json, print_record, say
from homeroom.cli.parameters import FOLDER
from homeroom.errors import StoreError
from homeroom.system.printable import counted
from homeroom_aggregator.cli.tables import Column, as_json_lines, print_rows


@click.command("show")
@click.argument("folder", type=FOLDER)
@as_json_lines
def audit_show(folder: Path) -> None:
    """Print every entry."""
    from homeroom_aggregator.admin.folder import open_log
    from homeroom_aggregator.server.dashboard import formatting
    from homeroom_aggregator.state import audit

    columns: tuple[Column, ...] = (
        ("entry", lambda row: str(row["number"])),
        ("at", lambda row: formatting.moment(row["at"])),
        ("digest", lambda row: row["digest"][:8]),
        ("what happened", lambda row: formatting.event(row["event"], row["about"])),
    )
    with contextlib.closing(open_log(folder)) as log:
        print_rows(map(msgspec.to_builtins, audit.records(log.database)), columns, "there is no entry yet")


@click.command("verify")
@click.argument("folder", type=FOLDER)
@click.option("--noted", help="A digest that was printed before; it must be in the log still.")
@as_json
def audit_verify(folder: Path, noted: str | None) -> None:
    """Check the chain of hashes, and print the newest: note it elsewhere, and a later cut is seen as well."""
    from homeroom_aggregator.admin.folder import open_log
    from homeroom_aggregator.state import audit

    with contextlib.closing(open_log(folder)) as log:
        count, newest, wrong = audit.verify(log.database)
        if wrong is None and noted and not any(e.digest == noted for e in audit.records(log.database)):
            wrong = "the noted digest is not in it: entries were cut off or replaced"
    if wrong:
        raise StoreError(wrong, where=f"{folder}: audit log", remedy="compare with a backup")
    print_record({"entries": count, "newest": newest})
    say(f"{counted(count, 'entry', 'entries')} hold; newest {newest}")
