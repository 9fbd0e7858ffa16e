"""The exact integer merge, segment by segment; numpy and the contracts only.

Federated averaging with weights (McMahan et al. 2017), asynchronously as in FedBuff (Nguyen et al. 2022). Sums are
integers, so the order of updates changes nothing; what follows is elementwise float64, so a replay gives the same bits.
"""

from __future__ import annotations

from math import isqrt

import numpy as np

from homeroom.contract.layout import Layout
from homeroom.contract.update import RoundConfiguration, Update

UNITS = 16  # of weight, for one example
TOTAL_LIMIT = 1 << 38  # of weight in one segment; with values below 2**24 no int64 sum can overflow


def weight(examples: int, staleness: int, configuration: RoundConfiguration) -> int:
    """Integer weight of one segment: its examples, capped, over the root of 1 + staleness; at least 1."""
    capped = UNITS * min(examples, configuration.cap_examples)
    return max(1, isqrt(capped * capped // (1 + staleness)))


class SegmentSums:
    """What waits to be released: by segment name the sums of weight * value, the weights, and who fed it."""

    def __init__(self) -> None:
        self.numerators: dict[str, np.ndarray] = {}  # int64 [size]
        self.weights: dict[str, int] = {}
        self.devices: dict[str, set[str]] = {}

    def add(self, update: Update, staleness: int, configuration: RoundConfiguration) -> None:
        """Add every segment of an update that `read_update` has accepted."""
        examples = {entry.segment_id: entry.examples for entry in update.header.segments}
        names = dict(zip(update.values, (entry.segment_id for entry in update.header.segments), strict=True))
        for name, values in update.values.items():
            units = weight(examples[names[name]], staleness, configuration)
            if self.weights.get(name, 0) + units > TOTAL_LIMIT:
                raise OverflowError(f"segment {name} holds more than {TOTAL_LIMIT} units of weight")
            part = values.astype(np.int64) * units
            self.numerators[name] = self.numerators[name] + part if name in self.numerators else part
            self.weights[name] = self.weights.get(name, 0) + units
            self.devices.setdefault(name, set()).add(update.header.device)

    def ready(self, configuration: RoundConfiguration) -> list[str]:
        """Segments that at least `min_devices` distinct devices fed, in alphabetical order."""
        return sorted(name for name, fed in self.devices.items() if len(fed) >= configuration.min_devices)

    def release(
        self, theta: np.ndarray, layout: Layout, configuration: RoundConfiguration
    ) -> tuple[np.ndarray, dict[str, int]]:
        """A new theta float32 [P] and, by segment, how many devices fed it; the other segments go on waiting."""
        theta, devices = theta.copy(), {}
        for name in self.ready(configuration):
            mean = self.numerators.pop(name).astype(np.float64) / self.weights.pop(name)
            step = mean * (configuration.server_rate * 2.0**-configuration.scale_bits)
            where = layout.slices[name]
            theta[where] = (theta[where].astype(np.float64) + step).astype(np.float32)
            devices[name] = len(self.devices.pop(name))
        return theta, devices

    def copy(self) -> SegmentSums:
        other = SegmentSums()
        other.numerators = dict(self.numerators)  # arrays are never changed in place
        other.weights = dict(self.weights)
        other.devices = {name: set(fed) for name, fed in self.devices.items()}
        return other
