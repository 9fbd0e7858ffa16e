"""What travels by hand between a device and its aggregator: a letter one way, an answer back, each in one sealed file.

Inside the seal is the envelope of `contract.envelope`: a signed header and a payload. A letter may be delivered twice,
late, or by a stranger: updates count once by their ids, and everything else in it may be repeated too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from homeroom.contract import envelope
from homeroom.contract.canonical_json import digest
from homeroom.contract.manifest import Hash
from homeroom.contract.sealed_box import SEALED_OVERHEAD_BYTES, public_hex, seal, unseal
from homeroom.contract.signing import Certificate, check_certificate
from homeroom.contract.signing import public_hex as signing_hex
from homeroom.contract.version import VERSION_LIMIT_BYTES as VERSION_LIMIT_BYTES
from homeroom.errors import NetworkError, TrustError

OFFLINE_FORMAT = 1
MESSAGE_MAGIC, ANSWER_MAGIC = b"HRLETTR1", b"HRANSWR1"
OFFLINE_MESSAGE_LIMIT_BYTES = 256 << 20
ANSWER_LIMIT_BYTES = VERSION_LIMIT_BYTES + 2 * envelope.HEADER_LIMIT_BYTES + SEALED_OVERHEAD_BYTES
UpdateId = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}$")]


class MessageHeader(msgspec.Struct, frozen=True, kw_only=True):
    """From a device. `sealing`: what the answer is sealed to; `after`: the newest version that it has.

    code: an invitation's, from a device that would join. updates: the length of each in the payload. unlearn: ids.
    """

    format: int = OFFLINE_FORMAT
    device: Hash
    sealing: Hash
    bundle_id: Hash
    after: Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]
    code: Annotated[str, msgspec.Meta(max_length=128)] = ""
    updates: Annotated[tuple[Annotated[int, msgspec.Meta(ge=1)], ...], msgspec.Meta(max_length=4096)] = ()
    unlearn: Annotated[tuple[UpdateId, ...], msgspec.Meta(max_length=4096)] = ()
    payload_sha256: Hash


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one update, by the SHA-256 of its bytes; `waits`: carried again, it may yet be accepted."""

    update: Hash
    status: Literal["accepted", "already", "refused", "waits"]
    code: str = ""
    message: str = ""
    remedy: str = ""


class AnswerHeader(msgspec.Struct, frozen=True, kw_only=True):
    """From the aggregator, to one device. `refused`: why the whole letter was, if it was.

    unlearned, bounded: updates that are out from the next version on; that went into a private release instead.

    round: the configuration, `round_signature` over it as over HTTP. school: as in `/v1/round`. The payload is the
    newest version, or nothing.
    """

    format: int = OFFLINE_FORMAT
    device: Hash
    bundle_id: Hash
    certificate: Certificate
    refused: str = ""
    receipts: tuple[Receipt, ...] = ()
    unlearned: tuple[str, ...] = ()
    bounded: tuple[str, ...] = ()
    round: dict[str, Any] = {}
    round_signature: str = ""
    school: str = ""
    payload_sha256: Hash


def write_message(
    key: Ed25519PrivateKey,
    sealing: X25519PrivateKey,
    receiver: str,
    *,
    bundle_id: str,
    after: int,
    code: str = "",
    updates: Sequence[bytes] = (),
    unlearn: Sequence[str] = (),
) -> bytes:
    payload = b"".join(updates)
    header = MessageHeader(
        device=signing_hex(key),
        sealing=public_hex(sealing),
        bundle_id=bundle_id,
        after=after,
        code=code,
        updates=tuple(map(len, updates)),
        unlearn=tuple(unlearn),
        payload_sha256=digest(payload),
    )
    return seal(envelope.pack(MESSAGE_MAGIC, "letter", header, payload, key), receiver, "letter")


def read_message(data: bytes, key: X25519PrivateKey, *, where: str) -> tuple[MessageHeader, list[bytes]]:
    """Header and updates, the device's signature checked; TrustError or NetworkError. The updates are not yet read."""
    plain = _opened(data, key, "letter", OFFLINE_MESSAGE_LIMIT_BYTES, where)
    header, payload, signature = envelope.unpack(
        plain,
        MESSAGE_MAGIC,
        "letter",
        MessageHeader,
        limit_bytes=OFFLINE_MESSAGE_LIMIT_BYTES,
        where=where,
        error=NetworkError,
    )
    envelope.check(header.device, "letter", plain, signature, where=where)
    if sum(header.updates) != len(payload):
        raise NetworkError("does not hold the updates that it names", where=where)
    updates, at = [], 0
    for size in header.updates:
        updates.append(payload[at : at + size])
        at += size
    return header, updates


def write_answer(key: Ed25519PrivateKey, header: AnswerHeader, version: bytes, receiver: str) -> bytes:
    """`header.payload_sha256` is filled in here."""
    header = msgspec.structs.replace(header, payload_sha256=digest(version))
    return seal(envelope.pack(ANSWER_MAGIC, "answer", header, version, key), receiver, "answer")


def read_answer(
    data: bytes, key: X25519PrivateKey, *, device: str, root_fingerprint: str, where: str
) -> tuple[AnswerHeader, bytes]:
    """Header and version (or b""), vouched for by the root; TrustError otherwise. The version is not yet read."""
    plain = _opened(data, key, "answer", ANSWER_LIMIT_BYTES, where)
    header, version, signature = envelope.unpack(
        plain,
        ANSWER_MAGIC,
        "answer",
        AnswerHeader,
        limit_bytes=ANSWER_LIMIT_BYTES,
        where=where,
        error=NetworkError,
    )
    check_certificate(header.certificate, role="aggregator", root_fingerprint=root_fingerprint, where=where)
    envelope.check(header.certificate.key, "answer", plain, signature, where=where)
    if header.device != device:
        raise TrustError("is for another device", where=where)
    return header, version


def _opened(data: bytes, key: X25519PrivateKey, purpose: str, limit_bytes: int, where: str) -> bytes:
    if len(data) > limit_bytes:
        raise NetworkError(f"{len(data):,} bytes are more than the {limit_bytes:,} allowed", where=where)
    return unseal(data, key, purpose, where=where)
