"""An aggregator's folder: its key and certificate, its bundle, its round configuration, the log.

aggregator.json    public facts: institution, root fingerprint, bundle, certificate, round configuration
key.pem            the aggregator's own key; signs rounds and versions
secret             proves invitation codes
bundles/<id>/      the bundle it serves
log.db             the log of updates and releases (see `state.log`)
sealing.pem        the key that offline messages are sealed to (see `offline`)
district.toml      the configuration, for people to edit (see `configuration_file`)
tls-key.pem        the server's own TLS key, and tls-cert.pem its certificate (see `certificate`)
listening.json     how it was last served (see `reach`)
roster.json        which devices may take part in secure rounds, signed by the institution
waiting.db         private updates until their release, and exact sums of a stream; no process but the server's opens it
secure.db          the secure round that is under way; not worth a backup, it must not outlive the round
secure-statistics.db   the same of the secure round of statistics
secure-evaluation.db   the same of the secure round of an evaluation
"""

from __future__ import annotations

import contextlib
import datetime
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from homeroom.contract import signing
from homeroom.contract.canonical_json import decode
from homeroom.contract.invitation import Invitation
from homeroom.contract.manifest import Hash
from homeroom.contract.names import check_name
from homeroom.contract.policy import POLICY_LIMIT_BYTES, read_policy
from homeroom.contract.roster import ROSTER_LIMIT_BYTES, Roster, read_roster
from homeroom.contract.round import RoundConfiguration
from homeroom.contract.secagg import MOST_SEGMENT_BITS
from homeroom.contract.signing import Certificate, fingerprint, public_hex, read_key, write_key
from homeroom.contract.statistics.limits import letter_tasks
from homeroom.contract.statistics.secure import StatisticsTerms
from homeroom.errors import InputError, StoreError, TrustError
from homeroom.federation.evaluation_shape import EvaluationShape
from homeroom.privacy.secagg.statistics_shape import StatisticsShape
from homeroom.runtime.bundle import Bundle, install, open_bundle
from homeroom.runtime.fallback import take_along
from homeroom.system.clock import now
from homeroom.system.files import (
    close_to_others,
    make_directory,
    read_small,
    removed_on_failure,
    replace_durable,
    write_durable,
)
from homeroom_aggregator.merge.rounds import Rounds
from homeroom_aggregator.state import audit
from homeroom_aggregator.state.log import Log
from homeroom_aggregator.state.members import Members, Role, StoredInvitation, check_role
from homeroom_aggregator.state.one_time_codes import INVITATION, code_digest, new_code
from homeroom_aggregator.state.privacy_ledger import releases_within

FACTS_FILE, KEY_FILE, SECRET_FILE, LOG_FILE = "aggregator.json", "key.pem", "secret", "log.db"
BUNDLES_FOLDER = "bundles"
ROSTER_FILE, SEALING_KEY_FILE = "roster.json", "sealing.pem"
SECURE_ROUND_FILE, SECURE_STATISTICS_FILE = "secure.db", "secure-statistics.db"
SECURE_EVALUATION_FILE = "secure-evaluation.db"
INVITATION_DAYS = 14.0  # how long an invitation may be used, unless said otherwise
TLS_KEY_FILE, TLS_CERTIFICATE_FILE, LISTENING_FILE = "tls-key.pem", "tls-cert.pem", "listening.json"
BACKUP_FILE = "backup.json"  # in a folder that `homeroom district backup` made: what is in it


class FolderFacts(msgspec.Struct, frozen=True, kw_only=True):
    """aggregator.json; written once, when the folder is made."""

    institution: str
    root: Hash
    bundle_id: Hash
    certificate: Certificate
    configuration: RoundConfiguration


