"""Unlearning report: what was withdrawn, what became void with it, who goes on from there; signed, and checked."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import msgspec

from homeroom.contract.canonical_json import canonical, decode, digest
from homeroom.contract.signing import Certificate, check_certificate, read_key, sign, verify
from homeroom.errors import InputError
from homeroom.system.sqlite import Database
from homeroom_aggregator.admin.folder import KEY_FILE, open_log, read_facts
from homeroom_aggregator.state import audit, rewinds, secure_sum

PURPOSE = "unlearning"
VOID_SUMS = "SELECT number FROM log JOIN bodies USING (number) WHERE kind = 'secure' AND length(body) > 0"
REPORT_LIMIT_BYTES = 16 << 20


class RewindRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One rewind, which made `version` of version `to`, at a time, UTC, ISO 8601, by a person ("": its day had come).

    void: the first and the last void version. void_updates: that went beside those unlearned.
    unlearned: ids of the updates, and the first key of the device that each was of.
    log_sha256: of the log's rows up to the rewind, without their bytes.
    audit_sha256: the digest of the audit log's chain at the rewind.
    confirmed: first keys of the devices that have sent an update since, or are in a sum since.
    """

    version: int
    to: int
    void: tuple[int, int]
    at: str
    by: str
    why: str
    unlearned: tuple[tuple[str, str], ...]
    void_updates: int
    log_sha256: str
    audit_sha256: str
    confirmed: tuple[str, ...]


class UnlearningReport(msgspec.Struct, frozen=True, kw_only=True):
    """All rewinds of a district; `waiting`: ids of updates that are still to be unlearned."""

    format: int = 1
    institution: str
    bundle_id: str
    certificate: Certificate
    rewinds: tuple[RewindRecord, ...]
    waiting: tuple[str, ...] = ()


class SignedReport(msgspec.Struct, frozen=True, kw_only=True):
    """A report and the aggregator's signature over its canonical JSON."""

    report: UnlearningReport
    signature: str


def make_report(folder: Path) -> bytes:
    """The signed report of a folder, canonical JSON; while it serves or not."""
    report = _report(folder)
    signature = sign(read_key(folder / KEY_FILE), PURPOSE, msgspec.to_builtins(report))
    return canonical(SignedReport(report=report, signature=signature))


def check_report(data: bytes, folder: Path) -> list[str]:
    """What a report says otherwise than a folder's log and audit log, a sentence each; empty where all holds.

    What a device has sent since a rewind is not asked of a report that a later rewind came after: that may be void.
    Raises InputError where it is no report, TrustError where the folder's district did not sign it.
    """
    told = _read(data, folder)
    later = bool(rewinds_since(data, folder))
    here, problems = {one.version: one for one in _report(folder).rewinds}, list[str]()
    for one in told.rewinds:
        found = here.get(one.version)
        if found is None:
            problems.append(f"no rewind made version {one.version} here")
        elif msgspec.structs.replace(found, confirmed=()) != msgspec.structs.replace(one, confirmed=()):
            problems.append(f"the rewind that made version {one.version} was another one, or its log was changed")
        elif not later and (gone := sorted(set(one.confirmed) - set(found.confirmed))):
            problems.append(f"device {gone[0][:8]} has sent nothing since version {one.version}")
    with contextlib.closing(open_log(folder)) as log:
        problems += [f"the audit log is damaged: {wrong}" for wrong in filter(None, [audit.verify(log.database)[2]])]
        problems += _bytes_left(log.database)
    return problems


def rewinds_since(data: bytes, folder: Path) -> list[int]:
    """The versions that rewinds made since a report; raises as `check_report`."""
    told = {one.version for one in _read(data, folder).rewinds}
    newest = max(told, default=0)
    return [one.version for one in _report(folder).rewinds if one.version not in told and one.version > newest]


def _read(data: bytes, folder: Path) -> UnlearningReport:
    where, facts = "unlearning report", read_facts(folder)
    signed = decode(data, SignedReport, limit_bytes=REPORT_LIMIT_BYTES, where=where, error=InputError)
    check_certificate(signed.report.certificate, role="aggregator", root_fingerprint=facts.root, where=where)
    verify(signed.report.certificate.key, PURPOSE, msgspec.to_builtins(signed.report), signed.signature, where=where)
    return signed.report


def _report(folder: Path) -> UnlearningReport:
    facts = read_facts(folder)
    with contextlib.closing(open_log(folder)) as log:
        database = log.database
        rewound = {e.about["version"]: e for e in audit.records(database) if e.event == "rewound"}
        made, since = list[RewindRecord](), 0
        for one in rewinds.rewinds(database):
            if (entry := rewound.get(one.version)) is not None:
                made.append(_record(database, one, since, entry))
            since = max(since, one.entry)
        left = _asked(database, since, 1 << 62)
    return UnlearningReport(
        institution=facts.institution,
        bundle_id=facts.bundle_id,
        certificate=facts.certificate,
        rewinds=tuple(made),
        waiting=tuple(update_id for update_id, _ in left),
    )


def _record(database: Database, one: rewinds.Rewind, since: int, entry: audit.AuditRecord) -> RewindRecord:
    sql = f"""SELECT DISTINCT device FROM log WHERE kind = 'update' AND number > ? AND {rewinds.not_void(database)}"""
    since_then = {device for (device,) in database.rows(sql, (one.entry,))}
    for header in secure_sum.headers(database, one.entry, 1 << 62):
        since_then |= {member for members in header.fed.values() for member in members}
    return RewindRecord(
        version=one.version,
        to=one.to,
        void=(one.to + 1, one.version - 1),
        at=entry.at,
        by=entry.about.get("by", ""),
        why=entry.about.get("why", ""),
        unlearned=tuple(_asked(database, since, one.entry)),
        void_updates=entry.about["void"],
        log_sha256=_digest(database, one.entry),
        audit_sha256=entry.digest,
        confirmed=tuple(sorted(since_then)),
    )


def _asked(database: Database, after: int, until: int) -> list[tuple[str, str]]:
    """The updates whose unlearning was asked for between two entries, and whose they were."""
    sql = "SELECT update_id, device FROM log WHERE kind = 'unlearn' AND number > ? AND number < ? ORDER BY number"
    return [(update_id, device) for update_id, device in database.rows(sql, (after, until))]


def _digest(database: Database, until: int) -> str:
    """Of the log's rows up to an entry."""
    sql = """SELECT number, kind, COALESCE(update_id, ''), COALESCE(device, ''), version FROM log
             WHERE number <= ? ORDER BY number"""
    rows: list[list[Any]] = [list(row) for row in database.rows(sql, (until,))]
    return digest(canonical(rows))


def _bytes_left(database: Database) -> list[str]:
    """A sentence for each update that was unlearned and whose bytes are in the log all the same."""
    sql = f"""SELECT came.update_id FROM log AS came JOIN bodies USING (number)
              JOIN log AS gone ON gone.update_id = came.update_id AND gone.kind = 'unlearn'
              WHERE came.kind = 'update' AND length(body) > 0
              AND came.number NOT IN (SELECT number FROM log WHERE {rewinds.not_void(database)})"""
    found = [f"the bytes of update {update_id[:8]} are in the log still" for (update_id,) in database.rows(sql)]
    sums = (number for (number,) in database.rows(VOID_SUMS) if rewinds.is_void(database, number))
    return found + [f"the secure sum of entry {number} is void, and its bytes are in the log still" for number in sums]
