"""`homeroom district upgrade-bundle`: an aggregator goes on with a newer bundle."""

from __future__ import annotations

from pathlib import Path

import click

from homeroom.cli.options import as_json, hint, print_record, say
from homeroom.cli.parameters import FOLDER, OUT_FOLDER, PATH
from homeroom.system.printable import counted


@click.command("upgrade-bundle")
@click.argument("folder", type=OUT_FOLDER)
@click.argument("old", type=FOLDER)
@click.option("--bundle", type=PATH, required=True, help="The newer bundle.")
@as_json
def upgrade_bundle(folder: Path, old: Path, bundle: Path) -> None:
    """Make FOLDER for a newer bundle, with the key, invitations, devices and rounds of OLD; then serve FOLDER.

    Stop OLD first, and serve it no more: its rounds go on here, segment by segment, from its newest version. Devices
    fetch the bundle from here (`homeroom device upgrade`) and stay enrolled.
    """
    from homeroom_aggregator.admin.bundle_upgrade import upgrade_bundle as take_over

    facts, carried, encoders = take_over(folder, old, bundle)
    record = {"folder": folder, "bundle_id": facts.bundle_id, "root": facts.root, "carried": carried}
    print_record(record | {"encoders": encoders})
    say(f"{folder}: bundle {facts.bundle_id[:12]}, root {facts.root}")
    start = f"goes on from version {carried.version}" if carried.version else "starts from the bundle's own theta"
    say(f"{start}; the same in both: {counted(len(carried.same), 'segment')}")
    if carried.grown:
        say(f"grown, their labels of before as they were: {', '.join(carried.grown)}")
        say("what updates made with an earlier bundle say of these does not count here")
    if carried.new:
        say(f"new, as the bundle has them: {', '.join(carried.new)}")
    if carried.updates:
        say(f"came along, waiting for the next version: {counted(carried.updates, 'update')}")
    if carried.left:
        say(f"left behind, since nothing of it goes on here: {counted(carried.left, 'waiting update')}")
    if carried.parts:
        say(f"left behind: parts of earlier updates that waited for more schools, of {', '.join(carried.parts)}")
    for name, (before, after) in encoders.items():
        say(f"{name}: {after} reads it here, {before} before: what devices learned through it does not go on or merge")
    if encoders:
        hint("until `homeroom device upgrade DIR` a device takes no part; its waiting updates count for the rest alone")
