"""Contract 3, secure rounds: what aggregator and devices say to each other, and the limits of each message.

`docs/secure.md` describes the rounds on one page. Messages are MessagePack; what is signed is a fixed string of bytes.
"""

from __future__ import annotations

import hashlib
from math import floor
from typing import Annotated, Literal, TypeVar

import msgspec

from homeroom.contract.canonical_json import identity
from homeroom.contract.manifest import Hash
from homeroom.errors import HomeroomError

Phase = Literal["keys", "shares", "input", "consent", "reveal"]
PHASES: tuple[Phase, ...] = ("keys", "shares", "input", "consent", "reveal")
SHARE_BYTES = 16  # one element of GF(2^128)
SEALED_BYTES = 12 + 2 * SHARE_BYTES + 16  # nonce, both shares, tag
MESSAGE_LIMIT_BYTES = 16 << 20  # of every message but a masked vector
MessageT = TypeVar("MessageT")

Bytes16 = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
Bytes32 = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Bytes64 = Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]
Sealed = Annotated[bytes, msgspec.Meta(min_length=SEALED_BYTES, max_length=SEALED_BYTES)]
SlotIndex = Annotated[int, msgspec.Meta(ge=0, lt=10_000)]  # a device's number in its cohort, which is sorted by key
SlotIndices = Annotated[tuple[SlotIndex, ...], msgspec.Meta(max_length=10_000)]


class SecureRules(msgspec.Struct, frozen=True, kw_only=True):
    """Of a round configuration. Rates are shares of the cohort for which a round is promised to work, and to hold.

    minimum: devices in a sum, where the roster does not ask for more. cohort: how many devices end the joining at once.
    phase_s: seconds after which a phase goes on without those who are missing, if the promise allows it.
    """

    minimum: Annotated[int, msgspec.Meta(ge=3)] = 5
    cohort: Annotated[int, msgspec.Meta(ge=3, le=10_000)] = 20
    drop_rate: Annotated[float, msgspec.Meta(ge=0, le=0.45)] = 0.3
    corrupt_rate: Annotated[float, msgspec.Meta(ge=0, le=0.3)] = 0.1
    phase_s: Annotated[int, msgspec.Meta(ge=1)] = 86_400

    def honest(self, cohort: int, minimum: int) -> int:
        """How many of `minimum` devices in a sum are honest if the corrupt share of a cohort is all among them."""
        return minimum - floor(self.corrupt_rate * cohort)


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """A cohort that is being gathered; signed by the aggregator for the purpose `secure-round`.

    `version`: the newest when it was announced. `nonce` makes the round's id new.
    """

    configuration_id: Hash
    roster_id: Hash
    version: Annotated[int, msgspec.Meta(ge=0)]
    nonce: Hash

    @property
    def round_id(self) -> str:
        return identity(self)


class Advertisement(msgspec.Struct, frozen=True, kw_only=True):
    """A device's keys for one round. channel, mask: X25519 public keys. seed_digest: SHA-256 of the self-mask's seed.

    segments: a bit for each segment that the round takes, set if the update feeds it; the first in the lowest bit.
    """

    device: Bytes32
    channel: Bytes32
    mask: Bytes32
    seed_digest: Bytes32
    update_id: Bytes16
    segments: Annotated[bytes, msgspec.Meta(max_length=512)]
    signature: Bytes64

    def statement(self, round_id: str) -> bytes:
        return b"".join(
            (
                bytes.fromhex(round_id),
                self.device,
                self.channel,
                self.mask,
                self.seed_digest,
                self.update_id,
                self.segments,
            )
        )


class SecureCohort(msgspec.Struct, frozen=True):
    """Everybody who advertised, sorted by device key; a device's place in it is its name in what follows."""

    members: Annotated[tuple[Advertisement, ...], msgspec.Meta(max_length=10_000)]

    def cohort_id(self, round_id: str) -> bytes:
        """32 bytes that stand for round, members and keys; also the seed of the graph."""
        return hashlib.sha256(b"homeroom/cohort\n" + b"".join(m.statement(round_id) for m in self.members)).digest()


class Shares(msgspec.Struct, frozen=True):
    """To each neighbour, by rising place, its two shares, sealed."""

    sealed: Annotated[tuple[Sealed, ...], msgspec.Meta(max_length=10_000)]


class Inbox(msgspec.Struct, frozen=True):
    """Who shared (places, rising), and what those of them who are neighbours sealed for the reader."""

    sharers: SlotIndices
    sealed: Annotated[tuple[Sealed, ...], msgspec.Meta(max_length=10_000)]


class Survivors(msgspec.Struct, frozen=True):
    """Whose masked vectors are in the sum: places, rising."""

    places: SlotIndices

    def statement(self, cohort_id: bytes) -> bytes:
        return cohort_id + b"".join(place.to_bytes(2, "big") for place in self.places)


class Consent(msgspec.Struct, frozen=True):
    """A device's signature, for the purpose `secure-survivors`, over the one set of survivors that it ever signs."""

    place: SlotIndex
    signature: Bytes64


class Consents(msgspec.Struct, frozen=True):
    survivors: Survivors
    consents: Annotated[tuple[Consent, ...], msgspec.Meta(max_length=10_000)]


class Reveal(msgspec.Struct, frozen=True):
    """By rising place of the sharers among the neighbours: of a survivor the seed's share, of the others the key's."""

    shares: Annotated[tuple[Bytes16, ...], msgspec.Meta(max_length=10_000)]


class RoundStatus(msgspec.Struct, frozen=True):
    """Where a round stands, for one device. wanted: its part of the phase is missing. member: it did not drop out.

    summed: its updates that are in the sums of rounds before, also where it was away when those were opened.
    """

    round_id: str
    phase: Phase
    wanted: bool
    member: bool
    summed: Annotated[tuple[str, ...], msgspec.Meta(max_length=10_000)] = ()


def pack(message: msgspec.Struct) -> bytes:
    return msgspec.msgpack.encode(message)


def unpack(data: bytes, into: type[MessageT], *, where: str, error: type[HomeroomError]) -> MessageT:
    """Read a message, bounded before it is decoded; `error` if it is too long or not one."""
    if len(data) > MESSAGE_LIMIT_BYTES:
        raise error(f"{len(data):,} bytes are more than the {MESSAGE_LIMIT_BYTES:,} allowed", where=where)
    try:
        return msgspec.msgpack.decode(data, type=into)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as problem:
        raise error(f"not a valid message: {problem}", where=where) from None
