"""`homeroom serve`: the aggregator as a process."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import click

from homeroom.cli.numbers import Finite, Whole
from homeroom.contract.codecs import Codec
from homeroom.contract.roster import LEAST_ROSTER_DEVICES
from homeroom.contract.secagg import SecureRules
from homeroom.contract.signing import read_key
from homeroom.errors import InputError
from homeroom_aggregator.cli.files import FILE, FOLDER, _read
from homeroom_aggregator.cli.members import read_certificate
from homeroom_aggregator.cli.privacy import asked, configuration, privacy_options
from homeroom_aggregator.cli.round_options import chosen, cohort_options, optimizer_options, synchronous

TOKEN = "HOMEROOM_OPERATOR_TOKEN"


@click.command()
@click.argument("folder", type=FOLDER)
@click.option("--bundle", type=click.Path(path_type=Path), help="Bundle to serve; needed the first time.")
@click.option("--root-key", type=FILE, help="Root key that certifies this aggregator, the first time.")
@click.option("--key", type=FILE, help="Instead: a key that was certified elsewhere (`trust certify`).")
@click.option("--certificate", type=FILE, help="Its certificate.")
@click.option("--institution", default="Homeroom", show_default=True)
@click.option("--buffer", "buffer_size", type=Whole(1), default=5, show_default=True, help="Updates a release.")
@click.option("--min-devices", type=Whole(1), default=3, show_default=True, help="Devices before a release.")
@click.option("--max-staleness", type=Whole(0), default=20, show_default=True)
@click.option(
    "--codec",
    type=click.Choice(["fixed32", "int8", "int4", "topk"]),
    default="fixed32",
    show_default=True,
    help="How updates travel: about 1/1, 1/4, 1/7 or 1/20 of float32.",
)
@click.option(
    "--retain",
    type=Whole(0),
    default=0,
    show_default=True,
    help="Versions whose updates are kept at least; 0 keeps all. May change at each start.",
)
@cohort_options
@optimizer_options
@privacy_options
@click.option("--policy", type=FILE, help="Signed policy to merge by; its own institution's segments come here too.")
@click.option("--secure", is_flag=True, help="Secure rounds: the server sees sums only (docs/secure.md).")
@click.option("--cohort", type=click.IntRange(3, 10_000), default=20, show_default=True, help="Devices of one sum.")
@click.option("--drop-rate", type=Finite(0, 0.45), default=0.3, show_default=True)
@click.option("--corrupt-rate", type=Finite(0, 0.3), default=0.1, show_default=True)
@click.option("--phase-hours", type=Finite(0, 8760, min_open=True), default=24.0, show_default=True)
@click.option("--roster", type=FILE, help="Who may form cohorts (`trust roster`); may be given anew at each start.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=8340, show_default=True)
@click.option("--announce", is_flag=True, help="Let devices on the local network find it [lan].")
@click.option("--tls-cert", type=FILE, help="PEM certificate chain; without it, put TLS in front.")
@click.option("--tls-key", type=FILE, help="Its private key.")
@click.option("--log-requests", is_flag=True, help="One line of JSON a request on stderr; nothing about people in it.")
def serve(
    folder: Path,
    bundle: Path | None,
    root_key: Path | None,
    key: Path | None,
    certificate: Path | None,
    institution: str,
    buffer_size: int,
    min_devices: int,
    max_staleness: int,
    codec: Codec,
    retain: int,
    deadline: float | None,
    quorum: int | None,
    over: float,
    by_school: bool,
    optimizer: str,
    server_rate: float,
    beta1: float,
    beta2: float,
    tau: float,
    proximal: float,
    epsilon: float | None,
    delta: float,
    clip_norm: float | None,
    noise_multiplier: float | None,
    subjects: int | None,
    clip_quantile: float | None,
    bands: int | None,
    policy: Path | None,
    secure: bool,
    cohort: int,
    drop_rate: float,
    corrupt_rate: float,
    phase_hours: float,
    roster: Path | None,
    host: str,
    port: int,
    announce: bool,
    tls_cert: Path | None,
    tls_key: Path | None,
    log_requests: bool,
) -> None:
    """Serve the aggregator in FOLDER, which is made the first time.

    TLS by --tls-cert and --tls-key, or by a proxy in front. HOMEROOM_OPERATOR_TOKEN, if set, opens /v1/metrics from
    elsewhere.
    Example: homeroom serve district/ --bundle vocabulary.homeroom --root-key root.pem
    Private rounds: --epsilon 8 --clip-norm 0.5 --noise-multiplier 1.2
    """
    from homeroom.federation.network import discovery
    from homeroom_aggregator.admin.folder import FACTS_FILE, create_folder, read_facts, replace_roster
    from homeroom_aggregator.server import serve

    promise = asked(epsilon, delta, clip_norm, noise_multiplier, subjects, clip_quantile, bands, secure=secure)
    if bundle is not None and not (folder / FACTS_FILE).exists():
        create_folder(
            folder,
            bundle,
            institution=institution,
            root_key=read_key(root_key) if root_key else None,
            key=read_key(key) if key else None,
            certificate=read_certificate(certificate) if certificate else None,
            configuration=configuration(
                buffer_size=buffer_size,
                min_devices=min_devices,
                max_staleness=0 if deadline else max_staleness,
                cohort=synchronous(deadline, quorum, over),
                by_school=by_school,
                codec=codec,
                optimizer=chosen(optimizer, beta1, beta2, tau),
                server_rate=server_rate,
                proximal=proximal,
                privacy=promise,
                secure=SecureRules(
                    minimum=max(LEAST_ROSTER_DEVICES, min_devices),
                    cohort=cohort,
                    drop_rate=drop_rate,
                    corrupt_rate=corrupt_rate,
                    phase_s=max(1, round(phase_hours * 3600)),
                )
                if secure
                else None,
            ),
            policy=policy,
        )
    facts = read_facts(folder)
    if promise not in (None, facts.configuration.privacy):
        raise InputError(
            "was begun with another promise of privacy", where=str(folder), remedy="serve it from a new folder"
        )
    if (tls_cert is None) != (tls_key is None):
        raise InputError("--tls-cert and --tls-key belong together")
    if roster is not None:
        found = replace_roster(folder, _read(roster))
        click.echo(f"roster {found.serial}: {len(found.devices)} devices, at least {found.minimum} in a sum")
    listening = serve.listen(host, port)
    click.echo(f"{facts.institution}: root {facts.root}")
    if promise := facts.configuration.privacy:
        click.echo(f"private rounds: epsilon {promise.epsilon:g} at delta {promise.delta:g} for each {promise.unit}")
    click.echo(f"listening on {'https' if tls_cert else 'http'}://{host}:{listening.getsockname()[1]}")
    with contextlib.ExitStack() as until_the_end:
        if announce:
            scheme, found = "https" if tls_cert else "http", listening.getsockname()[1]
            until_the_end.enter_context(discovery.announced(host, found, facts.root, scheme))
        serve.serve(
            folder,
            listening,
            os.environ.get(TOKEN),
            retain,
            certificate=tls_cert,
            key=tls_key,
            log_requests=log_requests,
        )
