"""`homeroom device profile`: one person's own model."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from homeroom.cli.options import as_json, opened, print_record, readable, say
from homeroom.cli.parameters import FOLDER, OUT_FILE, NamedPath
from homeroom.system.printable import counted

if TYPE_CHECKING:
    from homeroom.device.profiles import Profile


@click.command("show")
@click.argument("directory", type=FOLDER)
@click.argument("person")
@click.option("--pack", type=OUT_FILE, hidden=True)
@as_json
def profile_show(directory: Path, person: str, pack: Path | None) -> None:
    """Show what is known of PERSON's own model."""
    if pack is not None:  # as 0.1.0 spelled `pack`
        _pack(directory, person, pack)
        return
    with readable(directory) as device:
        known = device.profile(person)
    print_record(known and asdict(known))
    say(profile_line(known))


@click.command("pack")
@click.argument("directory", type=FOLDER)
@click.argument("person")
@click.argument("file", type=OUT_FILE)
@as_json
def profile_pack(directory: Path, person: str, file: Path) -> None:
    """Write PERSON's own model to FILE, sealed with a passphrase, for another device of the same school."""
    _pack(directory, person, file)


@click.command("import")
@click.argument("directory", type=FOLDER)
@click.argument("file", type=NamedPath(exists=True, dir_okay=False))
@as_json
def profile_import(directory: Path, file: Path) -> None:
    """Import the profile in FILE, which another device of the same school packed."""
    with opened(directory) as device:
        person = device.take_profile(file, _passphrase())
    print_record({"subject": person})
    say(f"the profile of {person} is here")


def _pack(directory: Path, person: str, file: Path) -> None:
    with opened(directory) as device:
        device.pack_profile(person, file, _passphrase(confirm=True))
    print_record({"subject": person, "file": file})
    say(f"{file}: keep the passphrase apart from it")


def profile_line(known: Profile | None) -> str:
    """A profile in one line for people."""
    if known is None:
        return "  no profile: the shared model answers"
    own = f"{known.method}, {known.share:.0%} own"
    method = "the shared model, nothing was better" if known.method == "shared" else own
    stale = "" if known.fresh else "; a newer shared model is here, train it again"
    return f"  {known.subject}: {method}, from {counted(known.samples, 'sample')}{stale}"


def _passphrase(*, confirm: bool = False) -> str:
    """From HOMEROOM_PASSPHRASE, or asked for without showing it."""
    known = os.environ.get("HOMEROOM_PASSPHRASE")
    return known or str(click.prompt("Passphrase", hide_input=True, confirmation_prompt=confirm, err=True))
