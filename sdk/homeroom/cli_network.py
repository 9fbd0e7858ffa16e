"""`homeroom device network`: how a device reaches its aggregator; imports device when used."""

from __future__ import annotations

from pathlib import Path

import click

from homeroom.cli_device import DIRECTORY, device, opened


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
def network(directory: Path, address: str | None, proxy: str | None, metered: str | None, clock: str | None) -> None:
    """Show how the device reaches its aggregator, or change it.

    Example: homeroom device network classroom/ --proxy http://proxy.school:3128 --metered allow
    """
    from homeroom.exchange import set_network
    from homeroom.metered import is_metered

    given = {"address": address, "proxy": proxy, "metered": metered, "clock": clock}
    with opened(directory) as found:
        settings = set_network(found.store, **{name: value for name, value in given.items() if value is not None})
    told = {True: "yes", False: "no", None: "the system does not tell"}[is_metered()]
    click.echo(f"address: {settings.address or 'as the invitation says'}")
    click.echo(f"proxy: {settings.proxy or 'as the environment says'}")
    click.echo(f"metered: {settings.metered} (this connection: {told})")
    click.echo(f"clock: {settings.clock}")
