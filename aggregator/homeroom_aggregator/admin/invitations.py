"""Invitations in bulk: from a number or a sheet to files, with a line of text and a QR code each.

A sheet (CSV, UTF-8) has a column `school` and may have `devices` (how many, 1), `role` and `consent` (who gave the
school's consent, where it was given on paper). It is read to its end before anything is written.
"""

from __future__ import annotations

import contextlib
import csv
import datetime
import difflib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import segno

from homeroom.contract.invitation import Invitation, as_text, is_invitation_text, read_invitation
from homeroom.contract.names import check_name
from homeroom.errors import InputError
from homeroom.system.clock import now
from homeroom.system.files import read_small, write_durable
from homeroom.system.html.render import render
from homeroom_aggregator.admin.folder import make_invitations, open_log
from homeroom_aggregator.admin.reach import invited
from homeroom_aggregator.state.members import ROLES, Members, Role
from homeroom_aggregator.state.one_time_codes import code_digest

PAGE_TEMPLATE = Path(__file__).parent / "invitations_page.html"
INVITATIONS_LIMIT = 10_000
SHEET_LIMIT_BYTES = 8 << 20
SLIP_RATIO = 0.9  # of equal characters in two names, above which one may be a slip
DISTRICT_ROLES = ("district", "auditor")  # a row of these may name no school
SHEET_COLUMNS = {"school", "devices", "role", "consent"}


@dataclass(frozen=True)
class InvitationRequest:
    """`count` invitations for a school. `consent`: who gave it, or "" where nobody has yet."""

    school: str = ""
    count: int = 1
    role: Role = "device"
    consent: str = ""


def read_sheet(path: Path) -> list[InvitationRequest]:
    """Every row, or one InputError that names every wrong cell by its row and column."""
    try:
        text = read_small(path, SHEET_LIMIT_BYTES).decode("utf-8-sig")
        reader = csv.DictReader(
            io.StringIO(text), delimiter=";" if ";" in text.partition("\n")[0] else ",", strict=True
        )
        rows, columns = list(reader), {str(name) for name in reader.fieldnames or ()}
    except (OSError, UnicodeDecodeError, csv.Error) as problem:
        raise InputError(f"cannot be read: {problem}", where=str(path), remedy="save it as CSV UTF-8") from None
    known = ", ".join(sorted(SHEET_COLUMNS))
    faults = [f"row 1: {name!r} is no column; there are {known}" for name in sorted(columns - SHEET_COLUMNS)]
    faults += [] if "school" in columns else ["row 1: there is no column school"]
    requests = [] if faults else [_request(row, number, faults) for number, row in enumerate(rows, 2)]
    if not requests and not faults:
        faults.append("there is no school in it")
    if faults:
        count = f"{len(faults)} mistakes" if len(faults) > 1 else "1 mistake"
        raise InputError(count, where=str(path), remedy="mend the sheet; nothing was written", details=faults)
    return requests


def _request(row: dict[str, str | None], number: int, faults: list[str]) -> InvitationRequest:
    """The request of row `number`; what is wrong in it goes to `faults`."""
    defaults = {"school": "", "devices": "1", "role": "device", "consent": ""}
    cells = {name: (row.get(name) or default).strip() for name, default in defaults.items()}

    def fault(column: str, says: str) -> None:
        faults.append(f"row {number}, column {column}: {says}")

    for name in ("school", "consent"):
        if cells[name] or (name == "school" and cells["role"] not in DISTRICT_ROLES):
            try:
                cells[name] = check_name(cells[name], name)
            except InputError as problem:
                fault(name, problem.what)
    if cells["role"] not in ROLES:
        fault("role", f"{cells['role'][:40]!r} is no role; there are {', '.join(ROLES)}")
    devices = cells["devices"]
    if not devices.isdecimal() or len(devices) > 9 or not 1 <= int(devices) <= INVITATIONS_LIMIT:
        fault("devices", f"{devices[:40]!r} is not a number of devices from 1 to {INVITATIONS_LIMIT:,}")
    if None in row:
        faults.append(f"row {number}: has more cells than there are columns")
    role = next((role for role in ROLES if role == cells["role"]), ROLES[0])
    return InvitationRequest(cells["school"], int(devices[:9]) if devices.isdecimal() else 0, role, cells["consent"])


