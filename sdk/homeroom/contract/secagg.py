"""Messages of secure rounds between aggregator and devices, and their limits.

`docs/secure.md` describes the rounds on one page. Messages are MessagePack; signatures are over fixed byte strings.
"""

from __future__ import annotations

import hashlib
from fractions import Fraction
from math import ceil, floor
from typing import Annotated, Literal, TypeVar

import msgspec

from homeroom.contract.canonical_json import identity
from homeroom.contract.manifest import Hash
from homeroom.errors import HomeroomError

Phase = Literal["keys", "shares", "input", "consent", "reveal"]
PHASES: tuple[Phase, ...] = ("keys", "shares", "input", "consent", "reveal")
SHARE_BYTES = 16  # one element of GF(2^128)
SEALED_BYTES = 12 + 2 * SHARE_BYTES + 16  # nonce, both shares, tag
MOST_MISSING = 20  # devices that a status names
MOST_SEGMENT_BITS = 4096  # of an advertisement
MESSAGE_LIMIT_BYTES = 16 << 20  # of every message but a masked encoding
MessageT = TypeVar("MessageT")

Bytes16 = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
Bytes32 = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Bytes64 = Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]
Sealed = Annotated[bytes, msgspec.Meta(min_length=SEALED_BYTES, max_length=SEALED_BYTES)]
SlotIndex = Annotated[int, msgspec.Meta(ge=0, lt=10_000)]  # a device's index in its cohort, which is sorted by key
SlotIndices = Annotated[tuple[SlotIndex, ...], msgspec.Meta(max_length=10_000)]


def exact_share(rate: float, count: int) -> Fraction:
    """The share `rate` of a count; the rate is the decimal that was signed, not the binary number next to it."""
    return Fraction(repr(rate)) * count


class SecureRules(msgspec.Struct, frozen=True, kw_only=True):
    """Rules of secure rounds, part of a round configuration.

    minimum: least number of devices in a sum, where the roster does not ask for more.
    cohort: number of devices that ends joining at once.
    drop_rate: share of the cohort that may drop out while the round still completes.
    corrupt_rate: share of the cohort that may be corrupt while the round still hides each update.
    phase_s: seconds after which a phase ends without the missing devices, if enough are left.
    """

    minimum: Annotated[int, msgspec.Meta(ge=3)] = 5
    cohort: Annotated[int, msgspec.Meta(ge=3, le=10_000)] = 20
    drop_rate: Annotated[float, msgspec.Meta(ge=0, le=0.45)] = 0.3
    corrupt_rate: Annotated[float, msgspec.Meta(ge=0, le=0.3)] = 0.1
    phase_s: Annotated[int, msgspec.Meta(ge=1)] = 86_400

    def corrupted(self, devices: int) -> int:
        """The most corrupt devices of a cohort, rounded up."""
        return ceil(exact_share(self.corrupt_rate, devices))

    def drops(self, devices: int) -> int:
        """The most drop-outs of a cohort, rounded down."""
        return floor(exact_share(self.drop_rate, devices))

    def honest(self, cohort: int, minimum: int) -> int:
        """Honest devices among `minimum` in a sum, if all corrupt devices of the cohort are among them."""
        return minimum - self.corrupted(cohort)


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """Announcement of a round, signed by the aggregator for the purpose `secure-round`.

    version: the newest version when it was announced.
    nonce: makes the round's id unique.
    """

    configuration_id: Hash
    roster_id: Hash
    version: Annotated[int, msgspec.Meta(ge=0)]
    nonce: Hash

    @property
    def round_id(self) -> str:
        """Identity of the notice."""
        return identity(self)


