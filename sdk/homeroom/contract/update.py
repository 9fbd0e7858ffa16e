"""Update of one device: its header, refusal codes, and how plain and private updates are made and signed.

`docs/update.md` describes the format on one page. An update counts once, by its id; its signature never expires.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from typing import Annotated

import msgspec
import numpy as np
import safetensors.numpy
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from homeroom.contract import adaptive_clipping, envelope
from homeroom.contract.canonical_json import digest
from homeroom.contract.codecs import Codec, encode
from homeroom.contract.layout import FULL_TIER, Layout
from homeroom.contract.manifest import Hash
from homeroom.contract.privacy import Privacy, clip, grid_norm
from homeroom.contract.round import ROUND_FORMAT, RoundConfiguration
from homeroom.contract.signing import public_hex
from homeroom.errors import UpdateError

UPDATE_MAGIC = b"HRUPDAT1"
REFUSALS = {
    "malformed": "it cannot be read as an update",
    "too_long": "it has more bytes than the round allows",
    "old_format": "its format is no longer read",
    "unknown_device": "this device is not enrolled",
    "not_selected": "this device was not asked into this round; it is asked again later",
    "no_consent": "this device's school has not consented yet",
    "bad_signature": "its signature does not hold",
    "other_bundle": "it was made with a bundle that this aggregator does not serve",
    "unknown_version": "its base version was never released here",
    "too_stale": "its base version is too far behind",
    "unknown_segment": "it holds a segment that this round does not merge",
    "personal_segment": "it holds a segment whose scope does not allow it to leave the device",
    "wrong_shape": "a segment has another length or dtype than its identity says",
    "not_finite": "it holds values that are not finite",
    "too_large": "it is far larger than an honest update",
    "empty": "it holds no segment",
    "not_private": "it was not made as this private round asks",
    "not_clipped": "it is longer than the clip norm of this private round",
    "once_a_version": "this device has sent an update on that base version already",
    "once_a_release": "this device has an update in the next private release already",
    "budget_spent": "one more private release would pass this device's privacy budget",
    "secure_only": "updates are summed in secure rounds here, and none is taken by itself",
    "set_apart": "it failed its reader here once, and is not read again",
    "full": "as many updates wait here as their sums may hold; it is sent again later",
    "no_statistics": "statistics are not collected here",
    "unknown_base": "it changes another total than the one that is here",
    "too_few": "a number in it is of too few samples or subjects",
    "past_phase": "its part of a secure round came too late, or twice and different",
    "not_member": "this device is not in that cohort",
}


class SegmentEntry(msgspec.Struct, frozen=True):
    segment_id: Hash
    name: Annotated[str, msgspec.Meta(max_length=128)]
    examples: Annotated[int, msgspec.Meta(ge=1)]


class UpdateHeader(msgspec.Struct, frozen=True, kw_only=True):
    """Header of an update; it states no time, since devices have no clock to trust.

    device: its public key, hexadecimal.
    privacy: the terms of the private round, with the clip of the base version.
    signal: where the clip adapts, whether the update was within it (`contract.adaptive_clipping`).
    """

    format: int = ROUND_FORMAT
    update_id: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}$")]
    device: Hash
    bundle_id: Hash
    base_version: Annotated[int, msgspec.Meta(ge=0)]
    tier: str = FULL_TIER
    codec: Codec = "fixed32"
    scale_bits: int
    segments: Annotated[tuple[SegmentEntry, ...], msgspec.Meta(max_length=4096)]
    payload_sha256: Hash
    privacy: Privacy | msgspec.UnsetType = msgspec.UNSET
    signal: int | msgspec.UnsetType = msgspec.UNSET


class Update(msgspec.Struct, frozen=True):
    """A well-formed update, as `read_update` returns it.

    values: int32 [values of its tier] by segment name, decoded from any codec.
    tier_slices: the same values by `Layout.tier_slices`.
    """

    header: UpdateHeader
    values: dict[str, np.ndarray]
    tier_slices: dict[str, np.ndarray]

    @property
    def signal(self) -> int:
        """The header's signal, 0 where the clip does not adapt."""
        return 0 if self.header.signal is msgspec.UNSET else self.header.signal


