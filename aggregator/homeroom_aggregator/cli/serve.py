"""`homeroom district serve`: the aggregator as a process; `homeroom district configure`: what it is served by."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import msgspec

from homeroom.cli.files import read_bytes, read_certificate
from homeroom.cli.options import Decorator, as_json, print_record, say
from homeroom.cli.parameters import FILE, FOLDER, NAME, PATH, Whole
from homeroom.contract.address import is_loopback
from homeroom.contract.signing import fingerprint, public_hex, read_key
from homeroom.errors import InputError
from homeroom.privacy.forecast import forecast_release
from homeroom.system.printable import counted
from homeroom_aggregator.admin.configuration import (
    DistrictConfiguration,
    first_configuration,
    typed_fields,
    with_options,
)
from homeroom_aggregator.cli.privacy import privacy_options
from homeroom_aggregator.cli.round_options import optimizer_options, round_options, secure_options, setting
from homeroom_aggregator.state.members import Members

TOKEN = "HOMEROOM_OPERATOR_TOKEN"
REVEALED = (
    "plain http: whoever is on the network can read every update, score and invitation code on its way, and use a code "
    "or a dashboard's link first; they can change nothing. Without --insecure it speaks TLS"
)
ANY_AUTHORITY = (
    "requests that were signed for any server's name are taken, since `addresses` of [server] in district.toml is not "
    "set: they are learned from the devices that come within 14 days, or list the URLs there, [] if there is no proxy"
)
ONCE_OPTIONS = ("bundle", "root_key", "key", "certificate", "institution", "policy", "roster")


def several(*names: str, **settings: Any) -> Decorator:
    """An option that may be given again, a tuple of its values or None. names, settings: as for `click.option`."""
    return click.option(*names, multiple=True, callback=lambda _, __, values: values or None, **settings)


@click.command()
@click.argument("folder", type=FOLDER)
@click.option("--bundle", type=PATH, help="Bundle to serve; needed the first time.")
@click.option("--root-key", type=FILE, help="Root key that certifies this aggregator, the first time.")
@click.option("--key", type=FILE, help="Instead: a key that was certified elsewhere (`trust certify`).")
@click.option("--certificate", type=FILE, help="Its certificate.")
@click.option(
    "--institution", type=NAME, show_default=DistrictConfiguration().institution, help="Name, the first time."
)
@round_options
@setting("--retain", type=Whole(0), help="Versions whose updates are kept at least; 0 keeps all.")
@optimizer_options
@privacy_options
@click.option("--policy", type=FILE, help="Signed policy to merge by; its own institution's segments come here too.")
@secure_options
@setting("--host", help="Address to listen on.")
@setting("--port", type=Whole(0, 65535))
@several("--address", "addresses", help="URL by which devices reach it through a proxy or by a name.")
@several("--trusted-proxy", "trusted_proxies", help="A proxy whose Forwarded headers count.")
@setting("--announce", is_flag=True, help="Let devices on the local network find it [lan].")
@click.option(
    "--insecure/--no-insecure", default=None, help="Plain http to other machines, for all on the way to read."
)
@setting("--tls-cert", type=FILE, help="PEM certificate chain; without it, it makes one for the local network.")
@setting("--tls-key", type=FILE, help="Its private key.")
@setting("--log-requests", is_flag=True, help="One line of JSON a request on stderr; nothing about people in it.")
def serve(folder: Path, **options: Any) -> None:
    """Serve the aggregator in FOLDER, which is made the first time.

    Its configuration is FOLDER/district.toml. Options go before it: those of rounds are written there and count from
    the next version on, or are refused where a log that has begun cannot take them; others count for this start.
    To other machines it speaks TLS: by a certificate of its own, whose key stands in invitations, or by --tls-cert and
    --tls-key; by default it listens for a proxy on this machine. HOMEROOM_OPERATOR_TOKEN, if set, opens /v1/metrics
    from elsewhere.
    Private rounds: --epsilon 8 --clip-norm 0.5 --noise-multiplier 1.2
    """
    from homeroom_aggregator.admin.configuration_file import (
        check_configuration,
        notes,
        read_configuration,
        round_in_force,
    )
    from homeroom_aggregator.admin.folder import (
        FACTS_FILE,
        LOG_FILE,
        ROSTER_FILE,
        load_roster,
        narrow_by_policy,
        open_folder_bundle,
        open_log,
        read_facts,
        read_newer_roster,
        replace_roster,
    )
    from homeroom_aggregator.admin.roster_schools import check_schools
    from homeroom_aggregator.server.serve import listen  # first: a missing extra is named before any work

    given = {name: value for name, value in options.items() if value is not None}
    once = {name: given.pop(name) for name in ONCE_OPTIONS if name in given}
    if (folder / FACTS_FILE).exists():
        _check_once(folder, once)
    elif "bundle" in once:
        _create(folder, once, given)
        once.pop("policy", None)
    facts, configuration = read_facts(folder), with_options(read_configuration(folder), given)
    typed = typed_fields(given)
    if policy := once.get("policy"):
        typed |= {"round.scope": "--policy", "round.scopes": "--policy"}
        narrowed = narrow_by_policy(configuration.round, policy, facts.root, facts.certificate.name)
        configuration = msgspec.structs.replace(configuration, round=narrowed)
    if "roster" in once and not configuration.round.secure:
        raise InputError("--roster says nothing without --secure", where="options")
    data = read_bytes(once["roster"]) if "roster" in once else None
    roster = load_roster(folder) if data is None else read_newer_roster(folder, data)
    check_configuration(folder, round_in_force(folder, facts), configuration, typed, roster)
    if data is not None and roster and (folder / LOG_FILE).exists():
        with contextlib.closing(open_log(folder)) as log:
            limit = configuration.round.school_devices
            check_schools(Members(log.database), roster.devices, limit, str(once["roster"]))
    for note in notes(folder, configuration.round):
        click.echo(note, err=True)
    if configuration.round.privacy:
        layout = open_folder_bundle(folder, facts).layout
        expected = forecast_release(configuration.round, layout, buffer_follows=configuration.automatic_buffer)
        assert expected
        click.echo(f"private rounds: {expected.words()}", err=not expected.learns)
    if data is not None:
        roster = replace_roster(folder, data)
        click.echo(
            f"roster {roster.serial}: {counted(len(roster.devices), 'device')}, at least {roster.minimum} in a sum"
        )
    if configuration.round.secure and roster is None:
        click.echo(f"secure rounds begin once `homeroom trust roster` has written {folder / ROSTER_FILE}", err=True)
    _serve(folder, configuration, listen)


def _create(folder: Path, once: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Make the folder by the options, over a `district.toml` that was put there before."""
    from homeroom_aggregator.admin.configuration_file import CONFIGURATION_FILE, read_file, write_file
    from homeroom_aggregator.admin.folder import create_folder

    if "root_key" in once and "certificate" in once:
        says = "--certificate says nothing with --root-key, which certifies the key here"
        raise InputError(says, where="options", remedy="leave one of them out")
    path = folder / CONFIGURATION_FILE
    file = read_file(path) if path.exists() else None
    base, wanted = file or DistrictConfiguration(), first_configuration(file, given)
    root_key, key, certificate = (once.get(name) for name in ("root_key", "key", "certificate"))
    facts = create_folder(
        folder,
        once["bundle"],
        institution=once.get("institution", base.institution),
        root_key=read_key(root_key) if root_key else None,
        key=read_key(key) if key else None,
        certificate=read_certificate(certificate) if certificate else None,
        configuration=wanted.round,
        policy=once.get("policy"),
    )
    made = {"institution": facts.institution, "round": facts.configuration, "automatic_buffer": wanted.automatic_buffer}
    server = msgspec.structs.replace(base.server, addresses=wanted.server.addresses)
    write_file(folder, msgspec.structs.replace(base, server=server, **made))


