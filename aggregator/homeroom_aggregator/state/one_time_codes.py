"""One-time codes: random, with a MAC, so that a made-up one never reaches the database; stored by their digest."""

from __future__ import annotations

import hashlib
import hmac
import secrets

from homeroom.contract import base64url

# What a code is for, in its MAC. `UNSTORED_INVITATION`: of before invitations were stored.
INVITATION, UNSTORED_INVITATION = b"homeroom/invitation/2\n", b"homeroom/invitation\n"
LOGIN_LINK = b"homeroom/dashboard\n"


def new_code(secret: bytes, purpose: bytes) -> str:
    """A new code."""
    random = secrets.token_bytes(18)
    return base64url.encode(random + _mac(secret, purpose, random))


def is_genuine(secret: bytes, purpose: bytes, code: str) -> bool:
    """Whether a code was made here for this purpose."""
    try:
        raw = base64url.decode(code)
    except ValueError:
        return False
    return len(raw) == 36 and hmac.compare_digest(raw[18:], _mac(secret, purpose, raw[:18]))


def code_digest(code: str) -> str:
    """SHA-256 of a code, hexadecimal: stored in its place, so that the log tells nobody a code."""
    return hashlib.sha256(code.encode()).hexdigest()


def _mac(secret: bytes, purpose: bytes, random: bytes) -> bytes:
    return hmac.digest(secret, purpose + random, "sha256")[:18]
