"""`homeroom district dashboard`: a link that opens the dashboard."""

from __future__ import annotations

import contextlib
from pathlib import Path
from urllib.parse import quote

import click

from homeroom.cli.options import MACHINE, as_json, asked, print_record, refuse_idle, say
from homeroom.cli.parameters import OUT_FILE, Finite, NamedPath
from homeroom.contract.address import in_clear
from homeroom.errors import InputError
from homeroom_aggregator.state.login_links import LINK_LIFE_MINUTES, Rank

IDLE = {
    True: ("role", "by", "address", "minutes"),
    False: ("key",),
}  # without effect for an invitation, a folder


@click.command()
@click.argument("folder", metavar="FOLDER|INVITATION", type=NamedPath(exists=True))
@click.option("--role", type=click.Choice(["district", "auditor"]), default="district", show_default=True)
@click.option("--by", default="operator", show_default=True, help="Who will use it: stands in the audit log.")
@click.option("--key", type=OUT_FILE, help="With an invitation: your own key.")
@click.option("--address", show_default="of district.toml", help="As your browser reaches a FOLDER.")
@click.option("--minutes", type=Finite(0, 1440, min_open=True), default=LINK_LIFE_MINUTES, show_default=True)
@click.option("--qr", is_flag=True, help="Draw the link as a QR code too, for a phone.")
@as_json
@click.pass_context
def dashboard(
    context: click.Context,
    /,
    folder: Path,
    role: Rank,
    by: str,
    key: Path | None,
    address: str | None,
    minutes: float,
    qr: bool,
) -> None:
    """Print a link that opens the dashboard once. It takes the aggregator's folder, or an invitation and your --key.

    The key is made and enrolled the first time, for the invitation's role; --role, --by, --address and --minutes are
    for a folder. An auditor sees everything and changes nothing.
    """
    if asked(MACHINE):
        refuse_idle(context, "--json", ("qr",))
    refuse_idle(context, "an invitation" if folder.is_file() else "a folder", IDLE[folder.is_file()])
    if folder.is_dir():
        from homeroom_aggregator.admin.reach import local_address

        address = address or local_address(folder, leaves=False)
        code = _by_folder(folder, role, by, minutes)
    else:
        if key is None:
            raise InputError("an invitation needs your --key", where=str(folder), remedy="it is made if it is missing")
        address, code = _by_key(folder, key)
    if in_clear(address):
        say("without TLS, whoever listens on the network sees what you see, and may do what you may", err=True)
    link = f"{address.rstrip('/')}/dashboard/enter?code={quote(code)}"
    print_record({"link": link})
    say(link)
    if qr:
        import segno

        segno.make(link, error="l").terminal(compact=True)


def _by_folder(folder: Path, role: Rank, by: str, minutes: float) -> str:
    from homeroom_aggregator.admin.folder import open_log, read_secret
    from homeroom_aggregator.state import login_links

    with contextlib.closing(open_log(folder)) as log:
        return login_links.make_link(log.database, read_secret(folder), login_links.LoginLink(role, name=by), minutes)


def _by_key(path: Path, key: Path) -> tuple[str, str]:
    """The address of an invitation's aggregator, and a code from it for the member that has the key."""
    import msgspec

    from homeroom.contract.invitation import read_invitation
    from homeroom.contract.signing import new_key, read_key, write_key
    from homeroom.federation.network.client import Client, join

    invitation = read_invitation(path)
    if not key.exists():
        write_key(key, new_key())
    signing = read_key(key)
    with contextlib.closing(Client(join(invitation, signing), signing)) as client:
        answer = msgspec.json.decode(client.send("POST", "/v1/dashboard", b"{}"), type=dict[str, str])
    return invitation.address, answer["code"]
