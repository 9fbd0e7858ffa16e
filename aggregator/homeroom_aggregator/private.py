"""The private release: an exact integer sum, discrete Gaussian noise once, and then only post-processing.

**Mechanism**: each merged segment's sum of clipped updates plus noise from the system's secure generator, all on the
fixed-point grid; divided by `buffer_size`, a constant. **Norm**: L2 over all merged segments together; one device has
one update in a release, and its norm was checked as an integer, so it moves the sum by at most `clip_grid`. **Noise**:
`noise_grid` in every coordinate, segments that nobody taught included. **Neighbours**: one device's update replaced by
zero. **By subject**, one subject's part is; that each is at most `clip_grid` long only its device knows, which answers
for its own subjects, and the aggregator checks that a whole update is at most `subjects` times that; the constant is
`buffer_size * subjects`. **When it does not hold**: against the aggregator itself, which sees the updates until they
are released; if its system's random generator is foreseeable; for who took part and when. The noise is never stored,
nor, after the release, are the updates: the log keeps the noised sum, from which the version follows bit for bit.
"""

from __future__ import annotations

import numpy as np
import safetensors.numpy

from homeroom.contract import envelope
from homeroom.contract.layout import Layout
from homeroom.contract.update import RoundConfiguration
from homeroom.errors import StoreError, UpdateError
from homeroom.noise import discrete_gaussian
from homeroom_aggregator.merge import SegmentSums
from homeroom_aggregator.optimizers import Server

DEVICES = "devices"  # beside the segments in a release: int64 [1], how many devices are in the sum


def once_a_release(sums: SegmentSums, device: str) -> None:
    """Raise UpdateError if the device is in the sums already: twice it would count double what the noise hides."""
    if any(device in fed for fed in sums.devices.values()):
        raise UpdateError(
            "this device's update is in the next release already",
            code="once_a_release",
            remedy="sync after the next release, then train again",
        )


def noised(sums: SegmentSums, layout: Layout, configuration: RoundConfiguration) -> bytes:
    """The sums with noise, ready to be logged; safetensors int64 [size] by segment_id, and how many devices fed it."""
    assert configuration.privacy  # only private rounds come here
    merged = configuration.merged(layout)
    sigma = configuration.privacy.noise_grid(configuration.scale_bits)
    noise = discrete_gaussian(sigma, sum(segment.size for segment in merged))
    parts = zip(merged, np.split(noise, np.cumsum([s.size for s in merged])[:-1]), strict=True)
    made = {segment.segment_id: sums.numerators[segment.name] + part for segment, part in parts}
    fed = len(sums.devices[merged[0].name])
    packed: bytes = safetensors.numpy.save({**made, DEVICES: np.array([fed], np.int64)})
    return packed


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
