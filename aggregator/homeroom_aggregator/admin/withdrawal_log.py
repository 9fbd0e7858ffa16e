"""Withdrawal log: a signed file beside backups that names every update ever withdrawn, so that none comes back.

A backup from before does not know of later withdrawals. `backup` brings the file beside it up to date, and `restore`
does again what it names. It holds no values of theta and no sample: ids of updates, and the keys that withdrew them.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

import msgspec

from homeroom.contract.canonical_json import canonical, decode, digest
from homeroom.contract.signing import Certificate, check_certificate, read_key, sign, verify
from homeroom.errors import HomeroomError, InputError, StoreError
from homeroom.system.files import read_small, write_durable
from homeroom.system.installation import quoted
from homeroom_aggregator.admin.folder import KEY_FILE, LOG_FILE, FolderFacts, open_log, read_facts
from homeroom_aggregator.state import audit

PURPOSE = "withdrawals"
LIST_LIMIT_BYTES = 256 << 20
WITHDRAWN = "SELECT update_id, device FROM log WHERE kind IN ('withdraw', 'unlearn') AND update_id IS NOT NULL"
EARLY = "SELECT update_id, member FROM early_withdrawals"
HAS_EARLY = "SELECT 1 FROM sqlite_schema WHERE name = 'early_withdrawals'"  # not of a log of 0.1.0, before it is served

Withdrawn = tuple[str, str]  # id of an update, and the first key of the member that withdrew it


class WithdrawalList(msgspec.Struct, frozen=True, kw_only=True):
    """What was withdrawn in a district up to a time, UTC, ISO 8601."""

    format: int = 1
    institution: str
    bundle_id: str
    certificate: Certificate
    at: str
    withdrawn: tuple[Withdrawn, ...]


class SignedList(msgspec.Struct, frozen=True, kw_only=True):
    """A list and the aggregator's signature over its canonical JSON."""

    list: WithdrawalList
    signature: str


@dataclass(frozen=True)
class KnownWithdrawals:
    """What a file names; empty where there is none."""

    path: Path | None = None
    at: str = ""
    withdrawn: tuple[Withdrawn, ...] = ()


def path_beside(backup: Path, facts: FolderFacts) -> Path:
    """Where the withdrawal log of a backup's district is: in the folder that the backup is in."""
    district = digest(canonical([facts.root, facts.institution, facts.bundle_id]))
    return backup.resolve().parent / f"withdrawals-{district[:12]}.json"


def write(folder: Path, path: Path) -> int:
    """Write what was withdrawn in FOLDER, served or not, and what a file that is there names already; how many."""
    facts = read_facts(folder)
    known = set(read(path, facts).withdrawn) if path.exists() else set[Withdrawn]()
    if (folder / LOG_FILE).exists():
        with contextlib.closing(open_log(folder)) as log:
            asked = (WITHDRAWN, EARLY) if log.database.one(HAS_EARLY) else (WITHDRAWN,)
            known |= {(update_id, device) for sql in asked for update_id, device in log.database.rows(sql)}
    said = WithdrawalList(
        institution=facts.institution,
        bundle_id=facts.bundle_id,
        certificate=facts.certificate,
        at=audit.timestamp(),
        withdrawn=tuple(sorted(known)),
    )
    signature = sign(read_key(folder / KEY_FILE), PURPOSE, msgspec.to_builtins(said))
    write_durable(path, canonical(SignedList(list=said, signature=signature)))
    return len(known)


def bring_up_to_date(folder: Path, backup: Path) -> None:
    """Write the file beside a backup that was just made; StoreError, the backup standing, where it cannot be."""
    path = path_beside(backup, read_facts(folder))
    try:
        write(folder, path)
    except HomeroomError as problem:
        says = f"the backup is made, but the withdrawal log beside it is not brought up to date: {problem.what}"
        remedy = f"move the file away, then `homeroom district unlearning list {quoted(folder)} {quoted(path)}`"
        raise StoreError(says, where=str(path), remedy=remedy) from None


def read(path: Path, facts: FolderFacts) -> KnownWithdrawals:
    """What a file names, its signature checked; InputError where it is of another district or bundle."""
    where = str(path)
    try:
        data = read_small(path, LIST_LIMIT_BYTES)
    except OSError as problem:
        raise InputError(f"cannot be read: {problem.strerror}", where=where) from None
    signed = decode(data, SignedList, limit_bytes=LIST_LIMIT_BYTES, where=where, error=InputError)
    check_certificate(signed.list.certificate, role="aggregator", root_fingerprint=facts.root, where=where)
    verify(signed.list.certificate.key, PURPOSE, msgspec.to_builtins(signed.list), signed.signature, where=where)
    if (signed.list.institution, signed.list.bundle_id) != (facts.institution, facts.bundle_id):
        says = f"is of {signed.list.institution} and bundle {signed.list.bundle_id[:12]}"
        raise InputError(says, where=where, remedy="name the file beside this district's backups")
    return KnownWithdrawals(path, signed.list.at, signed.list.withdrawn)


def known_to(backup: Path, named: Path | None) -> KnownWithdrawals:
    """What was withdrawn as a named file says, or the one beside a backup."""
    facts = read_facts(backup)
    path = named or path_beside(backup, facts)
    return read(path, facts) if named or path.exists() else KnownWithdrawals()
