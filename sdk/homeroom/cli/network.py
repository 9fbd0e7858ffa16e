"""`homeroom device fetch`, `update`, `network`: getting bundles, and how a device reaches its aggregator.

Imports device when used.
"""

from __future__ import annotations

from pathlib import Path

import click

from homeroom.cli.device import DIRECTORY, device, opened


@device.command()
@click.argument("directory", type=DIRECTORY)
@click.option("--address", help="Address of the aggregator, in place of the invitation's; empty: the invitation's.")
@click.option("--proxy", help="http://name:port; empty: what HTTPS_PROXY and NO_PROXY say.")
@click.option(
    "--metered",
    type=click.Choice(["auto", "allow", "refuse"]),
    help="On mobile data: stay offline where the system tells (auto), sync (allow), or sync only where it says no.",
)
@click.option("--clock", type=click.Choice(["auto", "ignore"]), help="ignore: not the dates of TLS certificates.")
@click.option("--lan", type=click.Choice(["auto", "off"]), help="Look for the aggregator on the local network [lan].")
@click.option(
    "--scores",
    type=click.Choice(["keep", "tell"]),
    help="tell: the aggregator learns how each new version does on the validation samples here (docs/network.md).",
)
def network(directory: Path, **given: str | None) -> None:
    """Show how the device reaches its aggregator, or change it.

    Example: homeroom device network classroom/ --proxy http://proxy.school:3128 --metered allow
    """
    from homeroom.federation.enrolment import set_network
    from homeroom.federation.network.metered import is_metered

    with opened(directory) as found:
        settings = set_network(found.store, **{name: value for name, value in given.items() if value is not None})
    told = {True: "yes", False: "no", None: "the system does not tell"}[is_metered()]
    click.echo(f"address: {settings.address or 'as the invitation says'}")
    click.echo(f"proxy: {settings.proxy or 'as the environment says'}")
    click.echo(f"metered: {settings.metered} (this connection: {told})")
    click.echo(f"clock: {settings.clock}")
    click.echo(f"lan: {settings.lan}")
    click.echo(f"scores: {settings.scores}")


@device.command()
@click.argument("directory", type=DIRECTORY)
@click.argument("invitation", type=click.Path(dir_okay=False, path_type=Path))
def fetch(directory: Path, invitation: Path) -> None:
    """Make the device DIRECTORY with the bundle of INVITATION, fetched from the aggregator; `join` comes next.

    Run it again after a break: it goes on where it was. Example: homeroom device fetch classroom/ invitation.json
    """
    from homeroom.contract.invitation import read_invitation
    from homeroom.federation.sync import DOWNLOADS, first_bundle

    asked = read_invitation(invitation)
    bundle = first_bundle(asked, directory / DOWNLOADS)
    with opened(directory, bundle, asked.root) as found:
        click.echo(f"{directory}: {found.bundle.manifest.name} version {found.bundle.manifest.version}")
    bundle.unlink()


@device.command()
@click.argument("directory", type=DIRECTORY)
def update(directory: Path) -> None:
    """Fetch and install the bundle that the aggregator serves, if it is newer than the one in use.

    Example: homeroom device update classroom/
    """
    with opened(directory) as found:
        new = found.update_bundle()
        manifest = found.bundle.manifest
    click.echo(f"{manifest.name} version {manifest.version} " + ("is now in use" if new else "is the newest"))
