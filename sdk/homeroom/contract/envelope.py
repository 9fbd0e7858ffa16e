"""Envelope: a signed header with a payload in one file, as updates, versions of theta and offline messages have it.

    8 bytes    magic
    4 bytes    length of the header, little-endian, at most 1 MiB
    header     RFC 8785 JSON; names the payload's SHA-256
    64 bytes   Ed25519 signature over the purpose and the header
    rest       payload, safetensors in updates and versions

Every length is checked before anything is decoded.
"""

from __future__ import annotations

import struct
from typing import Any, TypeVar

import numpy as np
import safetensors.numpy
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from safetensors import SafetensorError

from homeroom.contract.canonical_json import canonical, decode, digest
from homeroom.contract.signing import sign, verify
from homeroom.errors import HomeroomError

HEADER_LIMIT_BYTES = 1 << 20
H = TypeVar("H")


def pack(magic: bytes, purpose: str, header: Any, payload: bytes, key: Ed25519PrivateKey) -> bytes:
    """The signed file; `header.payload_sha256` must be the digest of `payload`."""
    encoded = canonical(header)
    return magic + struct.pack("<I", len(encoded)) + encoded + bytes.fromhex(sign(key, purpose, encoded)) + payload


def unpack(
    data: bytes, magic: bytes, purpose: str, into: type[H], *, limit_bytes: int, where: str, error: type[HomeroomError]
) -> tuple[H, bytes, str]:
    """Header, payload and signature (hexadecimal). Checks lengths and the payload's hash, not the signature.

    magic: the first 8 bytes of such a file.
    purpose: what the file is, for messages and the signature.
    into: msgspec structure of the header.
    error: raised where the file does not fit.
    """
    if len(data) > limit_bytes:
        raise error(f"{len(data):,} bytes are more than the {limit_bytes:,} allowed", where=where)
    if data[:8] != magic or len(data) < 12:
        raise error(f"is not a homeroom {purpose}", where=where)
    (length,) = struct.unpack("<I", data[8:12])
    if len(data) < 12 + length + 64:
        raise error("is cut short", where=where)
    raw = data[12 : 12 + length]
    header = decode(raw, into, limit_bytes=HEADER_LIMIT_BYTES, where=where, error=error)
    signature = data[12 + length : 76 + length].hex()
    payload = data[76 + length :]
    if digest(payload) != header.payload_sha256:  # type: ignore[attr-defined]
        raise error("the payload is not the one that was signed", where=where)
    return header, payload, signature


def check(key_hex: str, purpose: str, data: bytes, signature: str, *, where: str) -> None:
    """Verifies the signature over the header's bytes as they were sent, unknown fields included; TrustError."""
    (length,) = struct.unpack("<I", data[8:12])
    verify(key_hex, purpose, data[12 : 12 + length], signature, where=where)


def tensors(payload: bytes, *, where: str, error: type[HomeroomError]) -> dict[str, np.ndarray]:
    """Tensors of a safetensors payload by name; `error` if its reader finds holes, overlaps or wrong lengths."""
    try:
        return dict(safetensors.numpy.load(payload))
    except (SafetensorError, KeyError, ValueError, TypeError, AttributeError) as problem:
        raise error(f"the payload is not valid safetensors: {problem}", where=where) from None
