"""A version of the global theta as the aggregator releases it: a signed header and theta itself."""

from __future__ import annotations

from typing import Annotated

import msgspec
import numpy as np
import safetensors.numpy
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from homeroom.contract import envelope
from homeroom.contract.canonical_json import digest
from homeroom.contract.layout import Layout
from homeroom.contract.manifest import Hash
from homeroom.contract.signing import Certificate, check_certificate
from homeroom.errors import NetworkError, TrustError

VERSION_FORMAT = 1
VERSION_MAGIC = b"HRVERSN1"
VERSION_LIMIT_BYTES = 512 << 20


class VersionHeader(msgspec.Struct, frozen=True, kw_only=True):
    """`devices`: by segment name, how many distinct devices fed this version's change (absent: unchanged).

    clip_norm: of updates to this version, where the private round's clip adapts.
    """

    format: int = VERSION_FORMAT
    bundle_id: Hash
    version: Annotated[int, msgspec.Meta(ge=0)]
    certificate: Certificate
    devices: dict[str, int] = {}
    payload_sha256: Hash
    clip_norm: float | msgspec.UnsetType = msgspec.UNSET


def make_version(
    key: Ed25519PrivateKey,
    certificate: Certificate,
    bundle_id: str,
    version: int,
    theta: np.ndarray,
    devices: dict[str, int],
    clip_norm: float | msgspec.UnsetType = msgspec.UNSET,
) -> bytes:
    """theta: float32 [P]. clip_norm: in force from this version on, where it adapts."""
    payload = safetensors.numpy.save({"theta": np.ascontiguousarray(theta, np.float32)})
    header = VersionHeader(
        bundle_id=bundle_id,
        version=version,
        certificate=certificate,
        devices=devices,
        payload_sha256=digest(payload),
        clip_norm=clip_norm,
    )
    return envelope.pack(VERSION_MAGIC, "version", header, payload, key)


def read_version(
    data: bytes, layout: Layout, *, bundle_id: str, root_fingerprint: str, after: int = -1
) -> tuple[VersionHeader, np.ndarray]:
    """Header and theta float32 [P]; TrustError if it is not the trusted aggregator's, or older than `after`."""
    where = "global theta"
    header, payload, signature = envelope.unpack(
        data, VERSION_MAGIC, "version", VersionHeader, limit_bytes=VERSION_LIMIT_BYTES, where=where, error=NetworkError
    )
    check_certificate(header.certificate, role="aggregator", root_fingerprint=root_fingerprint, where=where)
    envelope.check(header.certificate.key, "version", data, signature, where=where)
    if header.bundle_id != bundle_id:
        raise TrustError(f"is for bundle {header.bundle_id[:12]}, not {bundle_id[:12]}", where=where)
    if header.version < after:
        raise TrustError(f"version {header.version} is older than {after}, which was seen before", where=where)
    theta = envelope.tensors(payload, where=where, error=NetworkError).get("theta")
    if theta is None or theta.dtype != np.float32 or theta.shape != (layout.size,) or not np.isfinite(theta).all():
        raise NetworkError("does not hold a finite theta of the bundle's length", where=where)
    return header, theta
