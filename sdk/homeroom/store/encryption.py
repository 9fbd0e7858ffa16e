"""Encryption at rest and where the master key lives; imports errors, durable and machine.

Everything is sealed with ChaCha20-Poly1305 (RFC 8439; a Raspberry Pi has no AES instructions) under a random nonce,
with the place it belongs to as associated data, so that rows cannot be swapped. The master key stays outside the
device's directory, in a *ring* that can hold the next key beside the present one while a `forget` is under way.
"""

from __future__ import annotations

import hmac
import secrets
from hashlib import sha256

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from homeroom.errors import StoreError

KEY_BYTES, NONCE_BYTES = 32, 12


class BrokenSealError(StoreError):
    """A sealed value was altered, moved, or sealed with another key; the next opening repairs it."""

    def __init__(self, place: str) -> None:
        super().__init__(f"{place} does not open: it was altered", remedy="open the directory again to repair it")


class Cipher:
    """One data key. `place` names table, column and row; a value opens only where it was sealed."""

    def __init__(self, key: bytes) -> None:
        self.key = key
        self._aead = ChaCha20Poly1305(key)
        self._index_key = hmac.digest(key, b"homeroom/index", "sha256")

    def seal(self, plain: bytes, *place: str | int) -> bytes:
        nonce = secrets.token_bytes(NONCE_BYTES)
        return nonce + self._aead.encrypt(nonce, plain, _place(place))

    def open(self, sealed: bytes, *place: str | int) -> bytes:
        try:
            return self._aead.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], _place(place))
        except (InvalidTag, ValueError, TypeError):
            raise BrokenSealError("|".join(map(str, place))) from None

    def holds(self, sealed: bytes | None, *place: str | int) -> bool:
        """Whether a value was sealed here, for this place, and not altered since; nothing (None) holds."""
        try:
            if sealed is not None:
                self.open(sealed, *place)
        except BrokenSealError:
            return False
        return True

    def index(self, *parts: str | bytes) -> bytes:
        """A keyed digest, 16 bytes, by which a value can be found again without being readable."""
        message = b"\0".join(sha256(p.encode() if isinstance(p, str) else p).digest() for p in parts)
        return hmac.digest(self._index_key, message, "sha256")[:16]


def seal_twice(outer: Cipher, inner: Cipher, plain: bytes, *place: str | int) -> bytes:
    """Readable only with both keys: destroying either destroys the value."""
    return outer.seal(inner.seal(plain, *place), *place)


def open_twice(outer: Cipher, inner: Cipher, sealed: bytes, *place: str | int) -> bytes:
    return inner.open(outer.open(sealed, *place), *place)


def new_key() -> bytes:
    return secrets.token_bytes(KEY_BYTES)


def _place(parts: tuple[str | int, ...]) -> bytes:
    return "|".join(map(str, ("homeroom", *parts))).encode()
