"""`homeroom district backup` and `restore`."""

from __future__ import annotations

from pathlib import Path

import click

from homeroom.cli.options import as_json, print_record, say
from homeroom.cli.parameters import FILE, FOLDER, OUT_FOLDER
from homeroom.system.installation import quoted
from homeroom.system.printable import counted

UNDONE = (
    "what was done after the backup is undone: keys that were revoked, consents that were withdrawn and updates that "
    "were withdrawn or unlearned since then count again, unless a withdrawal log names them, until you do it again "
    "(the dashboard reminds of it); devices ask for unlearning again as they sync, except those of earlier versions "
    "of Homeroom"
)


@click.command()
@click.argument("folder", type=FOLDER)
@click.argument("out", type=OUT_FOLDER)
@as_json
def backup(folder: Path, out: Path) -> None:
    """Copy the aggregator in FOLDER to the new folder OUT, while it serves or not.

    The copy holds keys and plain updates: guard it like FOLDER. The file withdrawals-….json beside OUT names every
    update ever withdrawn; keep it with all backups, since `restore` withdraws them again.
    """
    from homeroom_aggregator.admin.backup import backup as run

    contents = run(folder, out)
    print_record({"folder": out, "version": contents.version, "files": len(contents.files)})
    say(f"{out}: version {contents.version}, {counted(len(contents.files), 'file')}")


@click.command()
@click.argument("folder", type=OUT_FOLDER)
@click.argument("saved", type=FOLDER)
@click.option("--from-lost", "lost", type=FOLDER, help="The replaced folder, moved away: what was taken away holds.")
@click.option("--withdrawals", type=FILE, help="The withdrawal log, where it is not beside SAVED.")
@click.option("--uncharged", is_flag=True, help="Private rounds: go on without the releases since SAVED in the ledger.")
@as_json
def restore(folder: Path, saved: Path, lost: Path | None, withdrawals: Path | None, uncharged: bool) -> None:
    """Make FOLDER from the backup SAVED, after checking every byte of it.

    With --from-lost, unlearning, revoked keys, used and taken-back invitations, withdrawn consents and the charges of
    private releases since the backup are done again from the old folder's log; without it they are undone, and people
    have to repeat them. Updates that the withdrawal log beside SAVED names, which each backup brings up to date, are
    withdrawn again in any case.
    """
    from homeroom_aggregator.admin.backup import restore as run

    restored = run(saved, folder, lost, uncharged=uncharged, withdrawals=withdrawals)
    print_record(restored)
    say(f"{folder}: version {restored.version}")
    if lost:
        done = ", ".join(f"{kind}: {count}" for kind, count in restored.done.items() if count) or "nothing"
        say(f"done again from {lost}: {done}")
        say("consents and invitations that were given since the backup are not here: give them again")
    if restored.named.path:
        say(f"withdrawn again from {restored.named.path} of {restored.named.at}: {counted(restored.again, 'update')}")
    elif not lost:
        say("no withdrawal log is beside the backup: devices alone know what was withdrawn since", err=True)
    if restored.waiting:
        day = restored.waiting.due
        now = f"`homeroom district rewind {quoted(folder)}` does it now"
        say(f"what waits to be unlearned goes by a rewind on {day}; {now}")
    if restored.unknown:
        say(f"not known since {restored.since or 'the backup'}: {', '.join(restored.unknown)}", err=True)
        say(UNDONE, err=True)
