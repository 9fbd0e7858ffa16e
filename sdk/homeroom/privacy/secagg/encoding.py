"""Encoding of an update for a secure sum: its integers times their weight, followed by the weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

import numpy as np

from homeroom.contract.codecs import ENCODED_LIMIT
from homeroom.contract.layout import Layout
from homeroom.contract.policy import narrowed
from homeroom.contract.round import UNITS_AN_EXAMPLE, RoundConfiguration, weight
from homeroom.contract.secagg import SecureCohort
from homeroom.contract.update import Update
from homeroom.errors import TrustError
from homeroom.privacy.secagg.masks import ring_dtype

Noise = Callable[[np.ndarray], np.ndarray]  # adds a device's share of discrete noise to int64 [count]


@dataclass(frozen=True)
class SumLayout:
    """Layout of an encoding: the values of each segment in order, then one weight a segment.

    sizes: values of each segment.
    width: bytes of a ring element.
    """

    segments: tuple[str, ...]
    sizes: tuple[int, ...]
    width: int

    @property
    def count(self) -> int:
        """Number of ring elements."""
        return sum(self.sizes) + len(self.sizes)


def segment_bits(layout: Layout, configuration: RoundConfiguration, names: set[str]) -> bytes:
    """Bits of an advertisement, one a segment of the round, set for those in `names`; the first in the lowest bit."""
    merged = _merged_names(layout, configuration)
    bits = sum(1 << number for number, name in enumerate(merged) if name in names)
    return bits.to_bytes(-(-len(merged) // 8), "little")


def feeders(layout: Layout, configuration: RoundConfiguration, cohort: SecureCohort) -> dict[str, set[int]]:
    """Slots of the clients that feed a segment, by segment of the round; TrustError for bits of unknown segments."""
    names = _merged_names(layout, configuration)
    slots: dict[str, set[int]] = {name: set() for name in names}
    for slot, client in enumerate(cohort.members):
        bits = int.from_bytes(client.segments, "little")
        if len(client.segments) != -(-len(names) // 8) or bits >> len(names):
            raise TrustError("a device claims segments that this bundle does not have", where="secure round")
        for number, name in enumerate(names):
            if bits >> number & 1:
                slots[name].add(slot)
    return slots


def choose_layout(
    layout: Layout,
    configuration: RoundConfiguration,
    cohort: SecureCohort,
    minimum: int,
    drops: int,
    noise_limit: int = 0,
) -> SumLayout:
    """The sum's layout: segments that `minimum` devices feed even if `drops` of them drop out, in a ring that fits.

    minimum: least number of devices in a sum.
    drops: most drop-outs of the cohort.
    noise_limit: largest magnitude of a device's noise in one value.
    """
    fed = feeders(layout, configuration, cohort)
    chosen = tuple(name for name in fed if len(fed[name]) >= minimum + drops)
    width = ring_width(len(cohort.members), configuration, noise_limit)
    return SumLayout(chosen, tuple(layout[name].size for name in chosen), width)


def ring_width(devices: int, configuration: RoundConfiguration, noise_limit: int = 0) -> int:
    """Bytes of a ring element in which a sum over `devices` honest devices cannot overflow, sign included."""
    largest = min(ENCODED_LIMIT, ceil(configuration.max_norm * 2.0**configuration.scale_bits))
    heaviest = UNITS_AN_EXAMPLE * configuration.cap_examples
    bits = 1 + (devices * (largest * heaviest + noise_limit)).bit_length()
    return -(-bits // 8)


def encode(
    sum_layout: SumLayout, update: Update, version: int, configuration: RoundConfiguration, noise: Noise | None = None
) -> np.ndarray:
    """Encodes an update as ring elements, uint32 or uint64 [count]; zeros for segments that it does not hold.

    sum_layout: layout of the sum.
    version: the round's version, for the staleness in the weights.
    noise: adds this device's share of discrete noise to the integers, before they are masked.
    """
    entries = dict(zip(update.values, update.header.segments, strict=True))
    staleness = version - update.header.base_version
    weights = [
        weight(entries[name].examples, staleness, configuration) if name in entries else 0
        for name in sum_layout.segments
    ]
    parts = [
        update.values[name].astype(np.int64) * units if units else np.zeros(size, np.int64)
        for name, size, units in zip(sum_layout.segments, sum_layout.sizes, weights, strict=True)
    ]
    values = np.concatenate([*parts, np.array(weights, np.int64)])
    if noise is not None:
        values = noise(values)
    return values.view(np.uint64).astype(ring_dtype(sum_layout.width))


def decode(sum_layout: SumLayout, total: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Decodes a sum, int64 [count]: by segment the sum of weight * value, int64 [size], and the sum of weights."""
    *parts, weights = np.split(total, np.cumsum(sum_layout.sizes))
    names = sum_layout.segments
    return dict(zip(names, parts, strict=True)), dict(zip(names, weights.tolist(), strict=True))


def _merged_names(layout: Layout, configuration: RoundConfiguration) -> list[str]:
    """Names of the segments that are merged here, in the layout's order."""
    return [segment.name for segment in narrowed(layout, configuration.scopes) if configuration.merges(segment)]
