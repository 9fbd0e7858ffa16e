"""The trimmed mean, by choice: of each value the lowest and the highest quarter of the weight are left out.

Coordinate-wise trimmed mean (Yin et al. 2018, definition 2) of updates that were bounded before (`bounded`), weighted:
a device whose weight lies across a cut counts with the part inside. In integers, so any order of devices gives the same
bits. A value is taken by blocks of coordinates, for which each update is read again. **When it does not hold**: against
devices with a quarter of the weight or more; and where few devices hold a class, since what only they teach is cut too.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from homeroom_aggregator.merge.bounded import KeyUpdates, Read, shortened_blocks

CUT = 4  # one part in so many of the weight, at each end


def trimmed_sums(chosen: Mapping[str, KeyUpdates], read: Read) -> dict[str, tuple[np.ndarray, int]]:
    """By running sum, the sum of what is left, int64 [size], and its weight; see `bounded.bounded_sums`."""
    return {key: _trimmed(key, updates, read) for key, updates in chosen.items()}


def _trimmed(key: str, updates: KeyUpdates, read: Read) -> tuple[np.ndarray, int]:
    weights = np.array([updates.units[number] for number in sorted(updates.units)], np.int64)
    whole = int(weights.sum())
    cut, totals = whole // CUT, list[np.ndarray]()
    for rows in shortened_blocks(key, updates, read):
        order = rows.argsort(0)
        mine = weights[order]
        upto = mine.cumsum(0)
        kept = np.minimum(upto, whole - cut) - np.maximum(upto - mine, cut)
        np.maximum(kept, 0, out=kept)
        kept *= np.take_along_axis(rows, order, 0)
        totals.append(kept.sum(0))
    return np.concatenate(totals), whole - 2 * cut
