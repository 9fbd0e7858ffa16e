"""Invitation: the aggregator's address, the root to trust, and a code that enrols one device once.

A JSON file, or one line of text to paste or scan: `homeroom:` and the same JSON in base64url (RFC 4648, section 5).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from homeroom.contract import base64url
from homeroom.contract.address import Address, Pin
from homeroom.contract.canonical_json import decode
from homeroom.contract.manifest import Hash
from homeroom.contract.sealed_box import seal, unseal
from homeroom.errors import InputError, TrustError
from homeroom.system.files import read_bounded

INVITATION_FORMAT = 1
INVITATION_PREFIX = "homeroom:"
SEALED_CODE_PREFIX = "sealed:"
INVITATION_LIMIT_BYTES = 1 << 16


class Invitation(msgspec.Struct, frozen=True, kw_only=True):
    """An invitation.

    address: the aggregator's base URL.
    root: fingerprint of the institution's root key.
    school: the school that the device belongs to, or "".
    expires: by the server's clock, for people to read.
    pin: of the server's TLS key, which alone is then trusted; "" where the system's authorities vouch for it.
    """

    format: int = INVITATION_FORMAT
    address: Address
    root: Hash
    code: Annotated[str, msgspec.Meta(min_length=16, max_length=128)]
    institution: str
    bundle_id: Hash
    school: str = ""
    expires: str = ""
    pin: Pin = ""


def is_invitation_text(source: str) -> bool:
    """Whether a text is an invitation itself, in either form, and not the path of its file."""
    return source.lstrip().startswith((INVITATION_PREFIX, "{"))


def read_invitation(source: str | Path) -> Invitation:
    """Reads an invitation in either form, from a file or as the text itself; InputError if it is none."""
    where, data = "invitation", str(source).encode(errors="replace")
    if not is_invitation_text(str(source)):
        where = str(source)
        try:
            data = read_bounded(Path(source), 2 * INVITATION_LIMIT_BYTES)
        except OSError as problem:
            raise InputError(f"cannot be read: {problem.strerror}", where=where) from None
    data = data.strip()
    if data.startswith(INVITATION_PREFIX.encode()):
        try:
            data = base64url.decode(data.decode().removeprefix(INVITATION_PREFIX))
        except ValueError:
            raise InputError("is cut short or mistyped", where=where, remedy="copy the whole line") from None
    invitation = decode(data, Invitation, limit_bytes=INVITATION_LIMIT_BYTES, where=where, error=InputError)
    if invitation.format != INVITATION_FORMAT:
        raise InputError(f"is of format {invitation.format}", where=where, remedy="update homeroom")
    return invitation


def as_text(invitation: Invitation) -> str:
    """The invitation as one line of text, without defaults, so that its QR code stays small."""
    defaults = {f.name: f.default for f in msgspec.structs.fields(Invitation)}
    document = {n: v for n, v in msgspec.to_builtins(invitation).items() if v != defaults[n]}
    return INVITATION_PREFIX + base64url.encode(msgspec.json.encode(document))


class Enrolment(msgspec.Struct, frozen=True, kw_only=True):
    """The aggregator a device joined; `root` is the trusted fingerprint, `pin` as in the invitation."""

    address: str
    root: Hash
    institution: str
    bundle_id: Hash
    pin: Pin = ""


def enrolment_of(invitation: Invitation) -> Enrolment:
    """The enrolment that an invitation leads to."""
    return msgspec.convert(invitation, Enrolment, from_attributes=True)


def seal_code(code: str, device: str, receiver: str) -> str:
    """A code as it travels: sealed to the aggregator with the key that it enrols, so that no listener can spend it.

    device: public signing key of the device, hexadecimal.
    receiver: the aggregator's X25519 public key, hexadecimal.
    """
    return SEALED_CODE_PREFIX + seal(f"{code} {device}".encode(), receiver, "code").hex()


def open_code(text: str, device: str, key: X25519PrivateKey) -> str:
    """The code in a text of `seal_code`, or as it is from a device of 0.1.0; TrustError if it is another device's."""
    if not text.startswith(SEALED_CODE_PREFIX):
        return text
    try:
        plain = unseal(bytes.fromhex(text.removeprefix(SEALED_CODE_PREFIX)), key, "code", where="invitation").decode()
    except ValueError:
        raise TrustError("the code is cut short or altered", where="invitation") from None
    code, _, owner = plain.partition(" ")
    if owner != device:
        raise TrustError("the code was sealed by another device", where="invitation")
    return code
