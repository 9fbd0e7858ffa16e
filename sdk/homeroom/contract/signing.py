"""Signatures and certificates: Ed25519 keys (RFC 8032), key files, signed documents.

A root key certifies the keys of exporters, aggregators, rosters and institutions. These sign bundles, versions of
theta, rosters and policies. Nothing expires: devices have no clock to trust.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from homeroom.contract.canonical_json import canonical, digest
from homeroom.contract.manifest import Hash
from homeroom.errors import TrustError
from homeroom.system.files import make_directory, open_private, read_bounded

Role = Literal["exporter", "aggregator", "roster", "institution"]


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """A certificate: the root allows `key` to act in `role`. Keys are 64 hexadecimal digits, signatures 128."""

    role: Role
    key: Hash
    name: str
    root: Hash
    signature: str = ""

    @property
    def statement(self) -> dict[str, str]:
        """The fields that the root signs; those of a later minor version are not among them."""
        return {"role": self.role, "key": self.key, "name": self.name, "root": self.root, "signature": ""}


def public_hex(key: Ed25519PrivateKey | Ed25519PublicKey) -> str:
    """The public key, 64 hexadecimal digits."""
    public = key.public_key() if isinstance(key, Ed25519PrivateKey) else key
    return public.public_bytes_raw().hex()


def fingerprint(key_hex: str) -> str:
    """SHA-256 of the raw public key, 64 hexadecimal digits, for people to compare."""
    return digest(bytes.fromhex(key_hex))


def sign(key: Ed25519PrivateKey, purpose: str, document: Any) -> str:
    """Signs a document (or its canonical bytes) for one purpose, so that it cannot pass for another kind."""
    return key.sign(_message(purpose, document)).hex()


def verify(key_hex: str, purpose: str, document: Any, signature: str, *, where: str) -> None:
    """Raises TrustError unless `signature` is this key's over the document for this purpose."""
    try:
        public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(key_hex))
        public.verify(bytes.fromhex(signature), _message(purpose, document))
    except (InvalidSignature, ValueError):
        raise TrustError(
            "the signature does not hold: it was altered, or signed by another key",
            where=where,
            remedy="get it again from its source; do not use this copy",
        ) from None


def _message(purpose: str, document: Any) -> bytes:
    return f"homeroom/{purpose}\n".encode() + (document if isinstance(document, bytes) else canonical(document))


def certify(root: Ed25519PrivateKey, role: Role, key: Ed25519PrivateKey | Ed25519PublicKey, name: str) -> Certificate:
    """Signs a certificate of `key` with the root key."""
    bare = Certificate(role=role, key=public_hex(key), name=name, root=public_hex(root))
    return msgspec.structs.replace(bare, signature=sign(root, "certificate", bare.statement))


def check_certificate(certificate: Certificate, *, role: Role, root_fingerprint: str | None, where: str) -> None:
    """Raises TrustError unless the certificate is for `role`, signed by its root, and the root is the trusted one."""
    if root_fingerprint is not None and fingerprint(certificate.root) != root_fingerprint:
        raise TrustError(
            f"vouched for by root {fingerprint(certificate.root)[:16]}, but this device trusts {root_fingerprint[:16]}",
            where=where,
            remedy="ask your institution which root is right",
        )
    if certificate.role != role:
        raise TrustError(f"signed by a key certified as {certificate.role}, not as {role}", where=where)
    verify(certificate.root, "certificate", certificate.statement, certificate.signature, where=where)


def new_key() -> Ed25519PrivateKey:
    """A new key from the system's secure generator."""
    return Ed25519PrivateKey.generate()


def write_key(path: Path, key: Ed25519PrivateKey) -> None:
    """Writes a private key as PKCS #8 PEM (RFC 5958), mode 0600; FileExistsError where the file exists."""
    data = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    make_directory(path.parent)
    with open_private(path, exclusive=True) as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            path.unlink()  # half a key would stand in the way of the next attempt
            raise


def read_key(path: Path) -> Ed25519PrivateKey:
    """Reads a private key that `write_key` wrote; TrustError where there is none."""
    try:
        key = serialization.load_pem_private_key(read_bounded(path, 1 << 16), password=None)
    except FileNotFoundError:
        raise TrustError("there is no such key file", where=str(path)) from None
    except OSError as problem:
        raise TrustError(f"cannot be read: {problem.strerror}", where=str(path)) from None
    except (ValueError, TypeError) as problem:
        raise TrustError(f"not a private key: {problem}", where=str(path)) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise TrustError("not an Ed25519 key", where=str(path))
    return key
