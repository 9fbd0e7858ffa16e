"""Multi-Krum, by choice: of the bounded updates of a sum, those that lie far from most others are left out whole.

Blanchard et al. 2017, section 4, of updates that were bounded before (`bounded`): with n updates and f = min(n // 4,
(n - 3) // 2) of them taken for liars, an update's score is the sum of its squared distances to the n - f - 2 closest
others, and the n - f updates of the lowest scores are averaged, all that are even with the last among them. Distances
come from inner products that are exact: values are cut in halves of 12 bits, so that no sum of floats is rounded. Any
order gives the same bits. Updates are read again for each block of coordinates. **When it does not hold**: of fewer
than five updates none is left out; against a quarter of the devices or more; against liars that stay as close as
honest devices are; and where schools are very uneven, since what few teach lies far from the rest and goes first.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from homeroom.contract.round import MOST_KRUM_UPDATES
from homeroom.errors import UpdateError
from homeroom_aggregator.merge.bounded import KeyUpdates, Read, bounded_sums, shortened_blocks
from homeroom_aggregator.merge.segment_sums import SchoolOf, SegmentSums, count_fed

LIARS = 4  # one in so many is taken for one
HALF_BITS = 12  # of a value below 2**24: a product of halves is below 2**24, and 2**29 of them below 2**53


def multi_krum_sums(chosen: Mapping[str, KeyUpdates], read: Read) -> dict[str, tuple[np.ndarray, int]]:
    """By running sum, the sum of the updates that are kept, int64 [size], and its weight; see `bounded_sums`."""
    kept = {}
    for key, updates in chosen.items():
        numbers = _kept(key, updates, read)
        kept[key] = KeyUpdates(
            updates.bound,
            {number: updates.units[number] for number in numbers},
            {number: updates.norms[number] for number in numbers},
        )
    return bounded_sums(kept, read)


def check_room(sums: SegmentSums, keys: Collection[str], member: str, k_of: str, school_of: SchoolOf) -> None:
    """UpdateError where so many wait already that a member's update would only make distances more.

    One that brings a further device or school, of what `k_of` counts, is taken: the release waits for it.
    """
    if len(sums.waiting) < MOST_KRUM_UPDATES:
        return
    for key in keys:
        fed = {update.member for update in sums.waiting.values() if key in update.norms}
        others = k_of == "schools" and count_fed(fed | {member}, k_of, school_of) > count_fed(fed, k_of, school_of)
        if member not in fed and len(fed) >= MOST_KRUM_UPDATES and not others:
            why = f"{MOST_KRUM_UPDATES} updates wait already, the most that rule multi-krum compares"
            raise UpdateError(why, code="full", remedy="sync again later")


def _kept(key: str, updates: KeyUpdates, read: Read) -> list[int]:
    """The entries whose updates are averaged."""
    numbers = sorted(updates.units)
    count = len(numbers)
    liars = min(count // LIARS, max(0, (count - 3) // 2))
    if not liars:
        return numbers
    products = _inner_products(key, updates, read)
    squares = [products[place, place] for place in range(count)]
    scores = list[int]()
    for one in range(count):
        others = (squares[one] + squares[other] - 2 * products[one, other] for other in range(count) if other != one)
        scores.append(sum(sorted(others)[: count - liars - 2]))
    last = sorted(scores)[count - liars - 1]
    return [number for number, score in zip(numbers, scores, strict=True) if score <= last]


def _inner_products(key: str, updates: KeyUpdates, read: Read) -> np.ndarray:
    """Of each two shortened updates, exactly: Python integers [n, n]."""
    high_high, mixed, low_low = np.zeros((3, len(updates.units), len(updates.units)))
    for rows in shortened_blocks(key, updates, read):
        high = (rows >> HALF_BITS).astype(np.float64)
        low = (rows & ((1 << HALF_BITS) - 1)).astype(np.float64)
        high_high += high @ high.T
        mixed += high @ low.T
        low_low += low @ low.T
    first, second, third = (part.astype(np.int64).astype(object) for part in (high_high, mixed + mixed.T, low_low))
    exact: np.ndarray = first * (1 << 2 * HALF_BITS) + second * (1 << HALF_BITS) + third
    return exact
