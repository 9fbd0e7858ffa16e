"""The bounded rule: one weight a device, and no update longer than the median, so that few liars move little.

Norm clipping (Sun et al. 2019, section 4), with the median of the very updates of a release as the threshold. What
arrives is measured and waits in the log; a release reads it again, one update at a time, and adds it shortened to the
bound. Everything is an integer: any order of devices gives the same bits, and so does a replay.

**The bound** of a running sum: the lower median of its updates' norms, each weighted by its units, and at most 5/4 of
the bound of the release before. A value becomes `v * bound / norm`, rounded towards zero: rounding down would lengthen
negative values past the bound. **Weights**: `UNITS_A_DEVICE`, discounted by staleness; of several updates of a device
the newest counts; one school's are scaled down to `school_share` of the whole. **When it does not hold**: against
devices with half of the weight or more, which set the median; a liar within the bound still pulls by its share.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from math import isqrt
from typing import Any

import numpy as np

from homeroom.contract.layout import Layout
from homeroom.contract.privacy import squared_norm
from homeroom.contract.secagg import exact_share
from homeroom.contract.update_checks import read_admitted
from homeroom.errors import DamagedError, HomeroomError, SignalError, UpdateError
from homeroom_aggregator.merge.segment_sums import (
    MULTIPLIED_VALUES,
    SchoolOf,
    SegmentSums,
    Undo,
    WaitingUpdate,
    add_weighted,
    school_of_key,
    tier_slice_of,
)

GROWTH = 5, 4  # a bound is at most so many times the one before; a fraction
BLOCK_VALUES = 1 << 21  # of all updates together, at once: at most 80 MB
MOST_WAITING = 1 << 19  # updates: with WEIGHT_LIMIT of the mean rule beside them no int64 sum can overflow


class UnreadableBodyError(SignalError):
    """The body of entry `number`, which waits, cannot be read any more, and `why`."""

    def __init__(self, number: int, why: str) -> None:
        super().__init__(number, why)
        self.number, self.why = number, why


@dataclass(frozen=True)
class Bounds:
    """What one release was bounded by.

    by_key: by running sum, the bound in units of the grid.
    lengths: by member, the largest ratio of its update's norm to the bound; above 1 it was shortened.
    """

    by_key: Mapping[str, int]
    lengths: Mapping[str, float]


NO_BOUNDS = Bounds({}, {})


@dataclass(frozen=True)
class KeyUpdates:
    """The updates that are added to one running sum: its bound, and by entry their units and norms."""

    bound: int
    units: Mapping[int, int]
    norms: Mapping[int, int]


Read = Callable[[int, Collection[str]], dict[str, np.ndarray]]
Merge = Callable[[Mapping[str, KeyUpdates], Read], dict[str, tuple[np.ndarray, int]]]


@dataclass(frozen=True)
class FoldRules:
    """How what waits is added.

    merge: `bounded_sums`, or another rule's. body: an update's bytes by its entry; one is in memory at a time.
    school_share: of one school at most. school: of a member by its name.
    """

    merge: Merge
    body: Callable[[int], bytes]
    layout: Layout
    school_share: float
    school: SchoolOf


MOST_NAMED = 10  # of the longest updates of a release, in the audit log


def about_release(bounds: Bounds, scale_bits: int) -> dict[str, Any]:
    """What the audit log says of a release's bounds; empty where it has none.

    bounds: by segment (and, of a school's own, the school), the largest norm that an update had in it.
    shortened: how many devices' updates were longer. longest: by device, how many times the bound, at most ten.
    """
    if not bounds.by_key:
        return {}
    lengths = sorted(((length, member) for member, length in bounds.lengths.items() if length > 1), reverse=True)
    by_name = {key.replace("\n", " of "): bound * 2.0**-scale_bits for key, bound in sorted(bounds.by_key.items())}
    longest = {member: round(length, 2) for length, member in lengths[:MOST_NAMED]}
    return {"bounds": by_name, "shortened": len(lengths), "longest": longest}


def norm_of(values: np.ndarray) -> int:
    """L2 norm of int32 [n] in units of the grid, rounded up, so that nothing that is divided by it is too long."""
    square = squared_norm(values)
    root = isqrt(square)
    return root + (root * root < square)


def wait(sums: SegmentSums, number: int, update: WaitingUpdate) -> Undo:
    """Let a measured update, of entry `number`, wait for a release; return what takes it out again.

    UpdateError, with nothing changed, where as many wait as may.
    """
    if len(sums.waiting) >= MOST_WAITING:
        raise UpdateError(f"{MOST_WAITING:,} updates wait already", code="full", remedy="sync again later")
    sums.waiting[number] = update

    def undo() -> None:
        del sums.waiting[number]

    return undo


def fold(
    sums: SegmentSums,
    keys: Collection[str],
    rules: FoldRules,
    before: Mapping[str, int],
) -> tuple[Bounds, Undo]:
    """Add what waits for these running sums, bounded; return the bounds, and what lets it wait again.

    keys: of the sums that are to be released. before: the bounds of the release before, by key.
    Raises UnreadableBodyError with nothing changed.
    """
    waiting, chosen = sums.waiting, dict[str, KeyUpdates]()
    for key in keys:
        if numbers := sums.newest_waiting(key):
            units = capped_units(waiting, numbers, rules.school_share, key, rules.school)
            norms = {number: waiting[number].norms[key] for number in numbers}
            bound = bound_of([(norms[number], units[number]) for number in numbers], before.get(key, 0))
            chosen[key] = KeyUpdates(bound, units, norms)
    merged = rules.merge(chosen, partial(_read, rules.body, rules.layout))
    lengths = dict[str, float]()
    for updates in chosen.values():
        for number, norm in updates.norms.items():
            member, length = waiting[number].member, norm / max(updates.bound, 1)
            lengths[member] = max(length, lengths.get(member, 0.0))
    undo = sums.take_waiting({key: one[0] for key, one in merged.items()}, {key: one[1] for key, one in merged.items()})
    return Bounds({key: updates.bound for key, updates in chosen.items()}, lengths), undo


def bounded_sums(chosen: Mapping[str, KeyUpdates], read: Read) -> dict[str, tuple[np.ndarray, int]]:
    """By running sum, the weighted sum of shortened updates, int64 [size], and the sum of weights.

    chosen: what is added to each. read: gives an update's int32 [size] by its entry and keys; each is read once.
    """
    sums = dict[str, np.ndarray]()
    for number in sorted(set().union(*(updates.units for updates in chosen.values()))):
        mine = {key: updates for key, updates in chosen.items() if number in updates.units}
        for key, values in read(number, mine).items():
            updates, total = mine[key], sums.setdefault(key, np.zeros(len(values), np.int64))
            add_shortened(total, values, updates.units[number], updates.bound, updates.norms[number])
    return {key: (total, sum(chosen[key].units.values())) for key, total in sums.items()}


def shortened_blocks(key: str, updates: KeyUpdates, read: Read) -> Iterator[np.ndarray]:
    """All updates' shortened values, int64 [updates, values], by ascending entry: block by block of coordinates.

    For rules that compare updates; each is read again for each block, so that memory is flat.
    """
    numbers = sorted(updates.units)
    size, block = len(read(numbers[0], (key,))[key]), max(1, BLOCK_VALUES // len(numbers))
    for start in range(0, size, block):
        part = slice(start, min(start + block, size))
        rows = np.zeros((len(numbers), part.stop - start), np.int64)
        for row, number in zip(rows, numbers, strict=True):
            add_shortened(row, read(number, (key,))[key][part], 1, updates.bound, updates.norms[number])
        yield rows


def _read(body: Callable[[int], bytes], layout: Layout, number: int, keys: Collection[str]) -> dict[str, np.ndarray]:
    """int32 [size] by key, of an update that waits."""
    try:
        slices = read_admitted(body(number), layout).tier_slices
        return {key: slices[tier_slice_of(key)] for key in keys}
    except (UpdateError, DamagedError) as problem:
        raise UnreadableBodyError(number, problem.what) from None
    except (HomeroomError, MemoryError):
        raise  # the disk's or the machine's fault, and not of this body
    except Exception as problem:
        raise UnreadableBodyError(number, f"{type(problem).__name__}: {str(problem)[:200]}") from None


def capped_units(
    waiting: Mapping[int, WaitingUpdate], chosen: Collection[int], share: float, key: str, school_of: SchoolOf
) -> dict[int, int]:
    """Units by entry, those of each school together at most `share` of the whole.

    Schools have equal parts where `share` is 0, or they are too few for it. A device without a school counts as one. A
    school's own segment, by its `key`, has no other.
    """
    schools = {number: school_of(waiting[number].member) or waiting[number].member for number in chosen}
    totals = Counter[str]()
    for number, school in schools.items():
        totals[school] += waiting[number].units
    cap = max(totals.values()) if school_of_key(key) else _cap(sorted(totals.values(), reverse=True), share)
    units = dict[int, int]()
    for number, school in schools.items():
        mine, total = waiting[number].units, totals[school]
        units[number] = mine if total <= cap else max(1, mine * cap // total)
    return units


def _cap(totals: Sequence[int], share: float) -> int:
    """The largest cap on these totals, the largest first, with which none is above `share` of the sum."""
    exact, rest = exact_share(share, 1), sum(totals)
    if exact * len(totals) < 1:
        return totals[-1]
    if totals[0] <= exact * rest:
        return totals[0]
    for count, total in enumerate(totals, 1):  # the first `count` are cut to the cap
        rest -= total
        following = totals[count] if count < len(totals) else 0
        if exact * count >= 1:
            return total
        if (cap := int(exact * rest / (1 - exact * count))) >= following:
            return cap
    return totals[-1]


def bound_of(norms: Sequence[tuple[int, int]], before: int) -> int:
    """The lower median of (norm, units), at most 5/4 of the bound before, rounded up; 0 before limits nothing."""
    ordered, whole = sorted(norms), sum(units for _, units in norms)
    reached = accumulate(units for _, units in ordered)
    bound = next(norm for (norm, _), units in zip(ordered, reached, strict=True) if 2 * units >= whole)
    up, down = GROWTH
    return min(bound, (before * up + down - 1) // down) if before else bound


def add_shortened(total: np.ndarray, values: np.ndarray, units: int, bound: int, norm: int) -> None:
    """total += units * (values * bound / norm towards zero), in place and exactly; as they are where norm <= bound.

    total: int64 [n]. values: int32 [n], magnitudes up to 2**24. norm: below 2**38, as in any update under a GiB.
    """
    if norm <= bound:
        return add_weighted(total, values, units)
    for start in range(0, len(values), MULTIPLIED_VALUES):
        part = values[start : start + MULTIPLIED_VALUES].astype(np.int64)
        sign = np.sign(part)
        np.abs(part, out=part)
        part *= bound
        part //= norm
        part *= units
        part *= sign
        into = total[start : start + MULTIPLIED_VALUES]
        into += part
