"""Primitives of secure aggregation: X25519 (RFC 7748), HKDF (RFC 5869), ChaCha20-Poly1305 (RFC 8439), Shamir's shares.

Shamir's scheme over GF(2^128) comes from `pycryptodome` (the extra `secure`), the others from `cryptography`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from homeroom.errors import MissingExtraError, TrustError
from homeroom.system.installation import how_to_install

SEED_BYTES = 16  # 128 bits, the strength of X25519 and of AES-128; one element for Shamir's scheme


def derive(secret: bytes, info: bytes, length: int, salt: bytes | None = None) -> bytes:
    """HKDF-SHA-256 (RFC 5869), extract and expand: `length` bytes."""
    return HKDF(SHA256(), length, salt, info).derive(secret)


def private_key(seed: bytes, info: bytes) -> X25519PrivateKey:
    """The X25519 key of a seed of 16 bytes, which one secret-shared element recovers."""
    return X25519PrivateKey.from_private_bytes(derive(seed, b"homeroom/x25519/" + info, 32))


def agree(own: X25519PrivateKey, other: bytes, info: bytes, length: int) -> bytes:
    """The shared key of `length` bytes for one purpose (`info`); TrustError for a public key of low order."""
    try:
        secret = own.exchange(X25519PublicKey.from_public_bytes(other))
    except ValueError:
        raise TrustError("a device's key is not one that can be agreed with", where="secure round") from None
    return derive(secret, info, length)


def seal(key: bytes, plain: bytes, associated_data: bytes) -> bytes:
    """A fresh nonce and the ciphertext, authenticated with the associated data."""
    nonce = os.urandom(12)
    return nonce + ChaCha20Poly1305(key).encrypt(nonce, plain, associated_data)


def unseal(key: bytes, sealed: bytes, associated_data: bytes) -> bytes:
    """The plain text; TrustError if it was altered, or sealed for another round, sender or receiver."""
    try:
        return ChaCha20Poly1305(key).decrypt(sealed[:12], sealed[12:], associated_data)
    except InvalidTag:
        raise TrustError(
            "a sealed share does not open: it was altered, or is of another round or device", where="secure round"
        ) from None


def check_shares() -> None:
    """Raises MissingExtraError where shares cannot be made here, before anything of a round is stored or sent."""
    _shamir()


def split(secret: bytes, threshold: int, count: int) -> list[bytes]:
    """Shares 1 to `count`, of 16 bytes; any `threshold` of them recover the secret (Shamir 1979)."""
    return [share for _, share in _shamir().split(threshold, count, secret)]


def combine(shares: Sequence[tuple[int, bytes]]) -> bytes:
    """The secret of numbered shares, exactly as many as its threshold; a wrong share gives another secret."""
    secret: bytes = _shamir().combine(list(shares))
    return secret


def _shamir() -> Any:
    try:
        from Crypto.Protocol.SecretSharing import Shamir
    except ImportError:
        raise MissingExtraError("secure rounds need Shamir's shares", remedy=how_to_install("secure")) from None
    return Shamir
