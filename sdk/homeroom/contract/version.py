"""Version of the global theta, as the aggregator releases it: a signed header and theta."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
import numpy as np
import safetensors.numpy
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from homeroom.contract import envelope
from homeroom.contract.canonical_json import digest
from homeroom.contract.codecs import ENCODED_LIMIT
from homeroom.contract.layout import Layout
from homeroom.contract.manifest import Hash
from homeroom.contract.signing import Certificate, check_certificate
from homeroom.errors import NetworkError, TrustError

VERSION_FORMAT = 1
VERSION_MAGIC = b"HRVERSN1"
VERSION_LIMIT_BYTES = 512 << 20
MOST_VOID = 1024  # ranges; those that follow each other are one


class VersionHeader(msgspec.Struct, frozen=True, kw_only=True):
    """Header of a version.

    devices: by segment name, the number of distinct devices in its change; segments that did not change are absent.
    clip_norm: L2 clip of updates to this version, where the private round's clip adapts.
    void: earlier versions that held an update which was unlearned since, in ranges of the first and the last, rising
        and apart; a device drops whatever it learned on them. Version 0, the bundle's own, is never one.
    """

    format: int = VERSION_FORMAT
    bundle_id: Hash
    version: Annotated[int, msgspec.Meta(ge=0)]
    certificate: Certificate
    devices: dict[str, Annotated[int, msgspec.Meta(ge=0)]] = {}
    payload_sha256: Hash
    clip_norm: Annotated[float, msgspec.Meta(gt=0, le=ENCODED_LIMIT)] | msgspec.UnsetType = msgspec.UNSET
    void: Annotated[tuple[tuple[int, int], ...], msgspec.Meta(max_length=MOST_VOID)] | msgspec.UnsetType = msgspec.UNSET

    def is_void(self, version: int) -> bool:
        """Whether an earlier version held an update that was unlearned since."""
        return self.void is not msgspec.UNSET and any(first <= version <= last for first, last in self.void)


def make_version(
    key: Ed25519PrivateKey,
    certificate: Certificate,
    bundle_id: str,
    version: int,
    theta: np.ndarray,
    devices: dict[str, int],
    clip_norm: float | msgspec.UnsetType = msgspec.UNSET,
    void: Sequence[tuple[int, int]] = (),
) -> bytes:
    """Signs a version.

    key: the aggregator's signing key; `certificate` is the root's for it.
    theta: float32 [P].
    devices, clip_norm, void: as in VersionHeader.
    """
    payload = safetensors.numpy.save({"theta": np.ascontiguousarray(theta, np.float32)})
    header = VersionHeader(
        bundle_id=bundle_id,
        version=version,
        certificate=certificate,
        devices=devices,
        payload_sha256=digest(payload),
        clip_norm=clip_norm,
        void=tuple(void) or msgspec.UNSET,
    )
    return envelope.pack(VERSION_MAGIC, "version", header, payload, key)


def read_version(
    data: bytes, layout: Layout, *, bundle_id: str, root_fingerprint: str, after: int = -1
) -> tuple[VersionHeader, np.ndarray]:
    """Header and theta, float32 [P], of a version.

    Raises TrustError if an aggregator of the root did not sign it, or it is older than `after`; NetworkError if it is
    malformed.
    """
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
    _check_void(header, where)
    theta = envelope.tensors(payload, where=where, error=NetworkError).get("theta")
    if theta is None or theta.dtype != np.float32 or theta.shape != (layout.size,) or not np.isfinite(theta).all():
        raise NetworkError("does not hold a finite theta of the bundle's length", where=where)
    return header, theta


def _check_void(header: VersionHeader, where: str) -> None:
    """Ranges that no rewind makes would let a device drop what it learned on sound versions, or on its bundle alone."""
    before = 0
    for first, last in header.void or ():
        if not before < first <= last < header.version:
            raise NetworkError(
                f"calls the versions {first} to {last} void, which none of version {header.version} can do",
                where=where,
                remedy="nothing was changed here: tell the district",
            )
        before = last