def create_folder(
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
) -> FolderFacts:
    """Create an aggregator's folder for a bundle of the same root.

    folder, bundle: the new folder, and the bundle to install in it, with its second file if that lies beside it.
    institution: its name.
    root_key: certifies a new key here and now; or
    key, certificate: made elsewhere.
    configuration: of the rounds; its bundle_id is replaced by the bundle's.
    secret: proves invitation codes, by default a new one.
    policy: signed; its scopes and minimum of devices are applied, and an aggregator in the name of the policy's
        institution merges the institution's segments.
    Raises TrustError if the roots differ, InputError if the folder is an aggregator's already.
    """
    if (folder / FACTS_FILE).exists():
        raise InputError("is an aggregator's folder already", where=str(folder), remedy="serve it without --bundle")
    if root_key is not None:
        key = key or signing.new_key()
        certificate = signing.certify(root_key, "aggregator", key, institution)
    if key is None or certificate is None:
        remedy = "give --root-key, or --key and --certificate"
        raise InputError("needs a key that the root certified", where=str(folder), remedy=remedy)
    root, institution = fingerprint(certificate.root), check_name(institution, "institution")
    _check_key(key, certificate, root, folder)
    with removed_on_failure(folder):
        make_directory(folder)
        close_to_others(folder)
        installed = take_along(install(bundle, folder / BUNDLES_FOLDER, root=root), bundle)
        if configuration is not None:
            check_statistics(configuration, installed, bundle)
            check_evaluation(configuration, installed, bundle)
            check_masked(configuration, installed, bundle)
        begun = configuration or RoundConfiguration(bundle_id=installed.bundle_id)
        narrowed = msgspec.structs.replace(begun, bundle_id=installed.bundle_id)
        if policy is not None:
            narrowed = narrow_by_policy(narrowed, policy, root, certificate.name)
        if narrowed.privacy:
            releases_within(narrowed.privacy, narrowed.scale_bits)  # refuses a budget that not one release fits in
        facts = FolderFacts(
            institution=institution,
            root=root,
            bundle_id=installed.bundle_id,
            certificate=certificate,
            configuration=narrowed,
        )
        if not (folder / KEY_FILE).exists() or public_hex(read_key(folder / KEY_FILE)) != public_hex(key):
            (folder / KEY_FILE).unlink(missing_ok=True)  # of a making that was cut short: nothing was signed with it
            write_key(folder / KEY_FILE, key)
        write_durable(folder / SECRET_FILE, secret or secrets.token_bytes(32))
        _write_facts(folder, facts)
    return facts


def check_statistics(configuration: RoundConfiguration, bundle: Bundle, where: Path) -> None:
    """InputError where a bundle, which lies at `where`, has nothing that statistics could be of."""
    if configuration.statistics.mode != "off" and bundle.manifest.statistics is msgspec.UNSET:
        what, remedy = "statistics.mode: the bundle has no statistics", "set it to off, or export the bundle anew"
        raise InputError(what, where=str(where), remedy=remedy)
    if configuration.statistics.mode == "plain" and (tasks := letter_tasks(bundle.manifest)):
        what = f"statistics.mode: {', '.join(tasks)} read the letters of texts, which plain statistics would show"
        raise InputError(what, where=str(where), remedy="sum them in secure rounds, or export without `letters`")
    if configuration.statistics.mode == "secure":
        names = len(StatisticsShape(bundle.manifest, configuration, StatisticsTerms()).announced)
        if names > MOST_SEGMENT_BITS:
            what = f"statistics.mode: {names:,} rows and pairs of blocks are more than a round's {MOST_SEGMENT_BITS:,}"
            raise InputError(what, where=str(where), remedy="export it with fewer labels or inputs a task")


def check_masked(configuration: RoundConfiguration, bundle: Bundle, where: Path) -> None:
    """InputError where private rounds would add noise to labels that are masked until somebody teaches them."""
    if configuration.privacy and bundle.manifest.masked:
        labels = ", ".join(label for labels in bundle.manifest.masked.values() for label in labels)
        what = f"nobody has taught {labels} yet, and the noise of private rounds would answer for them"
        raise InputError(what, where=str(where), remedy="export it with the labels of before")


