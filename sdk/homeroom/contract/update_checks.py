"""Reads an update and checks it against the round's signed configuration."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np

from homeroom.contract import adaptive_clipping, envelope
from homeroom.contract.codecs import decode
from homeroom.contract.layout import FULL_TIER, Layout
from homeroom.contract.policy import narrowed
from homeroom.contract.privacy import Privacy, squared_norm
from homeroom.contract.round import OLDEST_ROUND_FORMAT, ROUND_FORMAT, RoundConfiguration
from homeroom.contract.update import REFUSALS, UPDATE_MAGIC, Update, UpdateHeader
from homeroom.errors import TrustError, UpdateError


def read_update(data: bytes, configuration: RoundConfiguration, layout: Layout) -> Update:
    """Reads, verifies and checks an update against the round; raises UpdateError with the reason's code.

    One that was made with an earlier bundle comes without the segments that do not go on, in its header too. Whether
    the device is enrolled and its base version known is the aggregator's to check.
    """
    header, payload = _read_signed(data, configuration.update_limit_bytes)
    _check_header(header, configuration)
    _check_tier(header.tier, configuration, layout)
    header, values = _decode_segments(header, payload, configuration, layout)
    if configuration.privacy:
        _check_private(header, values, configuration, configuration.privacy, layout)
    else:
        _check_norm(values, configuration)
    if configuration.sums_whole_segments:
        return Update(header, values, values)
    return _by_tier_slice(header, values, layout)


def segment_names(data: bytes) -> frozenset[str]:
    """Names of the segments that an update says it holds, which was let in before; UpdateError if it is damaged."""
    header, _ = _read_signed(data, len(data))
    return frozenset(entry.name for entry in header.segments)


def read_admitted(data: bytes, layout: Layout) -> Update:
    """Reads a plain update that was let in before, whatever the round's rules are now; UpdateError if it is damaged.

    Segments that this layout does not have are of an earlier bundle, and are left out.
    """
    header, payload = _read_signed(data, len(data))
    return _by_tier_slice(*_decode_segments(header, payload, None, layout), layout)


def _by_tier_slice(header: UpdateHeader, values: dict[str, np.ndarray], layout: Layout) -> Update:
    parts = [layout.by_tier_slice(name, header.tier, part) for name, part in values.items()]
    return Update(header, values, {name: part for slices in parts for name, part in slices.items()})


def _read_signed(data: bytes, limit_bytes: int) -> tuple[UpdateHeader, bytes]:
    """Header and payload, once size, format, payload hash and the device's signature hold."""
    where = "update"
    if len(data) > limit_bytes:
        raise UpdateError(f"{len(data):,} bytes are more than {limit_bytes:,}", code="too_long")
    header, payload, signature = envelope.unpack(
        data, UPDATE_MAGIC, "update", UpdateHeader, limit_bytes=limit_bytes, where=where, error=UpdateError
    )
    if not OLDEST_ROUND_FORMAT <= header.format <= ROUND_FORMAT:
        raise UpdateError(f"format {header.format} is not read here", code="old_format", remedy="update homeroom")
    try:
        envelope.check(header.device, "update", data, signature, where=where)
    except TrustError as problem:
        raise UpdateError(str(problem), code="bad_signature") from None
    return header, payload


def _check_header(header: UpdateHeader, configuration: RoundConfiguration) -> None:
    if header.bundle_id != configuration.bundle_id:
        _check_earlier(header, configuration)
    if header.scale_bits != configuration.scale_bits:
        raise UpdateError(f"scale {header.scale_bits} is not the round's {configuration.scale_bits}", code="malformed")
    if header.codec not in (configuration.codec, *configuration.earlier_codecs, "fixed32"):
        raise UpdateError(f"codec {header.codec} is not the round's {configuration.codec}", code="malformed")
    if not header.segments:
        raise UpdateError(REFUSALS["empty"], code="empty")


def _check_earlier(header: UpdateHeader, configuration: RoundConfiguration) -> None:
    """Raises UpdateError unless an earlier bundle made it, on a version of its own, and something of it goes on."""
    made_with, remedy = f"made with bundle {header.bundle_id[:12]}", "install ours, then train again"
    earlier = configuration.earlier_bundle(header.bundle_id)
    if earlier is None:
        raise UpdateError(made_with, code="other_bundle", remedy=remedy)
    if header.base_version > earlier.version:
        raise UpdateError(f"version {header.base_version} was never released for it", code="unknown_version")
    if not {entry.segment_id for entry in header.segments} & {*earlier.segments}:
        raise UpdateError(f"{made_with}, and nothing in it goes on in ours", code="other_bundle", remedy=remedy)
    if header.tier not in earlier.tiers:
        what = f"{made_with}, whose tier {header.tier!r} has other values than ours"
        raise UpdateError(what, code="other_bundle", remedy=remedy)


