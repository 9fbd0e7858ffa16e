"""`homeroom district serve`: the aggregator as a process."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path
from typing import Any

import click

from homeroom.cli.files import read_bytes, read_certificate
from homeroom.cli.parameters import FILE, FOLDER, PATH, Whole
from homeroom.contract.signing import read_key
from homeroom.errors import InputError
from homeroom_aggregator.admin.configuration import DistrictConfiguration, ServerSection, from_options
from homeroom_aggregator.cli.privacy import privacy_options
from homeroom_aggregator.cli.round_options import optimizer_options, option, round_options, secure_options

TOKEN = "HOMEROOM_OPERATOR_TOKEN"


@click.command()
@click.argument("folder", type=FOLDER)
@click.option("--bundle", type=PATH, help="Bundle to serve; needed the first time.")
@click.option("--root-key", type=FILE, help="Root key that certifies this aggregator, the first time.")
@click.option("--key", type=FILE, help="Instead: a key that was certified elsewhere (`trust certify`).")
@click.option("--certificate", type=FILE, help="Its certificate.")
@option(DistrictConfiguration, "--institution")
@round_options
@option(
    ServerSection,
    "--retain",
    type=Whole(0),
    help="Versions whose updates are kept at least; 0 keeps all. May change at each start.",
)
@optimizer_options
@privacy_options
@click.option("--policy", type=FILE, help="Signed policy to merge by; its own institution's segments come here too.")
@secure_options
@option(ServerSection, "--host")
@option(ServerSection, "--port", type=click.IntRange(0, 65535))
@click.option("--announce", is_flag=True, help="Let devices on the local network find it [lan].")
@click.option("--tls-cert", type=FILE, help="PEM certificate chain; without it, put TLS in front.")
@click.option("--tls-key", type=FILE, help="Its private key.")
@click.option("--log-requests", is_flag=True, help="One line of JSON a request on stderr; nothing about people in it.")
def serve(folder: Path, **options: Any) -> None:
    """Serve the aggregator in FOLDER, which is made the first time.

    TLS by --tls-cert and --tls-key, or by a proxy in front. HOMEROOM_OPERATOR_TOKEN, if set, opens /v1/metrics from
    elsewhere.
    Example: homeroom district serve district/ --bundle vocabulary.homeroom --root-key root.pem
    Private rounds: --epsilon 8 --clip-norm 0.5 --noise-multiplier 1.2
    """
    from homeroom_aggregator.admin.folder import FACTS_FILE, read_facts, replace_roster
    from homeroom_aggregator.server.serve import listen  # first: a missing extra is named before any work

    configuration = from_options(DistrictConfiguration, options)
    privacy, server = configuration.privacy(), configuration.server
    if configuration.bundle is not None and not (folder / FACTS_FILE).exists():
        _create(folder, configuration.bundle, configuration)
    facts = read_facts(folder)
    if privacy not in (None, facts.configuration.privacy):
        raise InputError(
            "was begun with another promise of privacy", where=str(folder), remedy="serve it from a new folder"
        )
    if (server.tls_cert is None) != (server.tls_key is None):
        raise InputError("--tls-cert and --tls-key belong together")
    if server.roster is not None:
        roster = replace_roster(folder, read_bytes(server.roster))
        click.echo(f"roster {roster.serial}: {len(roster.devices)} devices, at least {roster.minimum} in a sum")
    _serve(folder, server, listen(server.host, server.port))


def _create(folder: Path, bundle: Path, configuration: DistrictConfiguration) -> None:
    from homeroom_aggregator.admin.folder import create_folder

    root_key, key, certificate = configuration.root_key, configuration.key, configuration.certificate
    create_folder(
        folder,
        bundle,
        institution=configuration.institution,
        root_key=read_key(root_key) if root_key else None,
        key=read_key(key) if key else None,
        certificate=read_certificate(certificate) if certificate else None,
        configuration=configuration.round_configuration(),
        policy=configuration.policy,
    )


def _serve(folder: Path, server: ServerSection, listening: socket.socket) -> None:
    from homeroom.federation.network import discovery
    from homeroom_aggregator.admin.folder import read_facts
    from homeroom_aggregator.server.serve import serve as run

    facts = read_facts(folder)
    scheme, port = "https" if server.tls_cert else "http", listening.getsockname()[1]
    click.echo(f"{facts.institution}: root {facts.root}")
    if privacy := facts.configuration.privacy:
        click.echo(f"private rounds: epsilon {privacy.epsilon:g} at delta {privacy.delta:g} for each {privacy.unit}")
    click.echo(f"listening on {scheme}://{server.host}:{port}")
    with contextlib.ExitStack() as until_the_end:
        if server.announce:
            until_the_end.enter_context(discovery.announce(server.host, port, facts.root, scheme))
        run(
            folder,
            listening,
            os.environ.get(TOKEN),
            server.retain,
            certificate=server.tls_cert,
            key=server.tls_key,
            log_requests=server.log_requests,
        )
