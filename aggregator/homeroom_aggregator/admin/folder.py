"""An aggregator's folder: its key and certificate, its bundle, its round, the log; imports homeroom and rounds.

aggregator.json    public facts: institution, root fingerprint, bundle, certificate, round configuration
key.pem            the aggregator's own key; signs rounds and versions
secret             proves invitation codes
bundles/<id>/      the bundle it serves
log.db             everything that happened (see `log`)
sealing.pem        what letters that come by hand are sealed to (see `letters`)
roster.json        which devices may form a cohort, signed by the institution, where there are secure rounds
secure.db          the secure round that is under way; not worth a backup, it must not outlive the round
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from homeroom.contract.canonical_json import decode
from homeroom.contract.invitation import Invitation
from homeroom.contract.manifest import Hash
from homeroom.contract.policy import LIMIT_BYTES, read_policy
from homeroom.contract.roster import Roster, read_roster
from homeroom.contract.round import RoundConfiguration
from homeroom.contract.signing import (
    Certificate,
    certify,
    check_certificate,
    fingerprint,
    new_key,
    public_hex,
    read_key,
    write_key,
)
from homeroom.errors import InputError, StoreError, TrustError
from homeroom.runtime.bundle import Bundle, install, open_bundle
from homeroom.system.files import replace_durable, whole_or_gone, write_durable
from homeroom_aggregator.merge.rounds import Rounds
from homeroom_aggregator.state import audit
from homeroom_aggregator.state.invitation_codes import new_code, spent
from homeroom_aggregator.state.log import Log
from homeroom_aggregator.state.members import Invited, Members, Role
from homeroom_aggregator.state.privacy_ledger import releases_within

FACTS, KEY, SECRET, LOG, BUNDLES = "aggregator.json", "key.pem", "secret", "log.db", "bundles"
ROSTER, SECURE, SEALING = "roster.json", "secure.db", "sealing.pem"
BACKUP = "backup.json"  # in a folder that `homeroom backup` made: what is in it


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """aggregator.json; written once, when the folder is made."""

    institution: str
    root: Hash
    bundle_id: Hash
    certificate: Certificate
    configuration: RoundConfiguration


def make(
    folder: Path,
    bundle: Path,
    *,
    institution: str,
    root_key: Ed25519PrivateKey | None = None,
    key: Ed25519PrivateKey | None = None,
    certificate: Certificate | None = None,
    configuration: RoundConfiguration | None = None,
    secret: bytes | None = None,
    policy: Path | None = None,
) -> Facts:
    """Make an aggregator's folder for a bundle of the same root. `secret` proves invitations, by default a new one.

    Either `root_key` certifies a new key here and now, or `key` comes with a `certificate` that was made elsewhere.
    configuration: its bundle_id is replaced by the bundle's. policy: signed; its scopes and least number of devices
    count here, and an aggregator in the name of its institution merges the institution's segments. Raises TrustError
    if the roots differ.
    """
    if (folder / FACTS).exists():
        raise InputError("is an aggregator's folder already", where=str(folder), remedy="serve it without --bundle")
    if root_key is not None:
        key = key or new_key()
        certificate = certify(root_key, "aggregator", key, institution)
    if key is None or certificate is None:
        raise InputError(
            "needs a key that the root certified",
            where=str(folder),
            remedy="give --root-key, or --key and --certificate",
        )
    if certificate.key != public_hex(key):
        raise TrustError("the certificate is for another key", where=str(folder))
    root = fingerprint(certificate.root)
    check_certificate(certificate, role="aggregator", root_fingerprint=root, where=str(folder))
    with whole_or_gone(folder):
        installed = install(bundle, folder / BUNDLES, root=root)
        asked = msgspec.structs.replace(
            configuration or RoundConfiguration(bundle_id=installed.bundle_id), bundle_id=installed.bundle_id
        )
        if policy is not None:
            asked = _by_policy(asked, policy, root, certificate.name)
        if asked.privacy:
            releases_within(asked.privacy, asked.scale_bits)  # a budget that not one release fits in is refused here
        facts = Facts(
            institution=institution,
            root=root,
            bundle_id=installed.bundle_id,
            certificate=certificate,
            configuration=asked,
        )
        if not (folder / KEY).exists():
            write_key(folder / KEY, key)
        elif public_hex(read_key(folder / KEY)) != public_hex(key):
            (folder / KEY).unlink()  # of a making that was cut short: nothing was signed with it
            write_key(folder / KEY, key)
        write_durable(folder / SECRET, secret or secrets.token_bytes(32))
        write_durable(folder / FACTS, msgspec.json.format(msgspec.json.encode(facts), indent=1))
    return facts


def _by_policy(asked: RoundConfiguration, path: Path, root: str, name: str) -> RoundConfiguration:
    """The configuration, as narrow as the policy wants it."""
    try:
        with path.open("rb") as file:
            policy = read_policy(file.read(LIMIT_BYTES + 1), root_fingerprint=root, where=str(path))
    except OSError as problem:
        raise InputError(f"cannot be read: {problem.strerror}", where=str(path)) from None
    return msgspec.structs.replace(
        asked,
        scopes=policy.scopes,
        scope="institution" if policy.institution == name and not asked.by_school else "shared",
        min_devices=max(asked.min_devices, policy.min_devices),
    )


def read(folder: Path) -> Facts:
    path = folder / FACTS
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(
            "is no aggregator's folder yet", where=str(folder), remedy="serve it with --bundle first"
        ) from None
    except OSError as problem:
        raise StoreError(f"cannot be read: {problem.strerror}", where=str(path)) from None
    return decode(data, Facts, limit_bytes=1 << 20, where=str(path), error=StoreError)


def open_bundle_of(folder: Path, facts: Facts) -> Bundle:
    return open_bundle(folder / BUNDLES / facts.bundle_id, root=facts.root)


def open_rounds(folder: Path, retain: int = 0) -> Rounds:
    """The rounds of a folder, computed from the last checkpoint of their log; one process at a time."""
    facts = read(folder)
    if (folder / BACKUP).exists():  # its versions would get numbers that devices have seen with other values
        raise InputError("is a backup", where=str(folder), remedy="`homeroom restore` puts it in place")
    bundle, key = open_bundle_of(folder, facts), read_key(folder / KEY)
    if public_hex(key) != facts.certificate.key:
        raise TrustError("key and certificate do not belong together", where=str(folder), remedy="`homeroom recover`")
    return Rounds(folder / LOG, bundle, facts.configuration, key, facts.certificate, retain=retain)


def open_log(folder: Path) -> Log:
    """The log, to read and to write what `members` and `audit` do; works while the aggregator runs."""
    read(folder)
    return Log(folder / LOG, alone=False)


def roster(folder: Path) -> Roster | None:
    """The institution's newest word on who may form a cohort, if it has given one; TrustError if it is not that."""
    try:
        data = (folder / ROSTER).read_bytes()
    except FileNotFoundError:
        return None
    return read_roster(data, root_fingerprint=read(folder).root)


