"""`homeroom district upgrade-bundle`: an aggregator goes on with a newer bundle."""

from __future__ import annotations

from pathlib import Path

import click

from homeroom.cli.parameters import FOLDER, OUT_FOLDER, PATH


@click.command("upgrade-bundle")
@click.argument("folder", type=OUT_FOLDER)
@click.argument("old", type=FOLDER)
@click.option("--bundle", type=PATH, required=True, help="The newer bundle.")
def upgrade_bundle(folder: Path, old: Path, bundle: Path) -> None:
    """Make FOLDER for a newer bundle, with the key, invitations and devices of OLD; then stop OLD and serve FOLDER.

    Devices fetch the bundle from it (`homeroom device upgrade`) and stay enrolled.
    Example: homeroom district upgrade-bundle district-2/ district/ --bundle vocabulary-2.homeroom
    """
    from homeroom_aggregator.admin.bundle_upgrade import upgrade_bundle as take_over

    facts = take_over(folder, old, bundle)
    click.echo(f"{folder}: bundle {facts.bundle_id[:12]}, root {facts.root}")
