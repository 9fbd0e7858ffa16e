"""The private release: an exact integer sum, discrete Gaussian noise once, and then only post-processing.

**Mechanism**: each merged segment's sum of clipped updates plus noise from the system's secure generator, all on the
fixed-point grid; divided by `buffer_size`, a constant. **Norm**: L2 over all merged segments together; one device has
one update in a release, and its norm was checked as an integer, so it moves the sum by at most `clip_grid`. **Noise**:
`noise_grid` in every coordinate, segments that nobody taught included. **Neighbours**: one device's update replaced by
zero. **By subject**, one subject's part is; that each is at most `clip_grid` long only its device knows, which answers
for its own subjects, and the aggregator checks that a whole update is at most `subjects` times that; the constant is
`buffer_size * subjects`. **When it does not hold**: against the aggregator itself, which sees the updates until they
are released; if its system's random generator is foreseeable; for who took part and when. The noise is never stored,
nor, after the release, are the updates: the log keeps the noised sum, from which the version follows bit for bit. With
correlated noise, both the noise and what is kept differ: `correlated_noise`.
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
from homeroom_aggregator.merge.server_optimizers import OptimizerState

DEVICES_KEY = "devices"  # beside the segments in a release: int64 [1], how many devices are in the sum
SIGNAL_KEY = "signal"  # int64 [1], where the clip adapts: the noised sum of who was within it


def check_once_a_release(sums: SegmentSums, device: str) -> None:
    """Raise UpdateError if the device is in the sums already: twice it would count double what the noise hides."""
    if any(device in fed for fed in sums.devices.values()):
        raise UpdateError(
            "this device's update is in the next release already",
            code="once_a_release",
            remedy="sync after the next release, then train again",
        )


def pack_noised(
    sums: SegmentSums,
    layout: Layout,
    configuration: RoundConfiguration,
    correlated: Callable[[np.ndarray], np.ndarray] | None = None,
) -> bytes:
    """The noised sums as the log keeps them: safetensors int64 [size] by segment_id, and how many devices fed them.

    sums: exact, of the updates since the last release.
    layout: of the bundle.
    configuration: with the clip in force, where that adapts.
    correlated: adds correlated noise to all sums, int64 [n], in place of noise of this release's own.
    """
    assert configuration.privacy  # only private rounds come here
    merged = configuration.merged(layout)
    vector = np.concatenate([*(sums.numerators[s.name] for s in merged), np.array([sums.signal], np.int64)])
    if not configuration.privacy.adapts:
        vector = vector[:-1]
    sigma = configuration.privacy.noise_grid(configuration.scale_bits)
    vector = correlated(vector) if correlated else vector + discrete_gaussian(sigma, len(vector))
    *parts, signal = np.split(vector, np.cumsum([segment.size for segment in merged]))
    tensors = {segment.segment_id: part for segment, part in zip(merged, parts, strict=True)}
    tensors[DEVICES_KEY] = np.array([len(sums.devices[merged[0].name])], np.int64)
    if configuration.privacy.adapts:
        tensors[SIGNAL_KEY] = signal
    return bytes(safetensors.numpy.save(tensors))


def next_clip(clip_grid: int, body: bytes, configuration: RoundConfiguration) -> int:
    """The clip that a logged release leaves in force, in units of the grid; 0 where it does not adapt."""
    start, bits = configuration.privacy, configuration.scale_bits
    if start is None or not start.adapts:
        return 0
    total = int(envelope.tensors(body, where="private release", error=StoreError)[SIGNAL_KEY][0])
    present = adaptive_clipping.with_clip(start, clip_grid, bits)
    moved = adaptive_clipping.next_clip(present, total, configuration.buffer_size, bits)
    return adaptive_clipping.bounded_clip(moved, start, bits)


def first_clip(configuration: RoundConfiguration) -> int:
    """The clip in force at version 0, in units of the grid; 0 where it does not adapt."""
    privacy = configuration.privacy
    return privacy.clip_grid(configuration.scale_bits) if privacy and privacy.adapts else 0


def with_clip(configuration: RoundConfiguration, clip_grid: int) -> RoundConfiguration:
    """The configuration with the clip in force, of a state or version."""
    return configuration.with_clip(clip_grid * 2.0**-configuration.scale_bits) if clip_grid else configuration


def reclipped(update: Update, clip_grid: int, configuration: RoundConfiguration) -> Update:
    """A private update cut to the clip in force, in units of the grid, if it was made for a longer one.

    Scaled as a whole and rounded towards zero, as its device would have cut it. As it is where no clip adapts (0).
    """
    promise, bits = update.header.privacy, configuration.scale_bits
    before = 0 if promise is msgspec.UNSET else promise.clip_grid(bits)
    if not clip_grid or before <= clip_grid or configuration.privacy is None:
        return update
    longest = adaptive_clipping.values_grid(adaptive_clipping.with_clip(configuration.privacy, clip_grid, bits), bits)
    ends = np.cumsum([len(part) for part in update.values.values()])[:-1]
    vector = np.concatenate([*update.values.values()]).astype(np.float64)
    clipped = clip(vector * (clip_grid / before), longest, 0)
    values = dict(zip(update.values, np.split(clipped, ends), strict=True))
    signal = int(update.signal * clip_grid / before)  # towards zero
    return Update(msgspec.structs.replace(update.header, signal=signal), values, values)


def apply_release(
    theta: np.ndarray,
    body: bytes,
    layout: Layout,
    configuration: RoundConfiguration,
    optimizer: OptimizerState | None = None,
) -> tuple[np.ndarray, dict[str, int]]:
    """Theta float32 [P] moved by a logged release, and by segment the number of devices.

    theta: float32 [P], before the release.
    body: the noised sums (`pack_noised`).
    layout, configuration: of the bundle and its rounds.
    optimizer: keeps the server optimizer's moments, which are made of what was released alone.
    """
    optimizer = optimizer or OptimizerState(configuration, {})
    sums = envelope.tensors(body, where="private release", error=StoreError)
    theta, fed = theta.copy(), int(sums.pop(DEVICES_KEY)[0])
    segments = [segment for segment in layout if segment.segment_id in sums]
    for segment in segments:
        mean = sums[segment.segment_id].astype(np.float64) / (configuration.buffer_size * configuration.parts)
        where = layout.slices[segment.name]
        theta[where] = optimizer.step(segment.name, theta[where], mean * 2.0**-configuration.scale_bits)
    return theta, {segment.name: fed for segment in segments}
