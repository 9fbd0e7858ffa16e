"""What is summed in a secure round: the integers of a plain update times their weight, and the weights beside them."""

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
from homeroom.privacy.secagg.masks import word

Noise = Callable[[np.ndarray], np.ndarray]  # int64 [count] -> int64 [count]: a device's share of discrete noise


@dataclass(frozen=True)
class SumLayout:
    """The vector: the values of each segment in order, then one weight for each. `width`: bytes of a ring element."""

    segments: tuple[str, ...]
    sizes: tuple[int, ...]
    width: int

    @property
    def count(self) -> int:
        return sum(self.sizes) + len(self.sizes)


def feeds(layout: Layout, configuration: RoundConfiguration, names: set[str]) -> bytes:
    """The bits of an advertisement for the segments that an update holds."""
    taken = _taken(layout, configuration)
    bits = sum(1 << place for place, name in enumerate(taken) if name in names)
    return bits.to_bytes(-(-len(taken) // 8), "little")


def feeders(layout: Layout, configuration: RoundConfiguration, cohort: SecureCohort) -> dict[str, set[int]]:
    """By segment of the round, the places of those who feed it; TrustError for bits of segments that there are not."""
    names = _taken(layout, configuration)
    found: dict[str, set[int]] = {name: set() for name in names}
    for place, member in enumerate(cohort.members):
        bits = int.from_bytes(member.segments, "little")
        if len(member.segments) != -(-len(names) // 8) or bits >> len(names):
            raise TrustError("a device claims segments that this bundle does not have", where="secure round")
        for number, name in enumerate(names):
            if bits >> number & 1:
                found[name].add(place)
    return found


def choose_layout(
    layout: Layout,
    configuration: RoundConfiguration,
    cohort: SecureCohort,
    minimum: int,
    drops: int,
    noise_limit: int = 0,
) -> SumLayout:
    """The segments that `minimum` devices will have fed even if `drops` of the cohort drop out, and a ring they fit.

    noise_limit: the largest magnitude of what a device's noise may add to one value.
    """
    fed = feeders(layout, configuration, cohort)
    chosen = tuple(name for name in fed if len(fed[name]) >= minimum + drops)
    return SumLayout(
        chosen, tuple(layout[name].size for name in chosen), ring_width(len(cohort.members), configuration, noise_limit)
    )


def ring_width(devices: int, configuration: RoundConfiguration, noise_limit: int = 0) -> int:
    """Bytes of a ring element in which no sum of so many honest devices overflows, sign included."""
    largest = min(ENCODED_LIMIT, ceil(configuration.max_norm * 2.0**configuration.scale_bits))
    heaviest = UNITS_AN_EXAMPLE * configuration.cap_examples
    bits = 1 + (devices * (largest * heaviest + noise_limit)).bit_length()
    return -(-bits // 8)


def encode(
    terms: SumLayout, update: Update, version: int, configuration: RoundConfiguration, noise: Noise | None = None
) -> np.ndarray:
    """An update as ring elements [count], each segment times its weight at `version`; zeros where it has none.

    noise: adds this device's share of discrete noise to the integers before anything masks them.
    """
    entries = dict(zip(update.values, update.header.segments, strict=True))
    parts, weights = [], []
    for name, size in zip(terms.segments, terms.sizes, strict=True):
        if name not in update.values:
            parts.append(np.zeros(size, np.int64))
            weights.append(0)
            continue
        units = weight(entries[name].examples, version - update.header.base_version, configuration)
        parts.append(update.values[name].astype(np.int64) * units)
        weights.append(units)
    whole = np.concatenate([*parts, np.array(weights, np.int64)])
    if noise is not None:
        whole = noise(whole)
    return whole.view(np.uint64).astype(word(terms.width))


def decode(terms: SumLayout, total: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """int64 [count] -> by segment the sum of weight * value, int64 [size], and the sum of weights."""
    ends = np.cumsum(terms.sizes)
    parts = np.split(total[: sum(terms.sizes)], ends[:-1])
    weights = total[sum(terms.sizes) :]
    return (
        dict(zip(terms.segments, parts, strict=True)),
        {name: int(w) for name, w in zip(terms.segments, weights, strict=True)},
    )


def _taken(layout: Layout, configuration: RoundConfiguration) -> list[str]:
    """The segments whose scope allows them to come here, in the layout's order."""
    return [segment.name for segment in narrowed(layout, configuration.scopes) if configuration.merges(segment)]
