"""Encryption at rest: every value is sealed with ChaCha20-Poly1305 (RFC 8439) under a random nonce.

A Raspberry Pi has no AES instructions. Table, column and row are the associated data, so that rows cannot be swapped.
"""

from __future__ import annotations

import hmac
import secrets
from hashlib import sha256

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from homeroom.errors import BrokenSealError

KEY_BYTES, NONCE_BYTES = 32, 12
INDEX_BYTES = 16


class Cipher:
    """One key of 32 bytes. The associated data name table, column and row: a value opens only where it was sealed."""

    def __init__(self, key: bytes) -> None:
        self.key = key
        self._aead = ChaCha20Poly1305(key)
        self._index_key = hmac.digest(key, b"homeroom/index", "sha256")

    def seal(self, plain: bytes, *associated_data: str | int) -> bytes:
        """The nonce, and the encrypted value with its tag."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        return nonce + self._aead.encrypt(nonce, plain, _encode(associated_data))

    def open(self, sealed: bytes, *associated_data: str | int) -> bytes:
        """The value; BrokenSealError if it was altered, moved, or sealed with another key."""
        try:
            return self._aead.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], _encode(associated_data))
        except (InvalidTag, ValueError, TypeError):
            raise BrokenSealError("|".join(map(str, associated_data))) from None

    def holds(self, sealed: bytes | None, *associated_data: str | int) -> bool:
        """Whether a value opens; nothing (None) does."""
        try:
            if sealed is not None:
                self.open(sealed, *associated_data)
        except BrokenSealError:
            return False
        return True

    def index(self, *parts: str | bytes) -> bytes:
        """A keyed digest (HMAC-SHA256, 16 bytes) by which a value is found again without being readable."""
        return self.index_of_digests(*(sha256(p.encode() if isinstance(p, str) else p).digest() for p in parts))

    def index_of_digests(self, *digests: bytes) -> bytes:
        """The same, of parts whose SHA-256 is known."""
        return hmac.digest(self._index_key, b"\0".join(digests), "sha256")[:INDEX_BYTES]


def seal_twice(outer: Cipher, inner: Cipher, plain: bytes, *associated_data: str | int) -> bytes:
    """Readable only with both keys: destroying either destroys the value."""
    return outer.seal(inner.seal(plain, *associated_data), *associated_data)


def open_twice(outer: Cipher, inner: Cipher, sealed: bytes, *associated_data: str | int) -> bytes:
    """The value that `seal_twice` sealed."""
    return inner.open(outer.open(sealed, *associated_data), *associated_data)


def new_key() -> bytes:
    """32 random bytes."""
    return secrets.token_bytes(KEY_BYTES)


def _encode(associated_data: tuple[str | int, ...]) -> bytes:
    return "|".join(map(str, ("homeroom", *associated_data))).encode()
