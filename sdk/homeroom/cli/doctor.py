"""`homeroom doctor`: whether this machine is fit, and what is missing."""

from __future__ import annotations

from pathlib import Path

import click

from homeroom.cli.options import as_json, print_record, say
from homeroom.cli.parameters import FOLDER, PATH


@click.command()
@click.argument("directory", type=FOLDER, required=False)
@click.option("--bundle", type=PATH, help="A bundle to try, in place of the directory's.")
@as_json
@click.pass_context
def doctor(context: click.Context, directory: Path | None, bundle: Path | None) -> None:
    """Measure this machine, try the runtime and a bundle's golden samples, and say what is missing.

    With a device DIRECTORY its bundle is tried, and what it was measured to cost is kept for the planner. Ends with
    code 1 if something is wrong.
    """
    from homeroom.device.doctor import examine

    checks, costs = examine(directory, bundle)
    wrong = [check for check in checks if check.state == "wrong"]
    print_record({"fit": not wrong, "checks": checks} | ({} if costs is None else {"costs": costs}))
    width = max(len(check.name) for check in checks)
    for check in checks:
        mark = {"ok": " ", "note": "-", "wrong": "!"}[check.state]
        say(f"{mark} {check.name.ljust(width)}  {check.says}")
        if check.remedy:
            say(f"  {' ' * width}  -> {check.remedy}")
    context.exit(1 if wrong else 0)
