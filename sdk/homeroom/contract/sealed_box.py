"""Sealed box: public-key encryption to one receiver.

X25519 with an ephemeral sender key (RFC 7748), HKDF-SHA256 (RFC 5869), ChaCha20-Poly1305 (RFC 8439):

    8 bytes    HRSEALD1
    32 bytes   ephemeral public key
    rest       ciphertext and tag, under nonce 0, since no key seals twice

The associated data are the magic, both public keys and the purpose. A box does not authenticate its sender: its
content is signed.
"""

from __future__ import annotations

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from homeroom.contract.manifest import Hash
from homeroom.contract.signing import Certificate, check_certificate, sign, verify
from homeroom.errors import TrustError

SEALED_BOX_MAGIC = b"HRSEALD1"
SEALED_OVERHEAD_BYTES = len(SEALED_BOX_MAGIC) + 32 + 16
ZERO_NONCE = bytes(12)


class SealingKey(msgspec.Struct, frozen=True, kw_only=True):
    """The aggregator's X25519 public key (hexadecimal), signed by its certified key."""

    key: Hash
    certificate: Certificate
    signature: str


def sealing_key(key: X25519PrivateKey, signer: Ed25519PrivateKey, certificate: Certificate) -> SealingKey:
    """Signs the public half of an X25519 key."""
    public = public_hex(key)
    return SealingKey(key=public, certificate=certificate, signature=sign(signer, "sealing", {"key": public}))


def check_sealing_key(sealing: SealingKey, *, root_fingerprint: str, where: str) -> str:
    """The X25519 public key, hexadecimal; TrustError unless an aggregator certified by the root signed it."""
    check_certificate(sealing.certificate, role="aggregator", root_fingerprint=root_fingerprint, where=where)
    verify(sealing.certificate.key, "sealing", {"key": sealing.key}, sealing.signature, where=where)
    return sealing.key


def public_hex(key: X25519PrivateKey) -> str:
    """The public half, 64 hexadecimal digits."""
    return key.public_key().public_bytes_raw().hex()


def seal(plain: bytes, receiver: str, purpose: str) -> bytes:
    """Encrypts to `receiver`, an X25519 public key (hexadecimal), for one purpose; TrustError for an unusable key."""
    ephemeral = X25519PrivateKey.generate()
    public = ephemeral.public_key().public_bytes_raw()
    try:
        shared = ephemeral.exchange(X25519PublicKey.from_public_bytes(bytes.fromhex(receiver)))
    except ValueError:
        raise TrustError("is no key that anything can be sealed to", where="receiver") from None
    key, associated_data = _derive(shared, public, bytes.fromhex(receiver), purpose)
    return SEALED_BOX_MAGIC + public + ChaCha20Poly1305(key).encrypt(ZERO_NONCE, plain, associated_data)


def unseal(data: bytes, key: X25519PrivateKey, purpose: str, *, where: str) -> bytes:
    """Decrypts a box; TrustError if it is cut short, altered, or for another receiver or purpose."""
    try:
        if data[: len(SEALED_BOX_MAGIC)] != SEALED_BOX_MAGIC or len(data) < SEALED_OVERHEAD_BYTES:
            raise ValueError
        public = data[len(SEALED_BOX_MAGIC) : len(SEALED_BOX_MAGIC) + 32]
        shared = key.exchange(X25519PublicKey.from_public_bytes(public))
        derived, associated_data = _derive(shared, public, key.public_key().public_bytes_raw(), purpose)
        return ChaCha20Poly1305(derived).decrypt(ZERO_NONCE, data[len(SEALED_BOX_MAGIC) + 32 :], associated_data)
    except (ValueError, InvalidTag):
        raise TrustError(
            "cannot be opened: torn, altered, or for somebody else", where=where, remedy="carry it again"
        ) from None


def _derive(shared: bytes, public: bytes, receiver: bytes, purpose: str) -> tuple[bytes, bytes]:
    """Encryption key and associated data."""
    info = f"homeroom/sealed/{purpose}".encode()
    key = HKDF(hashes.SHA256(), 32, salt=public + receiver, info=info).derive(shared)
    return key, SEALED_BOX_MAGIC + public + receiver + info
