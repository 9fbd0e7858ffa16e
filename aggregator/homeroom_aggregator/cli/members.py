"""`homeroom district invite`, `members`, `revoke`, `consent`, `withdraw`, `recover`: keys and schools."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from homeroom.cli.files import read_certificate
from homeroom.cli.options import as_json, hint, json_option, print_record, refuse_idle, say
from homeroom.cli.parameters import FILE, FOLDER, NAME, OUT_FOLDER, Finite, Whole
from homeroom.contract.signing import read_key
from homeroom.errors import InputError
from homeroom.system.installation import quoted
from homeroom.system.printable import counted
from homeroom_aggregator.cli.tables import Column, as_json_lines, day, print_rows
from homeroom_aggregator.state.members import ROLES, Role

MEMBER_COLUMNS: tuple[Column, ...] = (
    ("key", lambda row: row["device"][:8]),
    ("role", lambda row: row["role"]),
    ("school", lambda row: row["school"]),
    ("joined", lambda row: day(row["joined"])),
    ("status", lambda row: _status(row)),
)
SCHOOL_COLUMNS: tuple[Column, ...] = (
    ("school", lambda row: row["school"]),
    ("devices", lambda row: str(row["devices"])),
    ("consent", lambda row: "withdrawn" if row["withdrawn"] else "given" if row["given_by"] else "none"),
    ("by", lambda row: row["given_by"]),
    ("since", lambda row: day(row["withdrawn"] or row["at"])),
)
INVITATION_COLUMNS: tuple[Column, ...] = (
    ("invitation", lambda row: row["invitation"]),
    ("role", lambda row: row["role"]),
    ("school", lambda row: row["school"]),
    ("status", lambda row: row["status"]),
    ("until", lambda row: day(row["expires"])),
    ("key", lambda row: (row["device"] or "")[:8]),
)
ONE_BY_ONE = ("count", "school", "consent", "role")  # options that say what each row of a sheet says
TO_WRITE = (*ONE_BY_ONE, "sheet", "days", "address", "out", "qr", "dry_run")
NO_SCHOOL = "no school was invited yet"


def _status(row: Mapping[str, Any]) -> str:
    if row["revoked"]:
        return f"replaced by {row['replaced_by'][:8]}" if row["replaced_by"] else "revoked"
    return "used by two machines" if row["twin"] else "enrolled"


@click.command()
@click.argument("folder", type=FOLDER)
@click.option("--count", type=Whole(1, 10_000), default=1, show_default=True)
@click.option("--school", type=NAME, help="Whose devices; its consent must be recorded before updates are accepted.")
@click.option("--consent", type=NAME, help="Who gave the school's consent, and how; recorded now.")
@click.option("--role", type=click.Choice(ROLES), default="device", show_default=True)
@click.option("--csv", "sheet", type=FILE, help="Many schools: columns school, devices, role, consent.")
@click.option("--days", type=Finite(0, 36_500, min_open=True), default=14, show_default=True, help="Until they end.")
@click.option("--address", show_default="of district.toml", help="As devices reach it.")
@click.option("--out", type=OUT_FOLDER, default=Path(), help="Folder for the files.")
@click.option("--qr", is_flag=True, help="Beside each also one line of text (.txt) and a QR code (.svg).")
@click.option("--dry-run", is_flag=True, help="Check everything and say what would be written.")
@click.option("--list", "listed", is_flag=True, help="Only list every invitation, and whether it was used.")
@click.option("--revoke", "revoked", help="Only take one back: its file, its line, or the beginning that --list shows.")
@json_option("Print one JSON object; with --list one a line.")
@click.pass_context
def invite(
    context: click.Context,
    /,
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
    """Write invitations for the district in FOLDER; each enrols one key, once, before its end; while it serves too."""
    from homeroom_aggregator.admin import invitations, officers
    from homeroom_aggregator.admin.folder import read_facts
    from homeroom_aggregator.admin.reach import local_address

    read_facts(folder)
    if listed or revoked:
        refuse_idle(context, "--list" if listed else "--revoke", TO_WRITE)
        with officers.acting(folder) as enrolled:
            if revoked:
                beginning = invitations.digest_beginning(revoked)
                officers.take_back(enrolled, officers.OPERATOR, beginning)
                print_record({"taken_back": beginning})
                say(f"{beginning}: taken back, nobody can join with it")
            if listed:
                print_rows(enrolled.invitations(), INVITATION_COLUMNS, "no invitation was written yet")
        return
    if sheet:
        refuse_idle(context, "--csv", ONE_BY_ONE)
    address = address or local_address(folder, leaves=True)
    if consent and not school:
        raise InputError("--consent needs --school")
    single = invitations.InvitationRequest(school or "", count, role, consent or "")
    wanted = invitations.read_sheet(sheet) if sheet else [single]
    planned = invitations.plan_files(wanted, out)
    for sentence in invitations.slips(folder, wanted):
        say(sentence, err=True)
    if not dry_run:
        invitations.write_invitations(folder, address, planned, days, qr)
    print_record({"written": not dry_run, "address": address, "files": [path for _, path in planned]})
    for _, path in planned:
        say(f"would write {path}" if dry_run else str(path))


@click.command()
@click.argument("folder", type=FOLDER)
@click.option("--schools", is_flag=True, help="Schools and their consents instead of keys.")
@as_json_lines
def members(folder: Path, schools: bool) -> None:
    """List who is enrolled in FOLDER."""
    from homeroom_aggregator.admin.folder import open_log
    from homeroom_aggregator.state.members import Members

    with contextlib.closing(open_log(folder)) as log:
        enrolled = Members(log.database)
        if schools:
            print_rows(enrolled.schools(), SCHOOL_COLUMNS, NO_SCHOOL)
        else:
            print_rows(enrolled.every(), MEMBER_COLUMNS, "nobody has joined yet")


@click.command()
@click.argument("folder", type=FOLDER)
@click.argument("key")
@as_json
def revoke(folder: Path, key: str) -> None:
    """Shut out KEY, or the one key that begins so. Works while the aggregator serves."""
    from homeroom_aggregator.admin import officers

    with officers.acting(folder) as enrolled:
        key = officers.revoke(enrolled, officers.OPERATOR, key)
    print_record({"revoked": key})
    say(f"{key[:16]} is refused from now on, for ever; its updates that wait are erased")
    hint("`homeroom district withdraw` takes those in a version out of it too, but for private rounds")


@click.command()
@click.argument("folder", type=FOLDER)
@click.argument("school", required=False)
@click.option("--by", type=NAME, help="Who gave it, and how: a name, a letter's date.")
@click.option("--withdraw", is_flag=True, help="The school takes it back; its updates are refused from now on.")
@json_option("Print one JSON object; of the list one a line.")
@click.pass_context
def consent(context: click.Context, /, folder: Path, school: str | None, by: str | None, withdraw: bool) -> None:
    """Record that SCHOOL has consented; without SCHOOL, list every school's consent.

    Until then no update of a device invited for it is accepted.
    """
    from homeroom_aggregator.admin import officers

    if school is None:
        refuse_idle(context, "a list of all schools", ("by", "withdraw"))
        with officers.acting(folder) as enrolled:
            print_rows(enrolled.schools(), SCHOOL_COLUMNS, NO_SCHOOL)
        return
    if by is None:
        raise InputError("a consent needs --by: who gave it, and how", where="options")
    with officers.acting(folder) as enrolled:
        officers.change_consent(enrolled, officers.OPERATOR, school, by, give=not withdraw)
    print_record({"school": school, "consent": "withdrawn" if withdraw else "given", "by": by})
    does = "are refused from now on" if withdraw else "are accepted from now on"
    say(f"{school}: consent {'withdrawn' if withdraw else 'given'} by {by}; updates of its devices {does}")


@click.command()
@click.argument("folder", type=FOLDER)
@click.argument("key", required=False)
@click.option("--school", type=NAME, help="Of all devices of this school, in place of one KEY.")
@click.option("--task", default="", help="Only updates that learned from samples of this task.")
@click.option("--modality", default="", help="Only updates that learned from samples with this modality.")
@click.option("--by", type=NAME, required=True, help="Who takes them back; it stands in the audit log.")
@click.option("--why", type=NAME, required=True, help="Why; it stands in the audit log.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json
def withdraw(
    folder: Path, key: str | None, school: str | None, task: str, modality: str, by: str, why: str, yes: bool
) -> None:
    """Take the updates of the device with KEY, or the one key that begins so, out of the model. Stop the server first.

    Those that wait are erased at once. One in a version takes what was learned since with it, by a rewind within some
    days, or is left out of the next version (`unlearning.rule`); one in a secure sum takes the whole sum out. A private
    release cannot give one back. With --task or --modality, updates that learned from such samples go, whole, and the
    others stay. While it serves, the dashboard does the same.
    """
    from homeroom_aggregator.admin import officers, withdrawal
    from homeroom_aggregator.admin.folder import open_rounds

    if bool(key) == bool(school):
        raise InputError("name either a KEY or a --school", where="options", remedy="homeroom district members FOLDER")
    part = withdrawal.Part(task, modality)
    with contextlib.closing(open_rounds(folder)) as rounds:
        found = withdrawal.find(rounds, officers.OPERATOR, key or "", school or "", part)
        for line in withdrawal.lines(found, part):
            say(line)
        counts = f"{counted(found.count, 'update')} of {counted(len(found.updates), 'device')}"
        if not yes:
            click.confirm(f"Take back {counts} for ever?", abort=True, err=True)
        withdrawal.withdraw(rounds, found, by, why, part)
        planned = rounds.to_unlearn()
    print_record({"updates": found.updates, "others": found.others, "kept": found.kept, "rewind": planned})
    say(f"taken out: {counts}")
    if planned is None:
        say("the next version is without them")
    else:
        say(f"those in a version wait for a rewind on {planned.due}")
        hint(f"`homeroom district rewind {quoted(folder)}` does it now")


@click.command()
@click.argument("folder", type=FOLDER)
@click.option("--key", type=FILE, required=True, help="The new key.")
@click.option("--certificate", type=FILE, required=True, help="Its certificate (`homeroom trust certify`).")
@as_json
def recover(folder: Path, key: Path, certificate: Path) -> None:
    """Give the aggregator in FOLDER a new key after the old one was lost or stolen; stop the server first."""
    from homeroom_aggregator.admin.folder import recover_key

    facts = recover_key(folder, read_key(key), read_certificate(certificate))
    print_record({"key": facts.certificate.key, "root": facts.root})
    say(f"{folder}: key {facts.certificate.key[:16]} is in use; devices take it with their next sync")
