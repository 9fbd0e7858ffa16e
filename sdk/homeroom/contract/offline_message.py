"""Offline messages: a device's message to its aggregator and the answer, each a sealed file that people carry.

Inside the seal is an envelope (`contract.envelope`): a signed header and a payload. A message may arrive twice, late or
through a stranger: an update counts once, by its id, and every other request in it may be repeated.
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
from homeroom.contract.statistics.messages import MESSAGE_LIMIT_BYTES, StatisticsStatus
from homeroom.contract.version import VERSION_LIMIT_BYTES as VERSION_LIMIT_BYTES
from homeroom.errors import NetworkError, TrustError

OFFLINE_FORMAT = 1
MESSAGE_MAGIC, ANSWER_MAGIC = b"HRLETTR1", b"HRANSWR1"
OFFLINE_MESSAGE_LIMIT_BYTES = 256 << 20
ANSWER_LIMIT_BYTES = VERSION_LIMIT_BYTES + MESSAGE_LIMIT_BYTES + 2 * envelope.HEADER_LIMIT_BYTES + SEALED_OVERHEAD_BYTES
UpdateId = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}$")]


class MessageHeader(msgspec.Struct, frozen=True, kw_only=True):
    """Header of a device's message.

    sealing: X25519 key that the answer is sealed to, hexadecimal.
    after: the newest version that the device has.
    code: an invitation's code, from a device that asks to join.
    updates: length in bytes of each update in the payload.
    unlearn: ids of updates to withdraw.
    message_id: drawn for this message, for its answer to name; a later field.
    statistics: length in bytes of a change of statistics, after the updates; a later field.
    release: number of the newest release of statistics that the device has, 0 for none; a later field, without which
        the answer says nothing of statistics.
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
    message_id: UpdateId | msgspec.UnsetType = msgspec.UNSET
    statistics: Annotated[int, msgspec.Meta(ge=0)] = 0
    release: Annotated[int, msgspec.Meta(ge=0, le=1 << 62)] | msgspec.UnsetType = msgspec.UNSET


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome for one update, named by the SHA-256 of its bytes; `waits`: it may be accepted when sent again."""

    update: Hash
    status: Literal["accepted", "already", "refused", "waits"]
    code: str = ""
    message: str = ""
    remedy: str = ""


class AnswerHeader(msgspec.Struct, frozen=True, kw_only=True):
    """Header of the aggregator's answer to one device; the payload is the newest version, or none, and a release.

    refused: why the whole message was refused, if it was.
    unlearned: ids of updates whose unlearning is settled: the next version leaves them out, but for those in `kept`.
    bounded: ids of updates that a private release holds, and that stay in it.
    kept: of `unlearned`, those that stay: the versions that hold them cannot be made again (`log.retain`).
    round: the round's configuration; `round_signature` is over it, as over HTTP.
    school: as in `/v1/round`.
    message_id: of the message that it answers, if that had one.
    statistics: what is here of the device, and what is served, after its change; None where the message asks for none.
    statistics_refused: why its change was refused, if it was.
    release: length in bytes of a release of statistics, after the version.
    """

    format: int = OFFLINE_FORMAT
    device: Hash
    bundle_id: Hash
    certificate: Certificate
    refused: str = ""
    receipts: tuple[Receipt, ...] = ()
    unlearned: tuple[str, ...] = ()
    bounded: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    round: dict[str, Any] = {}
    round_signature: str = ""
    school: str = ""
    payload_sha256: Hash
    message_id: UpdateId | msgspec.UnsetType = msgspec.UNSET
    statistics: StatisticsStatus | None = None
    statistics_refused: str = ""
    release: Annotated[int, msgspec.Meta(ge=0)] = 0


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
    message_id: str | msgspec.UnsetType = msgspec.UNSET,
    statistics: bytes = b"",
    release: int | msgspec.UnsetType = msgspec.UNSET,
) -> bytes:
    """Signs a device's message and seals it to the aggregator.

    key: the device's signing key.
    sealing: the device's X25519 key, for the answer.
    receiver: the aggregator's X25519 public key, hexadecimal.
    bundle_id, after, code, unlearn, message_id, release: as in MessageHeader.
    updates, statistics: signed updates, and a signed change of statistics or none, as bytes.
    """
    payload = b"".join([*updates, statistics])
    header = MessageHeader(
        device=signing_hex(key),
        sealing=public_hex(sealing),
        bundle_id=bundle_id,
        after=after,
        code=code,
        updates=tuple(map(len, updates)),
        unlearn=tuple(unlearn),
        payload_sha256=digest(payload),
        message_id=message_id,
        statistics=len(statistics),
        release=release,
    )
    return seal(envelope.pack(MESSAGE_MAGIC, "letter", header, payload, key), receiver, "letter")


def read_message(data: bytes, key: X25519PrivateKey, *, where: str) -> tuple[MessageHeader, list[bytes], bytes]:
    """Header, updates and change of statistics (or b"") of a message whose signature holds, not parsed.

    TrustError or NetworkError otherwise.
    """
    plain = _unseal(data, key, "letter", OFFLINE_MESSAGE_LIMIT_BYTES, where)
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
    if sum(header.updates) + header.statistics != len(payload):
        raise NetworkError("does not hold the updates that it names", where=where)
    updates, start = [], 0
    for size in header.updates:
        updates.append(payload[start : start + size])
        start += size
    return header, updates, payload[start:]


def write_answer(
    key: Ed25519PrivateKey, header: AnswerHeader, version: bytes, receiver: str, release: bytes = b""
) -> bytes:
    """Signs an answer with a version and a release of statistics (or b"") and seals it to the device.

    Fills in `header.payload_sha256` and `header.release`.
    """
    payload = version + release
    header = msgspec.structs.replace(header, payload_sha256=digest(payload), release=len(release))
    return seal(envelope.pack(ANSWER_MAGIC, "answer", header, payload, key), receiver, "answer")


def read_answer(
    data: bytes, key: X25519PrivateKey, *, device: str, root_fingerprint: str, where: str
) -> tuple[AnswerHeader, bytes, bytes]:
    """Header, version and release of statistics (each b"" where there is none) that the root's aggregator signed.

    TrustError or NetworkError otherwise. Neither is parsed.
    """
    plain = _unseal(data, key, "answer", ANSWER_LIMIT_BYTES, where)
    header, payload, signature = envelope.unpack(
        plain, ANSWER_MAGIC, "answer", AnswerHeader, limit_bytes=ANSWER_LIMIT_BYTES, where=where, error=NetworkError
    )
    check_certificate(header.certificate, role="aggregator", root_fingerprint=root_fingerprint, where=where)
    envelope.check(header.certificate.key, "answer", plain, signature, where=where)
    if header.device != device:
        raise TrustError("is for another device", where=where)
    if header.release > len(payload):
        raise NetworkError("does not hold the release that it names", where=where)
    end = len(payload) - header.release
    return header, payload[:end], payload[end:]


def _unseal(data: bytes, key: X25519PrivateKey, purpose: str, limit_bytes: int, where: str) -> bytes:
    if len(data) > limit_bytes:
        raise NetworkError(f"{len(data):,} bytes are more than the {limit_bytes:,} allowed", where=where)
    return unseal(data, key, purpose, where=where)