class Advertisement(msgspec.Struct, frozen=True, kw_only=True):
    """A device's signed keys for one round.

    channel, mask: X25519 public keys, for sealing shares and for pairwise masks.
    seed_digest: SHA-256 of the self-mask's seed.
    segments: a bit for each segment of the round, set if the update feeds it; the first in the lowest bit.
    """

    device: Bytes32
    channel: Bytes32
    mask: Bytes32
    seed_digest: Bytes32
    update_id: Bytes16
    segments: Annotated[bytes, msgspec.Meta(max_length=MOST_SEGMENT_BITS // 8)]
    signature: Bytes64

    def statement(self, round_id: str) -> bytes:
        """The bytes that are signed."""
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
    """The devices that advertised, sorted by key; later messages name a device by its slot, the index in `members`."""

    members: Annotated[tuple[Advertisement, ...], msgspec.Meta(max_length=10_000)]

    def cohort_id(self, round_id: str) -> bytes:
        """SHA-256 of round, devices and keys, 32 bytes; also the seed of the neighbour graph."""
        return hashlib.sha256(b"homeroom/cohort\n" + b"".join(m.statement(round_id) for m in self.members)).digest()


class Shares(msgspec.Struct, frozen=True):
    """A device's two shares for each neighbour, sealed, by rising slot."""

    sealed: Annotated[tuple[Sealed, ...], msgspec.Meta(max_length=10_000)]


class Inbox(msgspec.Struct, frozen=True):
    """Slots of the devices that shared, rising, and the shares that neighbours among them sealed for the reader."""

    sharers: SlotIndices
    sealed: Annotated[tuple[Sealed, ...], msgspec.Meta(max_length=10_000)]


class Survivors(msgspec.Struct, frozen=True):
    """Slots, rising, of the devices whose masked encodings are in the sum."""

    places: SlotIndices

    def statement(self, cohort_id: bytes) -> bytes:
        """The bytes that are signed."""
        return cohort_id + b"".join(slot.to_bytes(2, "big") for slot in self.places)


class SurvivorsConsent(msgspec.Struct, frozen=True):
    """A device's signature over the survivors, for the purpose `secure-survivors`; it signs one set a round."""

    place: SlotIndex
    signature: Bytes64


class Consents(msgspec.Struct, frozen=True):
    """The survivors and the signatures over them."""

    survivors: Survivors
    consents: Annotated[tuple[SurvivorsConsent, ...], msgspec.Meta(max_length=10_000)]


class Reveal(msgspec.Struct, frozen=True):
    """One share of each neighbour that shared, by rising slot: a survivor's self-mask seed, a drop-out's mask key."""

    shares: Annotated[tuple[Bytes16, ...], msgspec.Meta(max_length=10_000)]


class RoundStatus(msgspec.Struct, frozen=True):
    """Status of a round for one device.

    wanted: its message of this phase is missing.
    member: it is in the cohort and did not drop out.
    summed: ids of its updates in the sums of earlier rounds, also of those that ended while it was away.
    arrived, needed: devices whose part of the phase has come, of so many with which it ends at once; 0 from a server
        that does not tell.
    missing: keys of devices that are awaited, up to MOST_MISSING.
    left_s: seconds after which the phase ends without them, if enough came.
    hindrance: why those who came do not suffice to begin.
    """

    round_id: str
    phase: Phase
    wanted: bool
    member: bool
    summed: Annotated[tuple[str, ...], msgspec.Meta(max_length=10_000)] = ()
    arrived: int = 0
    needed: int = 0
    missing: Annotated[tuple[str, ...], msgspec.Meta(max_length=10_000)] = ()
    left_s: int = 0
    hindrance: str = ""


def pack(message: msgspec.Struct) -> bytes:
    """The MessagePack bytes of a message."""
    return msgspec.msgpack.encode(message)


def unpack(data: bytes, into: type[MessageT], *, where: str, error: type[HomeroomError]) -> MessageT:
    """Reads a message of the structure `into`; raises `error` if it is too long or malformed."""
    if len(data) > MESSAGE_LIMIT_BYTES:
        raise error(f"{len(data):,} bytes are more than the {MESSAGE_LIMIT_BYTES:,} allowed", where=where)
    try:
        return msgspec.msgpack.decode(data, type=into)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as problem:
        raise error(f"not a valid message: {problem}", where=where) from None
