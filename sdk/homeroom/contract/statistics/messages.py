"""Statistics on the way: the signed change of a device's total, and the signed total that an aggregator releases.

Both are an envelope whose payload is `encoding.encode`'s bytes. A change names the total that it changes by digest, and
counts up: it counts once, and a total is never put together from two machines' changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from homeroom.contract import envelope
from homeroom.contract.canonical_json import digest
from homeroom.contract.signing import Certificate, check_certificate, public_hex
from homeroom.contract.statistics.encoding import LIMIT_BYTES, encode, read
from homeroom.contract.statistics.section import Hash
from homeroom.contract.statistics.sums import Statistics, difference
from homeroom.errors import NetworkError, TrustError, UpdateError

CHANGE_MAGIC, RELEASE_MAGIC = b"HRSTCHG1", b"HRSTREL1"
CHANGE_PURPOSE, RELEASE_PURPOSE = "statistics", "statistics-release"
MESSAGE_LIMIT_BYTES = LIMIT_BYTES + envelope.HEADER_LIMIT_BYTES + 1024
SEQUENCE_LIMIT = 1 << 53

Text = Annotated[str, msgspec.Meta(max_length=256)]
Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 31)]


class Support(msgspec.Struct, frozen=True, array_like=True):
    """How many subjects' samples are in a row, of those that have both blocks; row "" of moments: in all rows."""

    task: Text
    row: Text
    first: Hash
    last: Hash
    subjects: Count


class ChangeHeader(msgspec.Struct, frozen=True, kw_only=True):
    """Header of a change.

    device: its public key, hexadecimal.
    sequence: one more than that of the device's last accepted change; a whole total may leave some out.
    base: digest of the total that is changed; empty where the payload is the whole total, in place of any before.
    total: digest of the total after it.
    subjects: of the total after it.
    takes_away: whether samples were removed or corrected.
    """

    format: Literal[1] = 1
    bundle_id: Hash
    device: Hash
    sequence: Annotated[int, msgspec.Meta(ge=1, le=SEQUENCE_LIMIT)]
    base: Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{64})?$")]
    total: Hash
    subjects: tuple[Support, ...]
    takes_away: bool = False
    payload_sha256: Hash


class ReleaseHeader(msgspec.Struct, frozen=True, kw_only=True):
    """Header of a released total. number: only rises. k: schools that fed each number at least."""

    format: Literal[1] = 1
    bundle_id: Hash
    number: Annotated[int, msgspec.Meta(ge=1, le=SEQUENCE_LIMIT)]
    k: Annotated[int, msgspec.Meta(ge=1)]
    certificate: Certificate
    payload_sha256: Hash


class StatisticsStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What the aggregator has of a device, and what it serves.

    sequence, total: of the device's total; 0 and "" where there is none.
    release: number of the released total; 0 where none is served.
    included: the sequence of the device's total in that release; 0 where none is.
    waits: why there is no newer release, in words; empty where nothing waits.
    """

    sequence: int = 0
    total: str = ""
    release: int = 0
    included: int = 0
    size: int = 0
    sha256: str = ""
    waits: str = ""


def digest_of(total: Statistics) -> str:
    """The digest by which a total is named."""
    return digest(encode(total))


def make_change(
    key: Ed25519PrivateKey,
    bundle_id: str,
    sequence: int,
    base: Statistics | None,
    total: Statistics,
    subjects: tuple[Support, ...],
    *,
    takes_away: bool,
) -> bytes:
    """Signs the change that leads from one total to another; from None the whole one. Arguments: as in ChangeHeader."""
    payload = encode(total if base is None else difference(total, base))
    header = ChangeHeader(
        bundle_id=bundle_id,
        device=public_hex(key),
        sequence=sequence,
        base="" if base is None else digest_of(base),
        total=digest_of(total),
        subjects=subjects,
        takes_away=takes_away,
        payload_sha256=digest(payload),
    )
    return envelope.pack(CHANGE_MAGIC, CHANGE_PURPOSE, header, payload, key)


def read_change(
    data: bytes, *, bundle_id: str, limit_bytes: int = MESSAGE_LIMIT_BYTES
) -> tuple[ChangeHeader, Statistics]:
    """Header and change; UpdateError with a code where it is malformed, of another bundle or not signed by its device.

    Whether samples can have such sums is `check_total`'s to say.
    """
    where = "statistics"
    header, payload, signature = envelope.unpack(
        data, CHANGE_MAGIC, CHANGE_PURPOSE, ChangeHeader, limit_bytes=limit_bytes, where=where, error=UpdateError
    )
    try:
        envelope.check(header.device, CHANGE_PURPOSE, data, signature, where=where)
    except TrustError as problem:
        raise UpdateError(problem.what, code="bad_signature", where=where) from None
    if header.bundle_id != bundle_id:
        raise UpdateError("they are of another bundle", code="other_bundle", where=where)
    return header, read(payload)


def make_release(
    key: Ed25519PrivateKey, certificate: Certificate, bundle_id: str, number: int, k: int, total: Statistics
) -> bytes:
    """Signs a released total; `certificate` is the root's for the key."""
    payload = encode(total)
    header = ReleaseHeader(
        bundle_id=bundle_id, number=number, k=k, certificate=certificate, payload_sha256=digest(payload)
    )
    return envelope.pack(RELEASE_MAGIC, RELEASE_PURPOSE, header, payload, key)


def read_release(
    data: bytes, *, bundle_id: str, root_fingerprint: str, after: int = 0
) -> tuple[ReleaseHeader, Statistics]:
    """Header and total of a release.

    Raises TrustError if an aggregator of the root did not sign it, or it is older than `after`; NetworkError or
    UpdateError if it is malformed.
    """
    where = "released statistics"
    header, payload, signature = envelope.unpack(
        data,
        RELEASE_MAGIC,
        RELEASE_PURPOSE,
        ReleaseHeader,
        limit_bytes=MESSAGE_LIMIT_BYTES,
        where=where,
        error=NetworkError,
    )
    check_certificate(header.certificate, role="aggregator", root_fingerprint=root_fingerprint, where=where)
    envelope.check(header.certificate.key, RELEASE_PURPOSE, data, signature, where=where)
    if header.bundle_id != bundle_id:
        raise TrustError(f"are for bundle {header.bundle_id[:12]}, not {bundle_id[:12]}", where=where)
    if header.number < after:
        raise TrustError(f"release {header.number} is older than {after}, which was seen before", where=where)
    return header, read(payload)


def supports(subjects: Mapping[tuple[str, str, str, str], int]) -> tuple[Support, ...]:
    """Attested numbers of subjects, in order. subjects: by task, row, first and last block."""
    return tuple(Support(*key, number) for key, number in sorted(subjects.items()) if number)
