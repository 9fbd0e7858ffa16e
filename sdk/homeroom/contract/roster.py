"""Roster: the device keys that may form a cohort of a secure round, and their least number, signed by the institution.

A key that the root certified as `roster` signs it, never the aggregator: devices refuse a cohort that the server made
up. Its serial only rises, so that an old roster cannot be replayed.
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
    """A roster.

    minimum: least number of devices in a sum that may be unmasked.
    devices: public keys, hexadecimal, sorted.
    """

    format: int = ROSTER_FORMAT
    institution: str
    serial: Annotated[int, msgspec.Meta(ge=1)]
    minimum: Annotated[int, msgspec.Meta(ge=LEAST_ROSTER_DEVICES)]
    devices: Annotated[tuple[Hash, ...], msgspec.Meta(max_length=10_000)]
    certificate: Certificate
    signature: str = ""

    @property
    def statement(self) -> dict[str, Any]:
        """The fields that are signed; those of a later minor version are not among them."""
        fields: dict[str, Any] = msgspec.to_builtins(self)
        return {name: value for name, value in fields.items() if name not in ("certificate", "signature")}

    @property
    def roster_id(self) -> str:
        """Identity of the signed fields."""
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
    """Signs a roster.

    key: signing key; `certificate` is the root's for it, in the role `roster`.
    devices: public keys, hexadecimal, in any order.
    serial: above that of the roster before.
    minimum: least number of devices in a sum.
    """
    fields = {"institution": institution, "serial": serial, "minimum": minimum, "devices": sorted(set(devices))}
    bare = msgspec.convert({**fields, "certificate": certificate}, Roster)
    return msgspec.structs.replace(bare, signature=sign(key, "roster", bare.statement))


def read_roster(data: bytes, *, root_fingerprint: str, after: int = 0) -> Roster:
    """Reads a roster certified by the root; TrustError if it is not, or its serial is below `after`."""
    where = "roster"
    roster = decode(data, Roster, limit_bytes=ROSTER_LIMIT_BYTES, where=where, error=TrustError)
    check_certificate(roster.certificate, role="roster", root_fingerprint=root_fingerprint, where=where)
    verify(roster.certificate.key, "roster", roster.statement, roster.signature, where=where)
    if list(roster.devices) != sorted(set(roster.devices)):
        raise TrustError("names a device twice, or out of order", where=where)
    if roster.serial < after:
        raise TrustError(f"serial {roster.serial} is older than {after}, which was seen before", where=where)
    return roster