def put_roster(folder: Path, data: bytes) -> Roster:
    """Take a roster for the cohorts to come; TrustError if it is not the institution's, or older than the last."""
    present = roster(folder)
    found = read_roster(data, root_fingerprint=read(folder).root, after=present.serial if present else 0)
    write_durable(folder / ROSTER, data)
    return found


def invite(folder: Path, address: str, count: int) -> list[Invitation]:
    """Invitations for so many devices of no named school; each code enrols one."""
    return invite_for(folder, address, [("", "device")] * count)


def invite_for(
    folder: Path,
    address: str,
    rows: Sequence[tuple[str, Role]],
    expires: str | None = None,
    consents: Mapping[str, str] | None = None,
) -> list[Invitation]:
    """An invitation for each (school, role), noted in the log; works while the aggregator runs.

    expires: ISO 8601, by the server's clock. consents: by school, who gave its consent.
    """
    facts, secret = read(folder), secret_of(folder)
    common = {"address": address.rstrip("/"), "root": facts.root, "institution": facts.institution}
    common |= {"bundle_id": facts.bundle_id, "expires": expires or ""}
    made = [msgspec.convert({**common, "code": new_code(secret), "school": school}, Invitation) for school, _ in rows]
    with contextlib.closing(open_log(folder)) as log, log.step():
        members = Members(log.database)
        for school, given_by in (consents or {}).items():
            members.consent(school, given_by)
        members.invite(
            Invited(spent(one.code), role, school, expires) for one, (school, role) in zip(made, rows, strict=True)
        )
    return made


def recover(folder: Path, key: Ed25519PrivateKey, certificate: Certificate) -> Facts:
    """Put a newly certified key in place of a lost one, by the word of the same root; the server must be stopped."""
    facts = read(folder)
    if certificate.key != public_hex(key):
        raise TrustError("the certificate is for another key", where=str(folder))
    check_certificate(certificate, role="aggregator", root_fingerprint=facts.root, where=str(folder))
    with contextlib.closing(Log(folder / LOG)) as log, log.step():
        audit.record(log.database, "recovered", key=certificate.key, before=facts.certificate.key)
        replaced = msgspec.structs.replace(facts, certificate=certificate)
        write_key(folder / f"{KEY}.new", key)
        replace_durable(folder / f"{KEY}.new", folder / KEY)
        write_durable(folder / FACTS, msgspec.json.format(msgspec.json.encode(replaced), indent=1))
    return replaced


def secret_of(folder: Path) -> bytes:
    try:
        return (folder / SECRET).read_bytes()
    except OSError as problem:
        raise StoreError(f"cannot be read: {problem.strerror}", where=str(folder / SECRET)) from None
