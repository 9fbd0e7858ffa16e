"""An invitation: where the aggregator is, whom to trust, and a code that enrols one device once.

A JSON file, or one line of text that people may paste or scan: `homeroom:` and the same JSON as base64 (RFC 4648, URL).
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Annotated

import msgspec

from homeroom.contract.canonical_json import decode
from homeroom.contract.manifest import Hash
from homeroom.errors import InputError

INVITATION_FORMAT = 1
INVITATION_PREFIX = b"homeroom:"
INVITATION_LIMIT_BYTES = 1 << 16


class Invitation(msgspec.Struct, frozen=True, kw_only=True):
    """`address` is the aggregator's base URL; `root` the fingerprint of the institution's root key.

    school: whose device it is for, if that was said.
    """

    format: int = INVITATION_FORMAT
    address: Annotated[str, msgspec.Meta(pattern=r"^https?://[^\s/]+$")]
    root: Hash
    code: Annotated[str, msgspec.Meta(min_length=16, max_length=128)]
    institution: str
    bundle_id: Hash
    school: str = ""
    expires: str = ""  # by the server's clock, for people to read


def read_invitation(path: Path) -> Invitation:
    try:
        data = path.read_bytes()
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
    """The one line; defaults are left out, so that its QR code stays small."""
    known = {f.name: f.default for f in msgspec.structs.fields(Invitation)}
    document = {n: v for n, v in msgspec.to_builtins(invitation).items() if v != known[n]}
    return (INVITATION_PREFIX + base64.urlsafe_b64encode(msgspec.json.encode(document))).decode()
