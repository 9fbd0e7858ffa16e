"""A roster: the institution's word on which device keys may form a cohort, and how many of them at least.

It is signed by a key that the root certified for the role `roster`, never by the aggregator: devices themselves refuse
a cohort that the server made up. Its serial only rises, so that an old roster cannot be shown again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from homeroom.contract.canonical_json import decode, identity
from homeroom.contract.manifest import Hash
from homeroom.contract.signing import Certificate, check_certificate, sign, verify
from homeroom.errors import TrustError

ROSTER_FORMAT = 1
ROSTER_LIMIT_BYTES = 1 << 20
LEAST_ROSTER_DEVICES = 3  # with two devices in a sum, each of them reads the other off


class Roster(msgspec.Struct, frozen=True, kw_only=True):
    """`devices`: public keys, sorted. `minimum`: devices without which no sum may be opened."""

    format: int = ROSTER_FORMAT
    institution: str
    serial: Annotated[int, msgspec.Meta(ge=1)]
    minimum: Annotated[int, msgspec.Meta(ge=LEAST_ROSTER_DEVICES)]
    devices: Annotated[tuple[Hash, ...], msgspec.Meta(max_length=10_000)]
    certificate: Certificate
    signature: str = ""

    @property
    def statement(self) -> dict[str, Any]:
        """What is signed; fields that a later minor version adds are not part of it."""
        return {
            "format": self.format,
            "institution": self.institution,
            "serial": self.serial,
            "minimum": self.minimum,
            "devices": list(self.devices),
        }

    @property
    def roster_id(self) -> str:
        return identity(self.statement)


def make_roster(
    key: Ed25519PrivateKey,
    certificate: Certificate,
    devices: Iterable[str],
    *,
    serial: int,
    minimum: int,
    institution: str,
) -> Roster:
    """Sign a roster; `certificate` is the root's word that `key` may."""
    bare = Roster(
        institution=institution,
        serial=serial,
        minimum=minimum,
        devices=tuple(sorted(set(devices))),
        certificate=certificate,
    )
    return msgspec.structs.replace(bare, signature=sign(key, "roster", bare.statement))


def read_roster(data: bytes, *, root_fingerprint: str, after: int = 0) -> Roster:
    """A roster that leads to the root; TrustError if it does not, or is older than serial `after`."""
    where = "roster"
    roster = decode(data, Roster, limit_bytes=ROSTER_LIMIT_BYTES, where=where, error=TrustError)
    check_certificate(roster.certificate, role="roster", root_fingerprint=root_fingerprint, where=where)
    verify(roster.certificate.key, "roster", roster.statement, roster.signature, where=where)
    if list(roster.devices) != sorted(set(roster.devices)):
        raise TrustError("names a device twice, or out of order", where=where)
    if roster.serial < after:
        raise TrustError(f"serial {roster.serial} is older than {after}, which was seen before", where=where)
    return roster
