"""The aggregator's sub-commands; `homeroom.cli.main` loads them by name."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

import click
import msgspec

from homeroom.cli.numbers import Finite, Folder, Whole
from homeroom.contract.codecs import Codec
from homeroom.contract.roster import LEAST, make_roster, read_roster
from homeroom.contract.secagg import SecureRules
from homeroom.contract.signing import Role, certify, fingerprint, new_key, public_hex, read_key, write_key
from homeroom.errors import InputError, StoreError
from homeroom.system.files import refusal, write_durable
from homeroom_aggregator.cli import backup, dashboard, members, privacy, simulate, upgrade
from homeroom_aggregator.cli.members import read_certificate
from homeroom_aggregator.cli.privacy import asked, configuration, privacy_options
from homeroom_aggregator.cli.round_options import chosen, cohort_options, optimizer_options, synchronous

FILE = click.Path(dir_okay=False, path_type=Path)
FOLDER = Folder()
TOKEN = "HOMEROOM_OPERATOR_TOKEN"


@click.group()
def trust() -> None:
    """Keys of the institution: the root, and those that it vouches for."""


@trust.command("root")
@click.argument("key", type=FILE)
def trust_root(key: Path) -> None:
    """Make the root key KEY, and print its fingerprint.

    Keep it off every server, in two places. Example: homeroom trust root root.pem
    """
    _new(key)
    click.echo(fingerprint(public_hex(read_key(key))))


@trust.command("certify")
@click.argument("role", type=click.Choice(["exporter", "aggregator", "institution", "roster"]))
@click.argument("key", type=FILE)
@click.option("--root-key", type=FILE, required=True)
@click.option("--name", required=True, help="Who holds the key.")
def trust_certify(role: Role, key: Path, root_key: Path, name: str) -> None:
    """Make the key KEY (or take the one that is there) and certify it for ROLE in KEY's name with .json.

    Example: homeroom trust certify exporter exporter.pem --root-key root.pem --name "District 7"
    """
    root = read_key(root_key)
    if not key.exists():
        _new(key)
    certificate = certify(root, role, read_key(key), name)
    write_durable(key.with_suffix(".json"), msgspec.json.format(msgspec.json.encode(certificate), indent=1))
    click.echo(str(key.with_suffix(".json")))


@trust.command("policy")
@click.argument("draft", type=FILE)
@click.option("--key", type=FILE, required=True, help="The institution's key.")
@click.option("--certificate", type=FILE, help="Its certificate; by default KEY's name with .json.")
@click.option("--out", type=FILE, default=Path("policy.json"), show_default=True)
def trust_policy(draft: Path, key: Path, certificate: Path | None, out: Path) -> None:
    """Sign DRAFT, the policy of an institution as TOML; devices take it with `homeroom device policy`.

    Example: homeroom trust policy school.toml --key school.pem --out policy.json
    """
    from homeroom.contract import policy

    word = read_certificate(certificate or key.with_suffix(".json"))
    write_durable(out, policy.sign_policy(policy.draft(draft, word.name), read_key(key), word))
    click.echo(str(out))


@trust.command("roster")
@click.argument("out", type=FILE)
@click.option("--key", type=FILE, required=True, help="Key that the root certified for `roster`; its .json beside it.")
@click.option("--device", "devices", multiple=True, help="Key of a device (`homeroom device status`); may be repeated.")
@click.option("--devices", "listed", type=FILE, help="A file with one key a line.")
@click.option("--minimum", type=Whole(LEAST), default=5, show_default=True, help="Least devices in a sum.")
@click.option("--serial", type=Whole(1), required=True, help="Higher than that of the roster before.")
@click.option("--institution", default="Homeroom", show_default=True)
def trust_roster(
    out: Path, key: Path, devices: tuple[str, ...], listed: Path | None, minimum: int, serial: int, institution: str
) -> None:
    """Sign which devices may form a cohort in secure rounds; give OUT to the server with `serve --roster`.

    Example: homeroom trust roster roster.json --key signer.pem --devices keys.txt --minimum 5 --serial 1
    """
    names = [*devices, *(_read(listed).decode(errors="replace").split() if listed else ())]
    if wrong := [name for name in names if len(name) != 64 or set(name) - set("0123456789abcdef")]:
        raise InputError(f"{wrong[0][:80]!r} is no device's key", remedy="64 hexadecimal digits, from `device status`")
    if len(set(names)) < minimum:
        raise InputError(f"{len(set(names))} devices are fewer than the minimum of {minimum}", where=str(out))
    if out.resolve() == key.with_suffix(".json").resolve():
        raise InputError("is the key's certificate", where=str(out), remedy="choose another name for the roster")
    word = read_certificate(key.with_suffix(".json"))
    made = make_roster(read_key(key), word, names, serial=serial, minimum=minimum, institution=institution)
    data = msgspec.json.format(msgspec.json.encode(made), indent=1)
    read_roster(data, root_fingerprint=fingerprint(word.root))  # a key that may not is told now
    write_durable(out, data)
    click.echo(f"{len(made.devices)} devices, at least {minimum} in a sum")


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
    from homeroom_aggregator.admin import folder as place
    from homeroom_aggregator.server import serve

    promise = asked(epsilon, delta, clip_norm, noise_multiplier, subjects, clip_quantile, bands, secure=secure)
    if bundle is not None and not (folder / place.FACTS).exists():
        place.make(
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
                    minimum=max(LEAST, min_devices),
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
    facts = place.read(folder)
    if promise not in (None, facts.configuration.privacy):
        raise InputError(
            "was begun with another promise of privacy", where=str(folder), remedy="serve it from a new folder"
        )
    if (tls_cert is None) != (tls_key is None):
        raise InputError("--tls-cert and --tls-key belong together")
    if roster is not None:
        found = place.put_roster(folder, _read(roster))
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


@click.command()
@click.argument("folder", type=FOLDER)
@click.option("--release", is_flag=True, help="Then release what is ready, without waiting for a full buffer.")
def rebuild(folder: Path, release: bool) -> None:
    """Compute every version of FOLDER again from its log, and compare bit for bit; stop the server first.

    Example: homeroom rebuild district/
    """
    from homeroom_aggregator.admin import folder as place

    rounds = place.open_rounds(folder)
    try:
        problems = rounds.verify()
        if problems:
            raise StoreError("; ".join(problems), where=str(folder), remedy="restore the last backup")
        click.echo(json.dumps(rounds.facts()))
        if release:
            click.echo(f"version {rounds.release_now()}")
    finally:
        rounds.close()


def _new(path: Path) -> None:
    try:
        write_key(path, new_key())
    except FileExistsError:
        raise InputError("is there already", where=str(path), remedy="a key is never overwritten") from None
    except OSError as problem:
        raise refusal(problem, path) from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as problem:
        raise InputError(f"cannot be read: {problem.strerror}", where=str(path)) from None


commands: list[click.Command] = [trust, serve, rebuild, simulate.simulate]
commands += [*members.commands, *backup.commands, *upgrade.commands, *privacy.commands]
commands += dashboard.commands
