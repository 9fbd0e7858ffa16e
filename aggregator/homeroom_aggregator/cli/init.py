"""`homeroom district init`: from nothing to a district that can be served, with the invitations of its schools."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from homeroom.cli.options import as_json, hint, print_record, say
from homeroom.cli.parameters import FILE, OUT_FOLDER, PATH, Finite, Whole
from homeroom.errors import InputError
from homeroom.privacy.forecast import forecast_release
from homeroom.system.printable import counted
from homeroom_aggregator.admin.configuration import ServerSection, first_configuration
from homeroom_aggregator.cli.privacy import privacy_options
from homeroom_aggregator.cli.round_options import optimizer_options, round_options, secure_options, setting

EVERY_HOST = "0.0.0.0"
STATISTICS_OFF = (
    "statistics are off: schools share theta alone. `--secure --statistics secure`, with a roster, shares sums that "
    "heads are solved from; `--statistics plain` too, and shows each device's to this server (docs/statistics.md)"
)


@click.command()
@click.argument("folder", type=OUT_FOLDER)
@click.option(
    "--bundle", type=PATH, required=True, help="Bundle to serve; it is signed anew under this district's root."
)
@click.option("--name", required=True, help="The district's name, which devices and invitations show.")
@click.option("--schools", "sheet", type=FILE, required=True, help="CSV: columns school, devices, role, consent.")
@click.option("--keys", type=OUT_FOLDER, show_default="FOLDER-keys", help="Where the root key goes, off the server.")
@click.option("--out", type=OUT_FOLDER, show_default="FOLDER-invitations", help="Where the invitations go.")
@click.option(
    "--days", type=Finite(0, 36_500, min_open=True), default=30.0, show_default=True, help="They may be used."
)
@click.option("--address", show_default="of this machine", help="As devices reach it, where a proxy is in front.")
@setting("--host", show_default=f"{EVERY_HOST}, or {ServerSection().host} with --address", help="Address to listen on.")
@setting("--port", type=Whole(1, 65535))
@setting("--announce", is_flag=True, help="Let devices on the local network find it [lan].")
@click.option("--policy", type=FILE, help="Signed policy to merge by.")
@round_options
@optimizer_options
@privacy_options
@secure_options
@as_json
def init(
    folder: Path,
    bundle: Path,
    name: str,
    sheet: Path,
    keys: Path | None,
    out: Path | None,
    days: float,
    address: str | None,
    policy: Path | None,
    roster: Path | None,
    **options: Any,
) -> None:
    """Make the district FOLDER: root key, certificates, configuration, bundle, and the invitations of the --schools.

    Run it again if it was interrupted: it finishes, and changes nothing that is there.
    """
    from homeroom_aggregator.admin import new_district
    from homeroom_aggregator.admin.configuration_file import evaluation_note, statistics_note, waiting_note
    from homeroom_aggregator.admin.folder import open_folder_bundle, read_facts
    from homeroom_aggregator.admin.invitations import read_sheet
    from homeroom_aggregator.admin.reach import local_address

    if roster:
        raise InputError("--roster names devices, and none has joined yet", remedy="give it to `district serve`")
    schools = read_sheet(sheet)
    keys = keys or folder.with_name(f"{folder.name}-keys")
    out = out or folder.with_name(f"{folder.name}-invitations")
    new_district.check_places(folder, keys, out)
    given = {option: value for option, value in options.items() if value is not None}
    given = given if address else {"host": EVERY_HOST} | given
    given |= {"addresses": (address,)} if address else {}
    wanted = first_configuration(None, given)
    if new_district.check_same(folder, bundle, name, keys):
        typed = [option for option, value in options.items() if value is not None]
        new_district.check_made_so(folder, wanted, typed, policy)
    else:
        new_district.check_bundle(bundle, wanted.round)
        new_district.make_keys(keys, name, secure=wanted.round.secure is not None)
    new_district.make_folder(folder, bundle, name, keys, wanted, policy)
    address = address or local_address(folder, leaves=True)
    new_district.invite_schools(folder, address, schools, out, days)
    facts = read_facts(folder)
    layout = open_folder_bundle(folder, facts).layout
    expected = forecast_release(facts.configuration, layout, buffer_follows=wanted.automatic_buffer)
    private = f"private rounds: {expected.words()}" if expected else ""
    statistics = statistics_note(wanted.round) or STATISTICS_OFF
    few = new_district.few_schools_note(wanted.round, schools)
    notes = [*filter(None, (waiting_note(wanted.round), few, private, statistics, evaluation_note(wanted.round)))]
    count = sum(school.count for school in schools)
    root, *steps = new_district.checklist(folder, keys, out, schools, address)
    record = {"folder": folder, "keys": keys, "invitations": out, "count": count, "address": address, "notes": notes}
    print_record(record | {"root": facts.root, "bundle_id": facts.bundle_id, "next": steps})
    for note in notes:
        say(note)
    say(f"{folder}: {name}, bundle {facts.bundle_id[:12]}, {counted(count, 'invitation')} in {out}")
    say(root)
    for step in steps:
        hint(step)