def plan_files(
    requests: Sequence[InvitationRequest], out: Path, *, anew: bool = False
) -> list[tuple[InvitationRequest, Path]]:
    """The file of each invitation; InputError if one exists already, unless `anew`, or there are too many."""
    total = sum(request.count for request in requests)
    if total > INVITATIONS_LIMIT:
        raise InputError(f"{total:,} invitations at once", remedy=f"at most {INVITATIONS_LIMIT:,}")
    files: dict[Path, InvitationRequest] = {}
    for request in requests:
        officer = request.role if request.role in DISTRICT_ROLES else "invitation"
        stem = re.sub(r"\W+", "-", request.school).strip("-") or officer
        for number in range(1, request.count + 1):
            path = out / (f"{stem}.json" if total == 1 or request.count == 1 else f"{stem}-{number}.json")
            while path in files:
                path = path.with_name(f"{path.stem}-{number}.json")
            files[path] = request
            if path.exists() and not anew:
                raise InputError("is there already", where=str(path), remedy="move it away, or choose another --out")
    return [(request, path) for path, request in files.items()]


def slips(folder: Path, requests: Sequence[InvitationRequest]) -> list[str]:
    """A sentence for each new school whose name is nearly that of another: it may be a slip."""
    with contextlib.closing(open_log(folder)) as log:
        known = Members(log.database).school_names()
    wanted = dict.fromkeys(request.school for request in requests if request.school)
    sentences = []
    for school in wanted:
        others = {name.casefold(): name for name in (*known, *wanted) if name != school}
        near = difflib.get_close_matches(school.casefold(), others, 1, SLIP_RATIO)
        if school not in known and near:
            sentences.append(f"{school} is a new school: is it {others[near[0]]}?")
    return sentences


def write_invitations(
    folder: Path,
    address: str,
    planned: Sequence[tuple[InvitationRequest, Path]],
    days: float,
    qr: bool,
    page: Path | None = None,
) -> None:
    """Write the files of invitations, and record all of them in the aggregator's log.

    folder: the aggregator's. address: of its server.
    planned: a request and a file for each invitation (`plan_files`).
    days: until they expire. qr: write a line of text and a QR code beside each.
    page: a file for all of them to print, or None.
    Files are written before the codes are durable, so that no code counts whose file is missing.
    """
    expires = (now() + datetime.timedelta(days=days)).replace(microsecond=0).isoformat()
    rows = [(request.school, request.role) for request, _ in planned]
    consents = {request.school: request.consent for request, _ in planned if request.consent}

    def write(invitations: Sequence[Invitation]) -> None:
        for invitation, (_, path) in zip(invitations, planned, strict=True):
            _write(invitation, path, qr)
        if page:
            pairs = zip(invitations, planned, strict=True)
            cards = [InvitationCard(one, path.name, request.role) for one, (request, path) in pairs]
            write_durable(page, render(PAGE_TEMPLATE, cards=cards).encode())

    make_invitations(folder, address, rows, expires, consents, pin=invited(folder, address), write=write)


@dataclass(frozen=True)
class InvitationCard:
    """An invitation on the page to print. `file`: its file's name."""

    invitation: Invitation
    file: str
    role: Role

    @property
    def line(self) -> str:
        """The invitation as one line of text."""
        return as_text(self.invitation)

    @property
    def picture(self) -> str:
        """The line's QR code as a data URI."""
        return segno.make(self.line, error="l", micro=False).svg_data_uri(scale=3, border=4)


def _write(invitation: Invitation, path: Path, qr: bool) -> None:
    write_durable(path, msgspec.json.format(msgspec.json.encode(invitation), indent=1))
    if qr:
        line, picture = as_text(invitation), io.BytesIO()
        segno.make(line, error="l", micro=False).save(picture, kind="svg", scale=3)
        write_durable(path.with_suffix(".txt"), (line + "\n").encode())
        write_durable(path.with_suffix(".svg"), picture.getvalue())


def digest_beginning(source: str) -> str:
    """What an invitation is listed by, of its file, its line of text, or that itself."""
    if is_invitation_text(source) or Path(source).is_file():
        return code_digest(read_invitation(source).code)
    return source
