"""`homeroom trust`: the institution's root key, and what it certifies."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import click
import msgspec

from homeroom.cli.files import read_bytes, read_certificate
from homeroom.cli.options import as_json, print_record, say
from homeroom.cli.parameters import FILE, FOLDER, NAME, OUT_FILE, Finite, Whole
from homeroom.contract.roster import LEAST_ROSTER_DEVICES, make_roster, read_roster
from homeroom.contract.round import RoundConfiguration
from homeroom.contract.secagg import SecureRules
from homeroom.contract.signing import Role, certify, fingerprint, new_key, public_hex, read_key, write_key
from homeroom.errors import InputError
from homeroom.privacy.secagg.cohort_size import check_roster
from homeroom.system.files import refusal, write_durable
from homeroom.system.printable import counted

DEFAULT_MINIMUM = 5
RATES_HELP = "Share of a cohort that may drop out; as the server's."


@click.command("root")
@click.argument("key", type=OUT_FILE)
@as_json
def root(key: Path) -> None:
    """Make the root key KEY, and print its fingerprint.

    Keep it off every server, in two places.
    """
    _new(key)
    made = fingerprint(public_hex(read_key(key)))
    print_record({"root": made, "key": key})
    say(made)


@click.command("certify")
@click.argument("role", type=click.Choice(["exporter", "aggregator", "institution", "roster"]))
@click.argument("key", type=OUT_FILE)
@click.option("--root-key", type=FILE, required=True)
@click.option("--name", type=NAME, required=True, help="Who holds the key.")
@as_json
def certify_key(role: Role, key: Path, root_key: Path, name: str) -> None:
    """Make the key KEY (or take the one that is there) and certify it for ROLE in KEY's name with .json."""
    root_signer = read_key(root_key)
    if not key.exists():
        _new(key)
    certificate = certify(root_signer, role, read_key(key), name)
    write_durable(key.with_suffix(".json"), msgspec.json.format(msgspec.json.encode(certificate), indent=1))
    print_record({"certificate": key.with_suffix(".json"), "role": role, "key": certificate.key, "name": name})
    say(str(key.with_suffix(".json")))


@click.command("policy")
@click.argument("draft", type=FILE)
@click.option("--key", type=FILE, required=True, help="The institution's key.")
@click.option("--certificate", type=FILE, help="Its certificate; by default KEY's name with .json.")
@click.option("--out", type=OUT_FILE, default=Path("policy.json"), show_default=True)
@as_json
def policy(draft: Path, key: Path, certificate: Path | None, out: Path) -> None:
    """Sign DRAFT, the policy of an institution as TOML; devices take it with `homeroom device policy`."""
    from homeroom.contract.policy import draft as read_draft
    from homeroom.contract.policy import sign_policy

    vouched = read_certificate(certificate or key.with_suffix(".json"))
    write_durable(out, sign_policy(read_draft(draft, vouched.name), read_key(key), vouched))
    print_record({"policy": out, "institution": vouched.name})
    say(str(out))