def check_evaluation(configuration: RoundConfiguration, bundle: Bundle, where: Path) -> None:
    """InputError where a bundle, which lies at `where`, has too many groups for a secure evaluation."""
    if configuration.evaluation.mode != "secure":
        return
    names = len(EvaluationShape(bundle.manifest, configuration, 1).announced)
    if names > MOST_SEGMENT_BITS:
        what = f"evaluation.mode: {names:,} languages and inputs of tasks are more than a round's {MOST_SEGMENT_BITS:,}"
        raise InputError(what, where=str(where), remedy="set it to off")


def _check_key(key: Ed25519PrivateKey, certificate: Certificate, root: str, folder: Path) -> None:
    if certificate.key != public_hex(key):
        raise TrustError("the certificate is for another key", where=str(folder))
    signing.check_certificate(certificate, role="aggregator", root_fingerprint=root, where=str(folder))


def _write_facts(folder: Path, facts: FolderFacts) -> None:
    write_durable(folder / FACTS_FILE, msgspec.json.format(msgspec.json.encode(facts), indent=1))


def narrow_by_policy(configuration: RoundConfiguration, path: Path, root: str, name: str) -> RoundConfiguration:
    """The configuration, narrowed to the policy."""
    try:
        policy = read_policy(read_small(path, POLICY_LIMIT_BYTES), root_fingerprint=root, where=str(path))
    except OSError as problem:
        raise InputError(f"cannot be read: {problem.strerror}", where=str(path)) from None
    return msgspec.structs.replace(
        configuration,
        scopes=policy.scopes,
        scope="institution" if policy.institution == name and not configuration.by_school else "shared",
        min_devices=max(configuration.min_devices, policy.min_devices),
    )


def read_facts(folder: Path) -> FolderFacts:
    """The folder's aggregator.json; InputError if it is no aggregator's folder."""
    path = folder / FACTS_FILE
    try:
        data = read_small(path)
    except FileNotFoundError:
        remedy = "make it: `homeroom district init FOLDER --bundle BUNDLE`"
        raise InputError("is no aggregator's folder yet", where=str(folder), remedy=remedy) from None
    except OSError as problem:
        raise StoreError(f"cannot be read: {problem.strerror}", where=str(path)) from None
    return decode(data, FolderFacts, limit_bytes=1 << 20, where=str(path), error=StoreError)


def open_folder_bundle(folder: Path, facts: FolderFacts) -> Bundle:
    """The bundle that a folder serves, its signature checked."""
    return open_bundle(folder / BUNDLES_FOLDER / facts.bundle_id, root=facts.root)


def refuse_backup(folder: Path) -> None:
    """Raise InputError for a backup: its versions would get numbers that devices have seen with other values."""
    if (folder / BACKUP_FILE).exists():
        raise InputError("is a backup", where=str(folder), remedy="`homeroom district restore` puts it in place")


def open_rounds(folder: Path, retain: int = 0, **checkpoints: int) -> Rounds:
    """The rounds of a folder, computed from the last checkpoint of their log; one process at a time."""
    facts = read_facts(folder)
    refuse_backup(folder)
    close_to_others(folder)
    bundle, key = open_folder_bundle(folder, facts), read_key(folder / KEY_FILE)
    if public_hex(key) != facts.certificate.key:
        says, remedy = "key and certificate do not belong together", "`homeroom district recover`"
        raise TrustError(says, where=str(folder), remedy=remedy)
    log, certificate = folder / LOG_FILE, facts.certificate
    rounds = Rounds(log, bundle, facts.configuration, key, certificate, retain=retain, **checkpoints)
    rounds.withdraw_gone()  # a key may have been revoked meanwhile
    return rounds


def open_log(folder: Path) -> Log:
    """The log, to read and to write what `members` and `audit` do; works while the aggregator runs."""
    read_facts(folder)
    close_to_others(folder)
    return Log(folder / LOG_FILE, exclusive=False)


