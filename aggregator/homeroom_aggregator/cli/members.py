"""`homeroom district invite`, `members`, `revoke`, `consent`, `recover`: keys and schools of an aggregator."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import click

from homeroom.cli.files import read_certificate
from homeroom.cli.parameters import FILE, FOLDER, NAME, Finite
from homeroom.contract.signing import read_key
from homeroom.errors import InputError
from homeroom_aggregator.state.members import ROLES, Role


@click.command()
@click.argument("folder", type=FOLDER)
@click.option("--count", type=click.IntRange(1, 10_000), default=1, show_default=True)
@click.option("--school", type=NAME, help="Whose devices; its consent must be recorded before updates are accepted.")
@click.option("--consent", type=NAME, help="Who gave the school's consent, and how; recorded now.")
@click.option("--role", type=click.Choice(ROLES), default="device", show_default=True)
@click.option("--csv", "sheet", type=FILE, help="Many schools: columns school, devices, role, consent.")
@click.option("--days", type=Finite(0, 36_500, min_open=True), default=14, show_default=True, help="Until they end.")
@click.option("--address", show_default="of district.toml", help="As devices reach it.")
@click.option("--out", type=FOLDER, default=Path(), help="Folder for the files.")
@click.option("--qr", is_flag=True, help="Beside each also one line of text (.txt) and a QR code (.svg).")
@click.option("--dry-run", is_flag=True, help="Check everything and say what would be written.")
@click.option("--list", "listed", is_flag=True, help="Only list every invitation, and whether it was used.")
@click.option("--revoke", "revoked", help="Only take one back: its file, its line, or the beginning that --list shows.")
def invite(
    folder: Path,
    count: int,
    school: str | None,
    consent: str | None,
    role: Role,
    sheet: Path | None,
    days: float,
    address: str | None,
    out: Path,
    qr: bool,
    dry_run: bool,
    listed: bool,
    revoked: str | None,
) -> None:
    """Write invitations for the aggregator in FOLDER; each enrols one key, once, before its end. Works while it serves.

    Example: homeroom district invite district/ --csv schools.csv --days 30 --qr --address https://homeroom.district.example
    """
    from homeroom_aggregator.admin import invitations, officers
    from homeroom_aggregator.admin.folder import read_facts
    from homeroom_aggregator.admin.reach import local_address

    read_facts(folder)
    if listed or revoked:
        with officers.acting(folder) as enrolled:
            if revoked:
                officers.take_back(enrolled, officers.OPERATOR, invitations.digest_beginning(revoked))
            for row in enrolled.invitations() if listed else ():
                click.echo(json.dumps(row, ensure_ascii=False))
        return
    address = address or local_address(folder, leaves=True)
    if consent and not school:
        raise InputError("--consent needs --school")
    single = invitations.InvitationRequest(school or "", count, role, consent or "")
    wanted = invitations.read_sheet(sheet) if sheet else [single]
    planned = invitations.plan_files(wanted, out)
    if not dry_run:
        invitations.write_invitations(folder, address, planned, days, qr)
    for _, path in planned:
        click.echo(f"would write {path}" if dry_run else str(path))


@click.command()
@click.argument("folder", type=FOLDER)
@click.option("--schools", is_flag=True, help="Schools and their consents instead of keys.")
def members(folder: Path, schools: bool) -> None:
    """List who is enrolled in FOLDER, as JSON lines.

    Example: homeroom district members district/ --schools
    """
    from homeroom_aggregator.admin.folder import open_log
    from homeroom_aggregator.state.members import Members

    with contextlib.closing(open_log(folder)) as log:
        enrolled = Members(log.database)
        for row in enrolled.schools() if schools else enrolled.every():
            click.echo(json.dumps(row, ensure_ascii=False))


@click.command()
@click.argument("folder", type=FOLDER)
@click.argument("key")
def revoke(folder: Path, key: str) -> None:
    """Shut out KEY, or the one key that begins so. Works while the aggregator serves.

    Example: homeroom district revoke district/ 3f9a02
    """
    from homeroom_aggregator.admin import officers

    with officers.acting(folder) as enrolled:
        officers.revoke(enrolled, officers.OPERATOR, key)


@click.command()
@click.argument("folder", type=FOLDER)
@click.argument("school")
@click.option("--by", type=NAME, required=True, help="Who gave it, and how: a name, a letter's date.")
@click.option("--withdraw", is_flag=True, help="The school takes it back; its updates are refused from now on.")
def consent(folder: Path, school: str, by: str, withdraw: bool) -> None:
    """Record that SCHOOL has consented. Until then no update of a device invited for it is accepted.

    Example: homeroom district consent district/ "Hill School" --by "Ms Lee, letter of 3 March"
    """
    from homeroom_aggregator.admin import officers

    with officers.acting(folder) as enrolled:
        officers.change_consent(enrolled, officers.OPERATOR, school, by, give=not withdraw)


@click.command()
@click.argument("folder", type=FOLDER)
@click.option("--key", type=FILE, required=True, help="The new key.")
@click.option("--certificate", type=FILE, required=True, help="Its certificate (`homeroom trust certify`).")
def recover(folder: Path, key: Path, certificate: Path) -> None:
    """Give the aggregator in FOLDER a new key after the old one was lost or stolen; stop the server first.

    Example: homeroom district recover district/ --key new.pem --certificate new.json
    """
    from homeroom_aggregator.admin.folder import recover_key

    recover_key(folder, read_key(key), read_certificate(certificate))
