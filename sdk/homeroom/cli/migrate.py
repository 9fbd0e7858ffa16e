"""`homeroom device migrate`: a store of an older version is brought to this one, or taken back."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from homeroom.cli.options import as_json, print_record, say
from homeroom.cli.parameters import FOLDER
from homeroom.errors import InputError
from homeroom.system.printable import counted


@click.command()
@click.argument("directory", type=FOLDER)
@click.option("--dry-run", is_flag=True, help="Say what it would do, and change nothing.")
@click.option("--back", is_flag=True, help="Put the copy from before the last migration in place.")
@click.option("--yes", is_flag=True, help="With --back: do not ask.")
@as_json
def migrate(directory: Path, dry_run: bool, back: bool, yes: bool) -> None:
    """Bring the store of DIRECTORY to this version, its copy made first, as opening does; or go back to that copy."""
    from homeroom.store.migration import go_back, plan_migration, plan_return
    from homeroom.store.open import open_store

    if back:
        found = plan_return(directory)
        lost = ", ".join(f"{name} ({count:,})" for name, count in found.lost.items() if count) or "nothing"
        say(f"back to version {found.version}; of what came since is lost: {lost}")
        if not dry_run:
            if not yes:
                click.confirm("Go back?", abort=True, err=True)
            go_back(directory)
            say("done; open it with the release that it is of: this one would migrate it again")
        print_record(asdict(found))
        return
    if yes:
        raise InputError("--yes is for --back alone")
    plan = plan_migration(directory)
    if not dry_run:
        open_store(directory, None, anew=False).close()
    print_record(plan)
    if plan.present == plan.target:
        say(f"{directory} is of version {plan.target}: there is nothing to do")
    else:
        free = "" if plan.free_bytes is None else f", {plan.free_bytes / 1e6:.0f} MB are free"
        goes = "would go" if dry_run else "went"
        held = f"{counted(plan.samples, 'sample')}, {plan.store_bytes / 1e6:.1f} MB"
        say(f"{goes} from version {plan.present} to {plan.target}: {held}")
        say(f"  needs {plan.needed_bytes / 1e6:.1f} MB of free space meanwhile{free}")
        say(f"  the copy from before is {plan.copy}, for 30 days or until a `forget`: `--back` puts it in place")


@click.command("accept-restored")
@click.argument("directory", type=FOLDER)
@as_json
def accept_restored(directory: Path) -> None:
    """Accept the store of DIRECTORY as it is, after you put a copy back: then it sends again. Its log notes it."""
    from homeroom.agent.status import clear_edited
    from homeroom.store import Store
    from homeroom.store.open import is_device

    if not is_device(directory):
        raise InputError("is no device directory", where=str(directory), remedy="name the folder of `device init`")
    with Store.open(directory) as store:
        edited = store.accept_edits()
    clear_edited(directory)
    print_record({"accepted": edited or None})
    say(f"accepted: {edited}" if edited else "there was nothing to accept")
