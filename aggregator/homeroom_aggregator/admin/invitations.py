"""Invitations in bulk: from a number or a sheet to files, with a line of text and a QR code each.

A sheet (CSV, UTF-8) has a column `school` and may have `devices` (how many, 1), `role` and `consent` (who gave the
school's consent, where it was given on paper). It is read to its end before anything is written.
"""

from __future__ import annotations

import csv
import datetime
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import segno

from homeroom.contract.invitation import Invitation, as_text
from homeroom.errors import InputError
from homeroom.system.clock import now
from homeroom.system.files import write_durable
from homeroom_aggregator.admin.folder import make_invitations
from homeroom_aggregator.state.members import ROLES, Role

INVITATIONS_LIMIT = 10_000
SHEET_COLUMNS = {"school", "devices", "role", "consent"}


@dataclass(frozen=True)
class InvitationRequest:
    """`count` invitations for a school. `consent`: who gave it, or "" where nobody has yet."""

    school: str = ""
    count: int = 1
    role: Role = "device"
    consent: str = ""


def read_sheet(path: Path) -> list[InvitationRequest]:
    """Every row, or one InputError that names the first wrong one."""
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text("utf-8-sig"))))
    except (OSError, UnicodeDecodeError, csv.Error) as problem:
        raise InputError(f"cannot be read: {problem}", where=str(path)) from None
    return [_request(row, f"{path}:{line}") for line, row in enumerate(rows, 2)]


def _request(row: dict[str, str | None], where: str) -> InvitationRequest:
    if unknown := {str(name) for name in row} - SHEET_COLUMNS:
        raise InputError(f"unknown column {sorted(unknown)[0]!r}", where=where, remedy=", ".join(sorted(SHEET_COLUMNS)))
    school, role, count = ((row.get(n) or d).strip() for n, d in (("school", ""), ("role", "device"), ("devices", "1")))
    if not school or len(school) > 200:
        raise InputError("needs a school's name (200 characters)", where=where)
    if role not in ROLES:
        raise InputError(f"{role!r} is no role", where=where, remedy=", ".join(ROLES))
    if not count.isdecimal() or not 1 <= int(count) <= INVITATIONS_LIMIT:
        raise InputError(f"{count!r} is not a number of devices from 1 to {INVITATIONS_LIMIT:,}", where=where)
    return InvitationRequest(
        school, int(count), next(r for r in ROLES if r == role), (row.get("consent") or "").strip()
    )


def plan_files(requests: Sequence[InvitationRequest], out: Path) -> list[tuple[InvitationRequest, Path]]:
    """The file of each invitation; InputError if one exists already, or there are too many."""
    total = sum(request.count for request in requests)
    if total > INVITATIONS_LIMIT:
        raise InputError(f"{total:,} invitations at once", remedy=f"at most {INVITATIONS_LIMIT:,}")
    files: dict[Path, InvitationRequest] = {}
    for request in requests:
        stem = re.sub(r"\W+", "-", request.school).strip("-") or "invitation"
        for number in range(1, request.count + 1):
            path = out / (f"{stem}.json" if total == 1 or request.count == 1 else f"{stem}-{number}.json")
            while path in files:
                path = path.with_name(f"{path.stem}-{number}.json")
            files[path] = request
            if path.exists():
                raise InputError("is there already", where=str(path), remedy="move it away, or choose another --out")
    return [(request, path) for path, request in files.items()]


def write_invitations(
    folder: Path, address: str, planned: Sequence[tuple[InvitationRequest, Path]], days: float | None, qr: bool
) -> None:
    """Record every invitation in the aggregator's log, then write the files.

    folder: the aggregator's. address: of its server.
    planned: a request and a file for each invitation (`plan_files`).
    days: until they expire, or None. qr: write a line of text and a QR code beside each.
    """
    expires = (now() + datetime.timedelta(days=days)).replace(microsecond=0).isoformat() if days else None
    rows = [(request.school, request.role) for request, _ in planned]
    consents = {request.school: request.consent for request, _ in planned if request.consent}
    invitations = make_invitations(folder, address, rows, expires, consents)
    for invitation, (_, path) in zip(invitations, planned, strict=True):
        _write(invitation, path, qr)


def _write(invitation: Invitation, path: Path, qr: bool) -> None:
    write_durable(path, msgspec.json.format(msgspec.json.encode(invitation), indent=1))
    if qr:
        line, picture = as_text(invitation), io.BytesIO()
        segno.make(line, error="l", micro=False).save(picture, kind="svg", scale=3)
        write_durable(path.with_suffix(".txt"), (line + "\n").encode())
        write_durable(path.with_suffix(".svg"), picture.getvalue())
