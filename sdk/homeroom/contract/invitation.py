"""Invitation: the aggregator's address, the root to trust, and a code that enrols one device once.

A JSON file, or one line of text to paste or scan: `homeroom:` and the same JSON in base64url (RFC 4648, section 5).
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Annotated

import msgspec

from homeroom.contract.canonical_json import decode
from homeroom.contract.manifest import Hash
from homeroom.errors import InputError
from homeroom.system.files import read_bounded

INVITATION_FORMAT = 1
INVITATION_PREFIX = b"homeroom:"
INVITATION_LIMIT_BYTES = 1 << 16


class Invitation(msgspec.Struct, frozen=True, kw_only=True):
    """An invitation.

    address: the aggregator's base URL.
    root: fingerprint of the institution's root key.
    school: the school that the device belongs to, or "".
    expires: by the server's clock, for people to read.
    """

    format: int = INVITATION_FORMAT
    address: Annotated[str, msgspec.Meta(pattern=r"^https?://[^\s/]+$")]
    root: Hash
    code: Annotated[str, msgspec.Meta(min_length=16, max_length=128)]
    institution: str
    bundle_id: Hash
    school: str = ""
    expires: str = ""


def read_invitation(path: Path) -> Invitation:
    """Reads an invitation in either form; InputError if it is none."""
    try:
        data = read_bounded(path, 2 * INVITATION_LIMIT_BYTES)
    except OSError as problem:
        raise InputError(f"cannot be read: {problem.strerror}", where=str(path)) from None
    data = data.strip()
    if data.startswith(INVITATION_PREFIX):
        try:
            data = base64.urlsafe_b64decode(data.removeprefix(INVITATION_PREFIX)[:INVITATION_LIMIT_BYTES])
        except ValueError:
            raise InputError("is cut short or mistyped", where=str(path), remedy="copy the whole line") from None
    return decode(data, Invitation, limit_bytes=INVITATION_LIMIT_BYTES, where=str(path), error=InputError)


def as_text(invitation: Invitation) -> str:
    """The invitation as one line of text, without defaults, so that its QR code stays small."""
    defaults = {f.name: f.default for f in msgspec.structs.fields(Invitation)}
    document = {n: v for n, v in msgspec.to_builtins(invitation).items() if v != defaults[n]}
    return (INVITATION_PREFIX + base64.urlsafe_b64encode(msgspec.json.encode(document))).decode()


class Enrolment(msgspec.Struct, frozen=True, kw_only=True):
    """The aggregator a device joined; `root` is the trusted fingerprint."""

    address: str
    root: Hash
    institution: str
    bundle_id: Hash


def enrolment_of(invitation: Invitation) -> Enrolment:
    """The enrolment that an invitation leads to."""
    return msgspec.convert(invitation, Enrolment, from_attributes=True)