def load_roster(folder: Path) -> Roster | None:
    """The institution's newest roster, or None; TrustError if the institution has not signed it."""
    try:
        data = read_small(folder / ROSTER_FILE, ROSTER_LIMIT_BYTES)
    except FileNotFoundError:
        return None
    except OSError as problem:
        raise StoreError(f"cannot be read: {problem.strerror}", where=str(folder / ROSTER_FILE)) from None
    return read_roster(data, root_fingerprint=read_facts(folder).root)


def read_newer_roster(folder: Path, data: bytes) -> Roster:
    """A roster for the secure rounds to come; TrustError if it is not the institution's, or older than the present."""
    present = load_roster(folder)
    return read_roster(data, root_fingerprint=read_facts(folder).root, after=present.serial if present else 0)


def replace_roster(folder: Path, data: bytes) -> Roster:
    """Take a roster as `read_newer_roster`; a round that has not begun to share yet begins anew with it."""
    roster = read_newer_roster(folder, data)
    write_durable(folder / ROSTER_FILE, data)
    return roster


def invite_devices(folder: Path, address: str, count: int) -> list[Invitation]:
    """Invitations for `count` devices of no named school; each code enrols one."""
    return make_invitations(folder, address, [("", "device")] * count)


def make_invitations(
    folder: Path,
    address: str,
    rows: Sequence[tuple[str, Role]],
    expires: str | None = None,
    consents: Mapping[str, str] | None = None,
    *,
    write: Callable[[Sequence[Invitation]], None] = lambda _: None,
    pin: str = "",
) -> list[Invitation]:
    """An invitation for each (school, role), recorded in the log; works while the aggregator runs.

    address: of the server.
    rows: school and role of each.
    expires: ISO 8601, by the server's clock; by default in 14 days.
    consents: by school, who gave its consent.
    write: keeps them before they are durable in the log; where it fails, none is recorded.
    pin: of the server's TLS key.
    Raises InputError where a school's name can be none, or a role needs one.
    """
    for school, role in rows:
        check_role(role, school)
    expires = expires or (now() + datetime.timedelta(days=INVITATION_DAYS)).replace(microsecond=0).isoformat()
    facts, secret = read_facts(folder), read_secret(folder)
    common = {"address": address.rstrip("/"), "root": facts.root, "institution": facts.institution}
    common |= {"bundle_id": facts.bundle_id, "expires": expires, "pin": pin}
    invitations = [
        msgspec.convert({**common, "code": new_code(secret, INVITATION), "school": school}, Invitation)
        for school, _ in rows
    ]
    with contextlib.closing(open_log(folder)) as log, log.step():
        members = Members(log.database)
        members.invite(
            StoredInvitation(code_digest(invitation.code), role, school, expires)
            for invitation, (school, role) in zip(invitations, rows, strict=True)
        )
        for school, given_by in (consents or {}).items():
            members.consent(school, given_by)
        write(invitations)
    return invitations


def recover_key(folder: Path, key: Ed25519PrivateKey, certificate: Certificate) -> FolderFacts:
    """Replace a lost key by a new one that the same root certified; the server must be stopped."""
    facts = read_facts(folder)
    _check_key(key, certificate, facts.root, folder)
    with contextlib.closing(Log(folder / LOG_FILE)) as log, log.step():
        audit.record(log.database, "recovered", key=certificate.key, before=facts.certificate.key)
        replaced = msgspec.structs.replace(facts, certificate=certificate)
        write_key(folder / f"{KEY_FILE}.new", key)
        replace_durable(folder / f"{KEY_FILE}.new", folder / KEY_FILE)
        _write_facts(folder, replaced)
    return replaced


def read_secret(folder: Path) -> bytes:
    """The secret that proves invitation codes."""
    try:
        return read_small(folder / SECRET_FILE)
    except OSError as problem:
        raise StoreError(f"cannot be read: {problem.strerror}", where=str(folder / SECRET_FILE)) from None
