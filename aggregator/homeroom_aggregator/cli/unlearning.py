"""`homeroom district unlearning`: a signed report of what was unlearned, and its check."""

from __future__ import annotations

from pathlib import Path

import click

from homeroom.cli.options import say
from homeroom.cli.parameters import FILE, FOLDER, OUT_FILE
from homeroom.errors import StoreError


@click.command("report")
@click.argument("folder", type=FOLDER)
@click.argument("out", type=OUT_FILE)
def unlearning_report(folder: Path, out: Path) -> None:
    """Write to OUT what was unlearned in FOLDER, signed with the aggregator's key, while it serves or not.

    Example: homeroom district unlearning report district/ report.json
    """
    from homeroom.system.files import write_durable
    from homeroom_aggregator.admin.unlearning_report import make_report

    data = make_report(folder)
    write_durable(out, data)
    say(f"{out}: {len(data):,} bytes; `homeroom district unlearning verify {folder} {out}` checks it")


@click.command("verify")
@click.argument("folder", type=FOLDER)
@click.argument("report", type=FILE)
def unlearning_verify(folder: Path, report: Path) -> None:
    """Compute REPORT again from the logs of FOLDER, and check its signature and that nothing unlearned is left.

    Example: homeroom district unlearning verify district/ report.json
    """
    from homeroom_aggregator.admin.unlearning_report import REPORT_LIMIT_BYTES, check_report

    with report.open("rb") as file:
        data = file.read(REPORT_LIMIT_BYTES + 1)
    if problems := check_report(data, folder):
        raise StoreError("; ".join(problems), where=str(report), remedy="compare with a backup")
    say(f"{report} holds: its signature, each rewind, the audit log, and no byte of an unlearned update is left")
