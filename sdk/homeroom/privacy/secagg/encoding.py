"""Encoding of an update for a secure sum: its integers times their weight, followed by the weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from typing import Protocol

import numpy as np

from homeroom.contract.codecs import ENCODED_LIMIT
from homeroom.contract.layout import Layout
from homeroom.contract.policy import narrowed
from homeroom.contract.round import UNITS_AN_EXAMPLE, RoundConfiguration, weight
from homeroom.contract.secagg import SecureCohort, SecureRules
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


class Shape(Protocol):
    """What the cohorts of a kind of rounds sum, and by which rules."""

    @property
    def rules_id(self) -> str:
        """Identity of all that devices must agree on; the round's notice names it."""
        ...

    @property
    def secure(self) -> SecureRules:
        """Rules of the rounds; TrustError where there are none."""
        ...

    @property
    def announced(self) -> Sequence[str]:
        """Names of what a device says it feeds, one bit each."""
        ...

    def chosen(self, fed: Mapping[str, set[int]], least: int) -> dict[str, frozenset[int]]:
        """The segments that are summed, in order, each with the slots that feed it: `least` of them or more.

        fed: slots by announced name.
        """
        ...

    def size(self, segment: str) -> int:
        """Values of a segment."""
        ...

    def width(self, devices: int) -> int:
        """Bytes of a ring element in which a sum over honest devices cannot overflow, sign included."""
        ...


@dataclass(frozen=True)
class ThetaShape:
    """Updates: the segments of theta that are merged."""

    layout: Layout
    configuration: RoundConfiguration

    @property
    def rules_id(self) -> str:
        return self.configuration.configuration_id

    @property
    def secure(self) -> SecureRules:
        if not self.configuration.secure:
            raise TrustError("the round configuration asks for no secure rounds", where="secure round")
        return self.configuration.secure

    @cached_property
    def announced(self) -> Sequence[str]:
        segments = narrowed(self.layout, self.configuration.scopes)
        return [segment.name for segment in segments if self.configuration.merges(segment)]

    def chosen(self, fed: Mapping[str, set[int]], least: int) -> dict[str, frozenset[int]]:
        return {name: frozenset(slots) for name, slots in fed.items() if len(slots) >= least}

    def size(self, segment: str) -> int:
        return self.layout[segment].size

    def width(self, devices: int) -> int:
        return ring_width(devices, self.configuration)


def segment_bits(shape: Shape, names: AbstractSet[str]) -> bytes:
    """Bits of an advertisement, one a name that is announced, set for those in `names`; the first in the lowest bit."""
    bits = sum(1 << number for number, name in enumerate(shape.announced) if name in names)
    return bits.to_bytes(-(-len(shape.announced) // 8), "little")


def feeders(shape: Shape, cohort: SecureCohort) -> dict[str, set[int]]:
    """Slots of the clients by name that they announce; TrustError for bits of unknown names."""
    names = shape.announced
    slots: dict[str, set[int]] = {name: set() for name in names}
    for slot, client in enumerate(cohort.members):
        bits = int.from_bytes(client.segments, "little")
        if len(client.segments) != -(-len(names) // 8) or bits >> len(names):
            raise TrustError("a device claims segments that this bundle does not have", where="secure round")
        for number, name in enumerate(names):
            if bits >> number & 1:
                slots[name].add(slot)
    return slots


def ring_width(devices: int, configuration: RoundConfiguration) -> int:
    """Bytes of a ring element in which a sum over `devices` honest devices cannot overflow, sign included."""
    largest = min(ENCODED_LIMIT, ceil(configuration.max_norm * 2.0**configuration.scale_bits))
    heaviest = UNITS_AN_EXAMPLE * configuration.cap_examples
    return ring_bytes(devices * largest * heaviest)


def ring_bytes(largest: int) -> int:
    """Bytes of a ring element that holds integers up to so large a magnitude, sign included."""
    return -(-(1 + largest.bit_length()) // 8)


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