def make_update(
    key: Ed25519PrivateKey,
    configuration: RoundConfiguration,
    layout: Layout,
    delta: np.ndarray,
    examples: Mapping[str, int],
    base_version: int,
    update_id: str | None = None,
    tier: str = FULL_TIER,
) -> bytes:
    """Encodes and signs theta_after - theta_before.

    Raises UpdateError if no segment may be sent, or a value does not fit the fixed-point grid.

    key: the device's signing key.
    delta: float32 [P], plus the residual of earlier updates.
    examples: number of training samples by segment name; segments that are absent or zero are left out. In a private
        round all segments are sent, clipped as one vector, and counts are 1.
    base_version: the version that training started from.
    update_id: 32 hexadecimal digits; drawn where None.
    tier: the tier that trained; only its values are sent, except in secure and private rounds.
    """
    if configuration.sums_whole_segments:
        tier = FULL_TIER  # values that a smaller tier lacks have a difference of zero
    chosen = [segment for segment in configuration.merged(layout) if examples.get(segment.name, 0) > 0]
    if not chosen:
        raise UpdateError(
            "no segment that may leave was trained", code="empty", remedy="add labelled samples and train first"
        )
    codec, bits, keep = configuration.codec, configuration.scale_bits, configuration.keep
    if configuration.privacy:
        if configuration.by_subject:
            raise UpdateError("it was not clipped subject by subject", code="not_clipped", remedy="train again")
        return make_private(key, configuration, layout, [delta], base_version, update_id)
    encoded = {s.segment_id: encode(delta[layout.indices(s.name, tier)], codec, bits, keep) for s in chosen}
    entries = tuple(SegmentEntry(s.segment_id, s.name, int(examples[s.name])) for s in chosen)
    return _sign(key, configuration, encoded, entries, base_version, update_id, tier)


def make_private(
    key: Ed25519PrivateKey,
    configuration: RoundConfiguration,
    layout: Layout,
    parts: Iterable[np.ndarray],
    base_version: int,
    update_id: str | None = None,
) -> bytes:
    """Clips each part to `clip_norm` (L2, all segments together), adds the parts in integers, signs the sum.

    The only way to make an update of a private round. By subject every subject is in it, however many there are: no
    part decides whether another is. A sum of more than `subjects` clips is cut to that length as a whole. Raises
    UpdateError if there is no part, or, where the unit is the device, more than one.

    parts: float32 [P] each: the whole update, or, where the unit is the subject, each subject's update.
    """
    privacy, chosen, bits = configuration.privacy, configuration.merged(layout), configuration.scale_bits
    assert privacy
    size = sum(s.size for s in chosen)
    limit = min(adaptive_clipping.values_grid(privacy, bits), privacy.part_grid(bits, size))
    if limit < 1:
        raise UpdateError(f"a clip of {privacy.clip_norm:g} has no room for {size:,} values", code="not_clipped")
    total, count, within = np.zeros(size, np.int64), 0, True
    for count, part in enumerate(parts, 1):
        if count > 1 and privacy.unit == "device":
            raise UpdateError("more than one part is in it", code="not_clipped", remedy="train again")
        shared = np.concatenate([part[layout.indices(s.name)] for s in chosen])
        total += clip(shared, limit, bits)
        within = grid_norm(shared, bits) <= limit
    if not count:
        raise UpdateError("nobody's samples taught anything", code="empty", remedy="add labelled samples and train")
    if count > 1:
        total = clip(total, privacy.limit_grid(bits), 0)
    ends = np.cumsum([s.size for s in chosen])[:-1]
    encoded = dict(zip((s.segment_id for s in chosen), np.split(total.astype(np.int32), ends), strict=True))
    entries = tuple(SegmentEntry(s.segment_id, s.name, 1) for s in chosen)
    signal = adaptive_clipping.signal(privacy, within, bits) if privacy.adapts else msgspec.UNSET
    return _sign(key, configuration, encoded, entries, base_version, update_id, FULL_TIER, signal)


def _sign(
    key: Ed25519PrivateKey,
    configuration: RoundConfiguration,
    encoded: dict[str, np.ndarray],
    entries: tuple[SegmentEntry, ...],
    base_version: int,
    update_id: str | None,
    tier: str,
    signal: int | msgspec.UnsetType = msgspec.UNSET,
) -> bytes:
    payload = safetensors.numpy.save(encoded)
    header = UpdateHeader(
        update_id=update_id or uuid.uuid4().hex,
        device=public_hex(key),
        bundle_id=configuration.bundle_id,
        base_version=base_version,
        tier=tier,
        codec=configuration.codec,
        scale_bits=configuration.scale_bits,
        segments=entries,
        payload_sha256=digest(payload),
        privacy=configuration.privacy or msgspec.UNSET,
        signal=signal,
    )
    return envelope.pack(UPDATE_MAGIC, "update", header, payload, key)
