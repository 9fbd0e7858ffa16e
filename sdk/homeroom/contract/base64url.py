"""Base64url (RFC 4648, section 5) of which there is one spelling: what a code or a line says has no second form."""

from __future__ import annotations

import base64


def encode(data: bytes) -> str:
    """The text of some bytes, padded."""
    return base64.urlsafe_b64encode(data).decode()


def decode(text: str) -> bytes:
    """The bytes of a text; ValueError unless `encode` gives that very text: no space, no other padding or alphabet."""
    data = base64.b64decode(text.encode("ascii"), altchars=b"-_", validate=True)
    if encode(data) != text:
        raise ValueError("not canonical base64url")
    return data