@click.command("roster")
@click.argument("out", type=OUT_FILE)
@click.option("--key", type=FILE, required=True, help="Key that the root certified for `roster`; its .json beside it.")
@click.option("--device", "devices", multiple=True, help="Key of a device (`homeroom device status`); may be repeated.")
@click.option("--devices", "listed", type=FILE, help="A file with one key a line.")
@click.option(
    "--members", "folder", type=FOLDER, help="All devices that are enrolled with the aggregator in this folder."
)
@click.option(
    "--minimum", type=Whole(LEAST_ROSTER_DEVICES), show_default="5, or that of FOLDER", help="Least devices in a sum."
)
@click.option("--drop-rate", type=Finite(0, 0.45), default=SecureRules().drop_rate, show_default=True, help=RATES_HELP)
@click.option("--corrupt-rate", type=Finite(0, 0.3), default=SecureRules().corrupt_rate, show_default=True)
@click.option("--serial", type=Whole(1), help="Higher than that of the roster before; with --members, the next.")
@click.option("--institution", type=NAME, default="Homeroom", show_default=True)
@as_json
def roster(
    out: Path, key: Path, devices: tuple[str, ...], listed: Path | None, folder: Path | None, **terms: Any
) -> None:
    """Sign which devices may take part in secure rounds; give OUT to the server with `district serve --roster`."""
    typed = [*devices, *(read_bytes(listed).decode(errors="replace").split() if listed else ())]
    enrolled, left_out, terms = _enrolled(folder, terms, typed, str(out))
    names = [*typed, *enrolled]
    if wrong := [name for name in names if len(name) != 64 or set(name) - set("0123456789abcdef")]:
        raise InputError(
            f"{wrong[0][:80]!r} is no device's key", remedy="64 hexadecimal digits, from `homeroom device status`"
        )
    minimum = terms["minimum"]
    rules = SecureRules(minimum=LEAST_ROSTER_DEVICES, drop_rate=terms["drop_rate"], corrupt_rate=terms["corrupt_rate"])
    check_roster(len(set(names)), minimum, RoundConfiguration(bundle_id="0" * 64, secure=rules), str(out))
    if out.resolve() == key.with_suffix(".json").resolve():
        raise InputError("is the key's certificate", where=str(out), remedy="choose another name for the roster")
    vouched = read_certificate(key.with_suffix(".json"))
    about = {"serial": terms["serial"], "minimum": minimum, "institution": terms["institution"]}
    signed = make_roster(read_key(key), vouched, names, **about)
    data = msgspec.json.format(msgspec.json.encode(signed), indent=1)
    read_roster(data, root_fingerprint=fingerprint(vouched.root))  # refuses a key that may not sign rosters
    write_durable(out, data)
    about = {"serial": signed.serial, "devices": len(signed.devices), "minimum": minimum, "left_out": left_out}
    print_record({"roster": out, **about})
    say(f"{counted(len(signed.devices), 'device')}, at least {minimum} in a sum")
    for school, count in left_out.items():
        say(f"left out, by school_devices of the round: {counted(count, 'device')} of {school}")


def _enrolled(
    folder: Path | None, terms: dict[str, Any], typed: list[str], out: str
) -> tuple[list[str], dict[str, int], dict[str, Any]]:
    """The keys of an aggregator's devices, how many of which school are left out, and the terms.

    terms: with what its folder says where they were not typed. typed: keys that are to be on the roster `out`.
    """
    if folder is None:
        if terms["serial"] is None:
            raise InputError("a roster needs its --serial", remedy="or --members, the folder that has the last one")
        return [], {}, terms | {"minimum": terms["minimum"] or DEFAULT_MINIMUM}
    from homeroom_aggregator.admin.configuration_file import read_configuration
    from homeroom_aggregator.admin.folder import load_roster, open_log
    from homeroom_aggregator.admin.roster_schools import check_schools, chosen_devices
    from homeroom_aggregator.state.members import Members

    configuration, present = read_configuration(folder).round, load_roster(folder)
    rules, limit = configuration.secure, configuration.school_devices
    with contextlib.closing(open_log(folder)) as log:
        members = Members(log.database)
        check_schools(members, dict.fromkeys(typed), limit, out)
        keys, left_out = chosen_devices(members, limit, typed, present.devices if present else ())
    minimum = terms["minimum"] or (rules.minimum if rules else DEFAULT_MINIMUM)
    serial = terms["serial"] or (present.serial + 1 if present else 1)
    return keys, left_out, terms | {"minimum": minimum, "serial": serial}


def _new(path: Path) -> None:
    try:
        write_key(path, new_key())
    except FileExistsError:
        raise InputError("is there already", where=str(path), remedy="a key is never overwritten") from None
    except OSError as problem:
        raise refusal(problem, path) from None
