"""How theta goes on in a later bundle: segment by segment, where the identity is the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from homeroom.contract.layout import FULL_TIER, Layout, segment_of


def segment_bounds(layout: Layout) -> dict[str, tuple[int, int]]:
    """Where each segment of a layout lies in its theta, by `segment_id`."""
    return {s.segment_id: (layout.slices[s.name].start, layout.slices[s.name].stop) for s in layout}


def carry_theta(
    theta: np.ndarray, bounds: Mapping[str, Sequence[int]], layout: Layout, start: np.ndarray
) -> np.ndarray:
    """A theta of an earlier bundle for a later layout; device and aggregator get the same bits.

    theta: float32 [P before].
    bounds: of its segments, as of `segment_bounds`.
    layout: of the later bundle.
    start: float32 [P], the later bundle's own values, which new segments keep.
    """
    parts = {s.name: theta[slice(*bounds[s.segment_id])] for s in layout if s.segment_id in bounds}
    return layout.join(parts, start)


def same_segments(before: Layout, after: Layout) -> list[str]:
    """Names of the segments of `after` that `before` has under the same identity, in order."""
    known = {segment.segment_id for segment in before}
    return [segment.name for segment in after if segment.segment_id in known]


def same_tiers(before: Layout, after: Layout) -> list[str]:
    """The tiers that have the same values of every segment which goes on; updates of others cannot be read."""
    names, known = same_segments(before, after), {tier for tier, _ in before.tiers} & {tier for tier, _ in after.tiers}
    return [
        *(tier for tier, _ in after.tiers if tier in known and all(_same(before, after, n, tier) for n in names)),
        FULL_TIER,
    ]


def same_slices(before: Layout, after: Layout) -> frozenset[str]:
    """The tier slices (`Layout.tier_slices`) of segments that go on, where both have the same values in them."""
    names = {*same_segments(before, after)}
    both = before.tier_slices.keys() & after.tier_slices.keys()
    return frozenset(
        key
        for key in both
        if segment_of(key) in names
        and np.array_equal(_inside(before, key, segment_of(key)), _inside(after, key, segment_of(key)))
    )


def _inside(layout: Layout, key: str, segment: str) -> np.ndarray:
    """Indices of a tier slice within its segment."""
    found = layout.slice_indices(key)
    at = np.arange(found.start, found.stop) if isinstance(found, slice) else found
    inside: np.ndarray = np.asarray(at) - layout.slices[segment].start
    return inside


def _same(before: Layout, after: Layout, segment: str, tier: str) -> bool:
    one, other = (
        np.asarray(layout.indices(segment, tier)) - layout.slices[segment].start for layout in (before, after)
    )
    return np.array_equal(one, other)
