"""Invitation codes: random, checked by their MAC, used once."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets


def new_code(secret: bytes) -> str:
    """A new code with its MAC, so that a made-up one never reaches the database."""
    random = secrets.token_bytes(18)
    return base64.urlsafe_b64encode(random + _mac(secret, 2, random)).decode()


def code_generation(secret: bytes, code: str) -> int:
    """0 for a made-up code, 2 for one that is stored (`Members.invitation`), 1 for an older one that is not."""
    try:
        raw = base64.urlsafe_b64decode(code.encode("ascii"))
    except (ValueError, UnicodeEncodeError):
        return 0
    if len(raw) != 36:
        return 0
    return next((n for n in (2, 1) if hmac.compare_digest(raw[18:], _mac(secret, n, raw[:18]))), 0)


def code_digest(code: str) -> str:
    """SHA-256 of a code, hexadecimal: stored in its place, so that the log tells nobody a code."""
    return hashlib.sha256(code.encode()).hexdigest()


def _mac(secret: bytes, generation: int, random: bytes) -> bytes:
    label = b"homeroom/invitation\n" if generation == 1 else b"homeroom/invitation/2\n"
    return hmac.digest(secret, label + random, "sha256")[:18]