def _check_once(folder: Path, once: Mapping[str, Any]) -> None:
    """InputError for an option of the first start that says another thing than the folder was made with."""
    from homeroom.runtime.bundle import read_bundle_id
    from homeroom_aggregator.admin.folder import read_facts

    facts = read_facts(folder)
    begun: dict[str, tuple[Any, Callable[[Any], Any], str]] = {
        "bundle": (facts.bundle_id, read_bundle_id, "`homeroom district upgrade-bundle` takes a newer one"),
        "root_key": (facts.root, lambda path: fingerprint(public_hex(read_key(path))), "serve it from a new folder"),
        "key": (facts.certificate.key, lambda path: public_hex(read_key(path)), "`homeroom district recover`"),
        "certificate": (facts.certificate, read_certificate, "`homeroom district recover`"),
        "institution": (facts.institution, str, "serve it from a new folder"),
    }
    for name, (present, read, remedy) in begun.items():
        if name in once and read(once[name]) != present:
            option = name.replace("_", "-")
            raise InputError(f"--{option} is another than it was begun with", where=str(folder), remedy=remedy)


def _serve(folder: Path, configuration: DistrictConfiguration, listen: Any) -> None:
    from homeroom.federation.network import discovery
    from homeroom_aggregator.admin.certificate import pin_of_file, tls_files
    from homeroom_aggregator.admin.folder import read_facts
    from homeroom_aggregator.admin.reach import note_listening
    from homeroom_aggregator.server.serve import serve as run

    facts, server = read_facts(folder), configuration.server
    files = tls_files(folder, server)
    if files:
        server = msgspec.structs.replace(server, tls_cert=files[0], tls_key=files[1])
        configuration = msgspec.structs.replace(configuration, server=server)
    listening = listen(server.host, server.port)
    scheme, port = "https" if files else "http", listening.getsockname()[1]

    @contextlib.contextmanager
    def announced() -> Iterator[None]:
        note_listening(folder, server, port, files[0] if files else None)
        click.echo(f"{facts.institution}: root {facts.root}")
        if privacy := configuration.round.privacy:
            promise = f"epsilon {privacy.epsilon:g} at delta {privacy.delta:g} for each {privacy.unit}"
            click.echo(f"private rounds: {promise}")
        if files:
            click.echo(f"TLS key {pin_of_file(files[0])}")
        elif not is_loopback(server.host):
            click.echo(REVEALED, err=True)
        if server.addresses is None:
            click.echo(ANY_AUTHORITY, err=True)
        click.echo(f"listening on {scheme}://{server.host}:{port}")
        with contextlib.ExitStack() as until_the_end:
            if server.announce:
                until_the_end.enter_context(discovery.announce(server.host, port, facts.root, scheme))
            yield

    run(folder, listening, os.environ.get(TOKEN), configuration, tell=click.echo, announced=announced)


@click.command()
@click.argument("folder", type=FOLDER)
@click.option("--check", is_flag=True, help="Only say whether it fits, and what the next start changes.")
@as_json
def configure(folder: Path, check: bool) -> None:
    """Show the configuration of FOLDER, and when each field may change; edit FOLDER/district.toml, then --check.

    While it serves or not; changes come into force when it is served the next time.
    """
    from homeroom_aggregator.admin import configuration_file as file
    from homeroom_aggregator.admin.folder import check_statistics, open_folder_bundle, read_facts

    wanted, facts = file.read_configuration(folder), read_facts(folder)
    changes = file.check_configuration(folder, file.round_in_force(folder, facts), wanted)
    if wanted.round.statistics.mode != "off":
        check_statistics(wanted.round, open_folder_bundle(folder, facts), folder / file.CONFIGURATION_FILE)
    notes = file.notes(folder, wanted.round)
    record = {"changes": [str(change) for change in changes], "notes": notes}
    print_record(record if check else {"configuration": wanted} | record)
    for line in [] if check else [*file.to_toml(wanted).splitlines(), ""]:
        say(line)
    for line in [f"with the next start: {change}" for change in changes] or ["fits what is in force"]:
        say(line)
    for note in notes:
        say(note, err=True)
