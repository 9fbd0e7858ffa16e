"""Who may speak: nonces, invitation codes, the operator's token; imports the contracts and homeroom.http."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections import OrderedDict

NONCES = 65_536  # given out and not yet used; the oldest is dropped, its holder asks again


class Nonces:
    """One-time words in memory: after a restart every device is asked to sign again with a fresh one."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, None] = OrderedDict()

    def new(self) -> str:
        nonce = secrets.token_urlsafe(16)
        self._open[nonce] = None
        if len(self._open) > NONCES:
            self._open.popitem(last=False)
        return nonce

    def use(self, nonce: str) -> bool:
        """True the first time a nonce comes back."""
        return self._open.pop(nonce, self) is None


def new_code(secret: bytes) -> str:
    """An invitation's code: random, and genuine by its MAC, so that inviting needs no database."""
    random = secrets.token_bytes(18)
    return base64.urlsafe_b64encode(random + _mac(secret, random)).decode()


def genuine(secret: bytes, code: str) -> bool:
    try:
        raw = base64.urlsafe_b64decode(code.encode("ascii"))
    except (ValueError, UnicodeEncodeError):
        return False
    return len(raw) == 36 and hmac.compare_digest(raw[18:], _mac(secret, raw[:18]))


def spent(code: str) -> str:
    """How a used code is written down: its digest, so that the log tells nobody a code."""
    return hashlib.sha256(code.encode()).hexdigest()


def _mac(secret: bytes, random: bytes) -> bytes:
    return hmac.digest(secret, b"homeroom/invitation\n" + random, "sha256")[:18]


def operator(token: str | None, authorization: str | None, client: str | None) -> bool:
    """Whether a request is the operator's: from this machine, or with the token as `Authorization: Bearer …`.

    Behind a proxy every request seems to come from this machine; a token, once set, is therefore always asked for.
    """
    if token is None:
        return client in ("127.0.0.1", "::1")
    return hmac.compare_digest((authorization or "").encode(), f"Bearer {token}".encode())