def _check_tier(tier: str, configuration: RoundConfiguration, layout: Layout) -> None:
    if configuration.sums_whole_segments and tier != FULL_TIER:
        raise UpdateError("this round sums whole segments", code="malformed", remedy="update homeroom")
    if tier not in (FULL_TIER, *(name for name, _ in layout.tiers)):
        raise UpdateError(f"tier {tier!r} is unknown here", code="malformed")


def _decode_segments(
    header: UpdateHeader, payload: bytes, configuration: RoundConfiguration | None, layout: Layout
) -> tuple[UpdateHeader, dict[str, np.ndarray]]:
    """int32 [values of the tier] by segment name, each a segment that this round merges, or, without one, of theta.

    The header is without the segments of an earlier bundle that do not go on.
    """
    segments = narrowed(layout, configuration.scopes) if configuration else layout
    merged_by_id = {segment.segment_id: segment for segment in segments}
    tensors = envelope.tensors(payload, where="update", error=UpdateError)
    if sorted(tensors) != sorted({e.segment_id for e in header.segments}) or len(tensors) != len(header.segments):
        raise UpdateError("the payload's segments are not those of the header", code="malformed")
    values: dict[str, np.ndarray] = {}
    earlier = configuration.earlier_bundle(header.bundle_id) if configuration else None
    goes_on = {*earlier.segments} if earlier else merged_by_id.keys()
    if earlier or configuration is None:
        kept = tuple(entry for entry in header.segments if entry.segment_id in goes_on)
        header = msgspec.structs.replace(header, segments=kept)
    for entry in header.segments:
        segment = merged_by_id.get(entry.segment_id)
        if segment is None:
            raise UpdateError(f"segment {entry.name!r} is not merged here", code="unknown_segment")
        if configuration and not configuration.merges(segment):
            raise UpdateError(f"segment {segment.name} is {segment.scope}", code="personal_segment")
        indices = layout.indices(segment.name, header.tier)
        size = segment.size if isinstance(indices, slice) else len(indices)
        try:
            values[segment.name] = decode(tensors[entry.segment_id], header.codec, size, header.scale_bits)
        except UpdateError as problem:
            raise UpdateError(problem.what, code=problem.code, where=f"segment {segment.name}") from None
    return header, values


def _check_norm(values: Mapping[str, np.ndarray], configuration: RoundConfiguration) -> None:
    """Raises UpdateError if the L2 norm over all segments together exceeds `max_norm`."""
    limit = configuration.max_norm * 2.0**configuration.scale_bits
    if sum(map(squared_norm, values.values())) < 0.99 * limit * limit:  # a tenth of the time of what decides
        return
    scale = 2.0**-configuration.scale_bits
    norm = sum(float(np.square(part.astype(np.float64) * scale).sum()) for part in values.values()) ** 0.5
    if norm > configuration.max_norm:
        raise UpdateError(f"norm {norm:.3g} exceeds {configuration.max_norm:g}", code="too_large")


def _check_private(
    header: UpdateHeader,
    values: Mapping[str, np.ndarray],
    configuration: RoundConfiguration,
    privacy: Privacy,
    layout: Layout,
) -> None:
    """Raises UpdateError unless the update holds every segment, was clipped as a whole and states no count.

    Where the clip adapts, it is the one that the update itself names; the aggregator brings it to the one in force.
    """
    merged, bits, signal = {segment.name for segment in configuration.merged(layout)}, configuration.scale_bits, 0
    if privacy.adapts and header.privacy is not msgspec.UNSET and header.signal is not msgspec.UNSET:
        clip_grid, signal = header.privacy.clip_grid(bits), header.signal
        if header.privacy != privacy and clip_grid == adaptive_clipping.bounded_clip(clip_grid, privacy, bits):
            privacy = adaptive_clipping.with_clip(privacy, clip_grid, bits)
    complete = set(values) == merged and (header.signal is not msgspec.UNSET) == privacy.adapts
    if header.privacy != privacy or not complete or any(entry.examples != 1 for entry in header.segments):
        raise UpdateError(REFUSALS["not_private"], code="not_private", remedy="sync, then train again")
    limit = privacy.limit_grid(bits)
    if sum(squared_norm(part) for part in values.values()) + signal * signal > limit * limit:
        raise UpdateError(
            f"norm exceeds the clip of {privacy.parts * privacy.clip_norm:g}", code="not_clipped", remedy="train again"
        )
