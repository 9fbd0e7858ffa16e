"""The trimmed mean, by choice: of each value the lowest and the highest quarter of the weight are left out.

Coordinate-wise trimmed mean (Yin et al. 2018, definition 2) of updates that were bounded before (`bounded`), weighted:
a device whose weight lies across a cut counts with the part inside. In integers, so any order of devices gives the same
bits. A value is taken by blocks of coordinates, for which each update is read again. **When it does not hold**: against
devices with a quarter of the weight or more; and where few devices hold a class, since what only they teach is cut too.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from homeroom_aggregator.merge.bounded import KeyUpdates, Read, add_shortened

CUT = 4  # one part in so many of the weight, at each end
BLOCK_VALUES = 1 << 21  # of all updates together, at once: some 80 MB


def trimmed_sums(chosen: Mapping[str, KeyUpdates], read: Read) -> dict[str, tuple[np.ndarray, int]]:
    """By running sum, the sum of what is left, int64 [size], and its weight; see `bounded.bounded_sums`."""
    return {key: _trimmed(key, updates, read) for key, updates in chosen.items()}


def _trimmed(key: str, updates: KeyUpdates, read: Read) -> tuple[np.ndarray, int]:
    numbers = sorted(updates.units)
    size = len(read(numbers[0], (key,))[key])
    weights = np.array([updates.units[number] for number in numbers], np.int64)
    whole, total = int(weights.sum()), np.zeros(size, np.int64)
    cut, block = whole // CUT, max(1, BLOCK_VALUES // len(numbers))
    for start in range(0, size, block):
        rows = np.zeros((len(numbers), min(block, size - start)), np.int64)
        for row, number in zip(rows, numbers, strict=True):
            values = read(number, (key,))[key][start : start + block]
            add_shortened(row, values, 1, updates.bound, updates.norms[number])
        order = rows.argsort(0)
        mine = weights[order]
        upto = mine.cumsum(0)
        kept = np.minimum(upto, whole - cut) - np.maximum(upto - mine, cut)
        np.maximum(kept, 0, out=kept)
        kept *= np.take_along_axis(rows, order, 0)
        total[start : start + block] = kept.sum(0)
    return total, whole - 2 * cut
