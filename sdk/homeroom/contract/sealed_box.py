"""A parcel that only its receiver can open; `cryptography` does the work.

X25519 with a key of the sender's that is used once (RFC 7748), HKDF-SHA256 (RFC 5869), ChaCha20-Poly1305 (RFC 8439):

    8 bytes    HRSEALD1
    32 bytes   the sender's key for this parcel alone
    rest       ciphertext and tag, under nonce 0, since no key seals twice

What is around it is authenticated too, and so is the purpose. It says nothing of who sent it: what is inside is signed.
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
    """The aggregator's word that what is for it may be sealed to `key` (X25519, hexadecimal)."""

    key: Hash
    certificate: Certificate
    signature: str


def sealing_key(key: X25519PrivateKey, signer: Ed25519PrivateKey, certificate: Certificate) -> SealingKey:
    public = public_hex(key)
    return SealingKey(key=public, certificate=certificate, signature=sign(signer, "sealing", {"key": public}))


def check_sealing_key(found: SealingKey, *, root_fingerprint: str, where: str) -> str:
    """The key, hexadecimal; TrustError unless it is vouched for by the root's aggregator."""
    check_certificate(found.certificate, role="aggregator", root_fingerprint=root_fingerprint, where=where)
    verify(found.certificate.key, "sealing", {"key": found.key}, found.signature, where=where)
    return found.key


def public_hex(key: X25519PrivateKey) -> str:
    return key.public_key().public_bytes_raw().hex()


def seal(plain: bytes, receiver: str, purpose: str) -> bytes:
    """receiver: X25519 public key, hexadecimal."""
    once = X25519PrivateKey.generate()
    public = once.public_key().public_bytes_raw()
    try:
        shared = once.exchange(X25519PublicKey.from_public_bytes(bytes.fromhex(receiver)))
    except ValueError:
        raise TrustError("is no key that anything can be sealed to", where="receiver") from None
    key, around = _derived(shared, public, bytes.fromhex(receiver), purpose)
    return SEALED_BOX_MAGIC + public + ChaCha20Poly1305(key).encrypt(ZERO_NONCE, plain, around)


def unseal(data: bytes, key: X25519PrivateKey, purpose: str, *, where: str) -> bytes:
    """TrustError if it is torn, altered, for another receiver or for another purpose."""
    try:
        if data[: len(SEALED_BOX_MAGIC)] != SEALED_BOX_MAGIC or len(data) < SEALED_OVERHEAD_BYTES:
            raise ValueError
        public = data[len(SEALED_BOX_MAGIC) : len(SEALED_BOX_MAGIC) + 32]
        shared = key.exchange(X25519PublicKey.from_public_bytes(public))
        derived, around = _derived(shared, public, key.public_key().public_bytes_raw(), purpose)
        return ChaCha20Poly1305(derived).decrypt(ZERO_NONCE, data[len(SEALED_BOX_MAGIC) + 32 :], around)
    except (ValueError, InvalidTag):
        raise TrustError(
            "cannot be opened: torn, altered, or for somebody else", where=where, remedy="carry it again"
        ) from None


def _derived(shared: bytes, public: bytes, receiver: bytes, purpose: str) -> tuple[bytes, bytes]:
    info = f"homeroom/sealed/{purpose}".encode()
    key = HKDF(hashes.SHA256(), 32, salt=public + receiver, info=info).derive(shared)
    return key, SEALED_BOX_MAGIC + public + receiver + info
