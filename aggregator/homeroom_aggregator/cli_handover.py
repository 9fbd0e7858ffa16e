"""`homeroom succeed`: from one aggregator's folder to the next."""

from __future__ import annotations

from pathlib import Path

import click

FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.argument("folder", type=FOLDER)
@click.argument("old", type=FOLDER)
@click.option("--bundle", type=click.Path(path_type=Path), required=True, help="The newer bundle.")
def succeed(folder: Path, old: Path, bundle: Path) -> None:
    """Make FOLDER for a newer bundle, with the key, invitations and devices of OLD; then stop OLD and serve FOLDER.

    Devices fetch the bundle from it (`homeroom device update`) and stay enrolled.
    Example: homeroom succeed district-2/ district/ --bundle vocabulary-2.homeroom
    """
    from homeroom_aggregator.succession import succeed as take_over

    facts = take_over(folder, old, bundle)
    click.echo(f"{folder}: bundle {facts.bundle_id[:12]}, root {facts.root}")


commands: list[click.Command] = [succeed]
