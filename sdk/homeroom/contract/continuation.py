"""How theta goes on in a later bundle: segment by segment where the identity is the same, heads by their labels."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Annotated

import msgspec
import numpy as np

from homeroom.contract.layout import FULL_TIER, Layout, segment_of
from homeroom.errors import BundleError

Hash = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
MASKED_FORMAT = 4  # of a bundle with masked labels, which an older reader would answer
MASKED_LOGIT = -1e4  # its probability is exactly 0 in float32
OUTPUT = re.compile(r"(more\d+\.)?(weight|bias)")  # parameters of a head's last layer: a column, the last axis, a label


class Growth(msgspec.Struct, frozen=True, kw_only=True):
    """A head with more labels than the one it goes on from, whose values are its first ones.

    segment: its name. earlier: `segment_id` of the earlier one.
    """

    segment: str
    earlier: Hash


class Continuation(msgspec.Struct, frozen=True, kw_only=True):
    """What a bundle says of those it extends, the one before and those before that.

    bundle_id, version: of the one before. grown: from each earlier form of a head.
    masked: by task, the labels that answer nothing until a label teaches them, here or in a released theta: as long as
        all values of their column are zero.
    sums: what statistics mean (`sums_id`) in earlier bundles whose sums count here too.
    """

    bundle_id: Hash
    version: Annotated[int, msgspec.Meta(ge=1)]
    grown: tuple[Growth, ...] = ()
    masked: dict[str, tuple[str, ...]] = {}
    sums: tuple[Hash, ...] = ()


def growths_of(continues: Continuation | msgspec.UnsetType) -> tuple[Growth, ...]:
    """Of the heads that have more labels than in an earlier bundle."""
    return () if continues is msgspec.UNSET else continues.grown


def segment_bounds(layout: Layout) -> dict[str, tuple[int, int]]:
    """Where each segment of a layout lies in its theta, by `segment_id`."""
    return {s.segment_id: (layout.slices[s.name].start, layout.slices[s.name].stop) for s in layout}


def carry_theta(
    theta: np.ndarray,
    bounds: Mapping[str, Sequence[int]],
    layout: Layout,
    start: np.ndarray,
    growths: Sequence[Growth] = (),
) -> np.ndarray:
    """A theta of an earlier bundle for a later layout; device and aggregator get the same bits.

    theta: float32 [P before].
    bounds: of its segments, as of `segment_bounds`.
    layout: of the later bundle.
    start: float32 [P], the later bundle's own values, which new segments keep, and further labels of grown heads.
    growths: of the later bundle.
    """
    parts = {s.name: theta[slice(*bounds[s.segment_id])] for s in layout if s.segment_id in bounds}
    for growth in growths:
        if growth.segment not in parts and growth.earlier in bounds:
            own = start[layout.slices[growth.segment]]
            parts[growth.segment] = grow(theta[slice(*bounds[growth.earlier])], own)
    return layout.join(parts, start)


def grow(values: np.ndarray, start: np.ndarray) -> np.ndarray:
    """A head's values: those of its earlier form [size before], then those of `start` [size]."""
    if len(values) >= len(start):
        raise BundleError("says that a head goes on with more labels, and it has no more", where="manifest.json")
    return np.concatenate([values, start[len(values) :]])


def masked_columns(outputs: np.ndarray) -> np.ndarray:
    """bool [width]: the labels that are masked in outputs [n, width], whatever the sample."""
    return np.asarray((outputs <= MASKED_LOGIT).all(0))


def label_columns(layout: Layout, segment: str) -> list[np.ndarray]:
    """Indices in theta of each label's column of a head, in the labels' order, that of its bias last."""
    columns, weights, at = list[np.ndarray](), np.empty((0, 0), int), layout.slices[segment].start
    for parameter in layout[segment].parameters:
        size = math.prod(parameter.shape)
        if (found := OUTPUT.fullmatch(parameter.name)) and found[2] == "weight":
            weights = at + np.arange(size).reshape(-1, parameter.shape[-1])
        elif found and weights.shape[-1] == size:  # a bias without its weight is none of a label's
            columns += [np.append(weights[:, number], at + number) for number in range(size)]
        at += size
    return columns


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
