"""The private release: an exact integer sum, discrete Gaussian noise once, and then only post-processing.

**Mechanism**: each merged segment's sum of clipped updates plus noise from the system's secure generator, all on the
fixed-point grid; divided by `buffer_size`, a constant. **Norm**: L2 over all merged segments together; one device has
one update in a release, and its norm was checked as an integer, so it moves the sum by at most `clip_grid`. **Noise**:
`noise_grid` in every coordinate, segments that nobody taught included. **Neighbours**: one device's update replaced by
zero. **By subject**, one subject's part is; that each is at most `clip_grid` long only its device knows, which answers
for its own subjects, and the aggregator checks that a whole update is at most `subjects` times that; the constant is
`buffer_size * subjects`. **When it does not hold**: against the aggregator itself, which sees the updates until they
are released; if its system's random generator is foreseeable; for who took part and when. The noise is never stored,
nor, after the release, are the updates: the log keeps the noised sum, from which the version follows bit for bit. In
a stream of releases the noise is another one, and what is kept too: `stream`.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
import safetensors.numpy

from homeroom.contract import adaptive_clipping, envelope
from homeroom.contract.layout import Layout
from homeroom.contract.privacy import clip
from homeroom.contract.round import RoundConfiguration
from homeroom.contract.update import Update
from homeroom.errors import StoreError, UpdateError
from homeroom.privacy.discrete_gaussian import discrete_gaussian
from homeroom_aggregator.merge.segment_sums import SegmentSums
from homeroom_aggregator.merge.server_optimizers import Server

DEVICES = "devices"  # beside the segments in a release: int64 [1], how many devices are in the sum
SIGNAL = "signal"  # int64 [1], where the clip adapts: the noised sum of who was within it


def once_a_release(sums: SegmentSums, device: str) -> None:
    """Raise UpdateError if the device is in the sums already: twice it would count double what the noise hides."""
    if any(device in fed for fed in sums.devices.values()):
        raise UpdateError(
            "this device's update is in the next release already",
            code="once_a_release",
            remedy="sync after the next release, then train again",
        )


def noised(
    sums: SegmentSums,
    layout: Layout,
    configuration: RoundConfiguration,
    correlated: Callable[[np.ndarray], np.ndarray] | None = None,
) -> bytes:
    """The sums with noise, ready to be logged; safetensors int64 [size] by segment_id, and how many devices fed it.

    configuration: with the clip in force, where that adapts. correlated: adds the noise of a stream to all sums,
    int64 [n], in place of noise of this release's own.
    """
    assert configuration.privacy  # only private rounds come here
    merged = configuration.merged(layout)
    whole = np.concatenate([*(sums.numerators[s.name] for s in merged), np.array([sums.signal], np.int64)])
    if not configuration.privacy.adapts:
        whole = whole[:-1]
    if correlated:
        whole = correlated(whole)
    else:
        whole = whole + discrete_gaussian(configuration.privacy.noise_grid(configuration.scale_bits), len(whole))
    *parts, rest = np.split(whole, np.cumsum([segment.size for segment in merged]))
    made = {segment.segment_id: part for segment, part in zip(merged, parts, strict=True)}
    made[DEVICES] = np.array([len(sums.devices[merged[0].name])], np.int64)
    if configuration.privacy.adapts:
        made[SIGNAL] = rest
    packed: bytes = safetensors.numpy.save(made)
    return packed


def next_clip(clip_grid: int, body: bytes, configuration: RoundConfiguration) -> int:
    """The clip that a logged release leaves in force, in units of the grid; 0 where it does not adapt."""
    start, bits = configuration.privacy, configuration.scale_bits
    if start is None or not start.adapts:
        return 0
    total = int(envelope.tensors(body, where="private release", error=StoreError)[SIGNAL][0])
    found = adaptive_clipping.next_clip(
        adaptive_clipping.at(start, clip_grid, bits), total, configuration.buffer_size, bits
    )
    return adaptive_clipping.bounded(found, start, bits)


def first_clip(configuration: RoundConfiguration) -> int:
    """The clip in force at version 0, in units of the grid; 0 where it does not adapt."""
    privacy = configuration.privacy
    return privacy.clip_grid(configuration.scale_bits) if privacy and privacy.adapts else 0


def in_force(configuration: RoundConfiguration, clip_grid: int) -> RoundConfiguration:
    """The configuration with the clip in force, of a state or version."""
    return configuration.at(clip_grid * 2.0**-configuration.scale_bits) if clip_grid else configuration


def shortened(update: Update, now: int, configuration: RoundConfiguration) -> Update:
    """A private update as it counts under a clip in force of `now` units of the grid, if it was made for a longer one.

    Scaled as a whole and rounded towards zero, as its device would have cut it. As it is where no clip adapts (0).
    """
    made_for, bits = update.header.privacy, configuration.scale_bits
    before = 0 if made_for is msgspec.UNSET else made_for.clip_grid(bits)
    if not now or before <= now or configuration.privacy is None:
        return update
    longest = adaptive_clipping.values_grid(adaptive_clipping.at(configuration.privacy, now, bits), bits)
    ends = np.cumsum([len(part) for part in update.values.values()])[:-1]
    whole = np.concatenate([*update.values.values()]).astype(np.float64)
    cut = clip(whole * (now / before), longest, 0)
    values = dict(zip(update.values, np.split(cut, ends), strict=True))
    told = int(update.signal * now / before)  # towards zero
    return Update(msgspec.structs.replace(update.header, signal=told), values, values)


def apply(
    theta: np.ndarray, body: bytes, layout: Layout, configuration: RoundConfiguration, server: Server | None = None
) -> tuple[np.ndarray, dict[str, int]]:
    """Theta float32 [P] moved by a logged release, and by segment the number of devices.

    server: keeps the optimizer's moments, which are made of what was released alone.
    """
    server = server or Server(configuration, {})
    found = envelope.tensors(body, where="private release", error=StoreError)
    theta, fed = theta.copy(), int(found.pop(DEVICES)[0])
    segments = [segment for segment in layout if segment.segment_id in found]
    for segment in segments:
        mean = found[segment.segment_id].astype(np.float64) / (configuration.buffer_size * configuration.parts)
        where = layout.slices[segment.name]
        theta[where] = server.move(segment.name, theta[where], mean * 2.0**-configuration.scale_bits)
    return theta, {segment.name: fed for segment in segments}
