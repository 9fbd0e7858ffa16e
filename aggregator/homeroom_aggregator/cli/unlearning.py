"""`homeroom district unlearning`: a signed report of what was unlearned, its check, and a membership test."""

from __future__ import annotations

from pathlib import Path

import click

from homeroom.cli.options import as_json, hint, print_record, say
from homeroom.cli.parameters import FILE, FOLDER, OUT_FILE, PATH
from homeroom.errors import StoreError
from homeroom.system.installation import quoted
from homeroom.system.printable import counted


@click.command("report")
@click.argument("folder", type=FOLDER)
@click.argument("out", type=OUT_FILE)
@as_json
def unlearning_report(folder: Path, out: Path) -> None:
    """Write to OUT what was unlearned in FOLDER, signed with the aggregator's key, while it serves or not."""
    from homeroom.system.files import write_durable
    from homeroom_aggregator.admin.unlearning_report import make_report

    data = make_report(folder)
    write_durable(out, data)
    print_record({"file": out, "bytes": len(data)})
    say(f"{out}: {len(data):,} bytes")
    hint(f"`homeroom district unlearning verify {quoted(folder)} {quoted(out)}` checks it")


@click.command("verify")
@click.argument("folder", type=FOLDER)
@click.argument("report", type=FILE)
@as_json
def unlearning_verify(folder: Path, report: Path) -> None:
    """Compute REPORT again from the logs of FOLDER, and check its signature and that nothing unlearned is left."""
    from homeroom_aggregator.admin.unlearning_report import REPORT_LIMIT_BYTES, check_report, rewinds_since

    with report.open("rb") as file:
        data = file.read(REPORT_LIMIT_BYTES + 1)
    if problems := check_report(data, folder):
        raise StoreError("; ".join(problems), where=str(report), remedy="compare with a backup")
    later = rewinds_since(data, folder)
    print_record({"file": report, "holds": True, "later": later})
    say(f"{report} holds: its signature, each rewind, the audit log, and no byte of an unlearned update is left")
    for version in later:
        say(f"it is older than the rewind that made version {version}: who has sent what since is not checked")
    if later:
        hint(f"`homeroom district unlearning report {quoted(folder)} OUT` writes a newer one")


@click.command("list")
@click.argument("folder", type=FOLDER)
@click.argument("out", type=OUT_FILE)
@as_json
def unlearning_list(folder: Path, out: Path) -> None:
    """Write to OUT which updates were ever withdrawn in FOLDER, signed, to keep beside backups; while it serves or not.

    What OUT names already stays in it. `homeroom district backup` writes it beside each backup.
    """
    from homeroom_aggregator.admin import withdrawal_log

    count = withdrawal_log.write(folder, out)
    print_record({"file": out, "withdrawn": count})
    say(f"{out}: {counted(count, 'withdrawn update')}")
    hint(f"`homeroom district restore FOLDER SAVED --withdrawals {quoted(out)}` reads it")


@click.command("test")
@click.argument("bundle", type=PATH)
@click.argument("before")
@click.argument("after")
@click.option("--withdrawn", type=PATH, required=True, help="Samples that were withdrawn: a file or folder.")
@click.option("--others", type=PATH, required=True, help="Comparable samples that taught nobody: a file or folder.")
@click.option("--root", help="Fingerprint of the institution's root key that must have signed.")
@as_json
def unlearning_test(bundle: Path, before: str, after: str, withdrawn: Path, others: Path, root: str | None) -> None:
    """Test by the loss whether the versions BEFORE and AFTER a withdrawal show which samples were withdrawn.

    A version is its signed file, or FOLDER:NUMBER of an aggregator's folder or of a backup. The samples stay on this
    machine. OTHERS must be like the withdrawn ones, such as ones of the same class that no device ever had.
    """
    import tempfile

    from homeroom_aggregator.admin import membership

    with tempfile.TemporaryDirectory() as scratch:
        result = membership.compare(bundle, before, after, withdrawn, others, Path(scratch), root)
    print_record(membership.result_document(result))
    for line in membership.lines(result):
        say(line)
