"""Layout of theta, the flat float32 vector of all trainable values: named segments, tiers and tier slices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property, lru_cache
from typing import Literal

import msgspec
import numpy as np

from homeroom.contract.canonical_json import identity

Scope = Literal["shared", "institution", "personal"]
SCOPES: tuple[Scope, ...] = ("shared", "institution", "personal")  # widest first


def narrower(one: Scope, other: Scope) -> Scope:
    """The narrower of two scopes."""
    return max(one, other, key=SCOPES.index)


class Parameter(msgspec.Struct, frozen=True):
    """One tensor inside a segment, stored row-major; `shape` as the training graph reads it."""

    name: str
    shape: tuple[int, ...]


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """A named slice of theta.

    meaning: the module's kind and its settings.
    reads: the `features_id`s that it was made for.
    modality, task: what a sample must have for the segment to learn from it, where set.
    scope: where updates of it may go without a policy. shared: to the federation; institution: to one school's own
        aggregator; personal: nowhere.
    widest: the widest scope that a policy may give it.
    """

    name: str
    parameters: tuple[Parameter, ...]
    meaning: str
    reads: tuple[str, ...] = ()
    modality: str | None = None
    task: str | None = None
    scope: Scope = "shared"
    widest: Scope = "shared"

    @property
    def size(self) -> int:
        """Number of values."""
        return sum(int(np.prod(parameter.shape)) for parameter in self.parameters)

    @property
    def segment_id(self) -> str:
        """Identity for merging: equal where name, shapes, meaning and the features read are equal."""
        return _segment_id(self.name, self.parameters, self.meaning, self.reads)


@lru_cache(maxsize=1 << 12)  # read several times an update; without a cache half of the time of reading a small one
def _segment_id(name: str, parameters: tuple[Parameter, ...], meaning: str, reads: tuple[str, ...]) -> str:
    shapes = [[parameter.name, list(parameter.shape)] for parameter in parameters]
    return identity({"name": name, "parameters": shapes, "meaning": meaning, "reads": list(reads)})


FULL_TIER = "full"  # the tier that has every value
Indices = slice | np.ndarray


def segment_of(tier_slice: str) -> str:
    """Name of the segment that a tier slice (`segment@tier`) belongs to."""
    return tier_slice.partition("@")[0]


class Layout(msgspec.Struct, frozen=True, dict=True):
    """The segments of a theta, in order and without gaps.

    tiers: smallest first, each its name and its indices in theta, int32 [p], rising; each tier contains the one before.
    """

    segments: tuple[Segment, ...]
    tiers: tuple[tuple[str, np.ndarray], ...] = ()

    @cached_property
    def slices(self) -> dict[str, slice]:
        """Slice of theta by segment name."""
        slices, start = {}, 0
        for segment in self.segments:
            slices[segment.name] = slice(start, start + segment.size)
            start += segment.size
        return slices

    @property
    def size(self) -> int:
        """P, the number of trainable values."""
        return sum(segment.size for segment in self.segments)

    def indices(self, segment: str, tier: str = FULL_TIER) -> Indices:
        """Indices in theta of a tier's values of a segment."""
        whole = self.slices[segment]
        if tier == FULL_TIER:
            return whole
        index = dict(self.tiers)[tier]
        return index[np.searchsorted(index, whole.start) : np.searchsorted(index, whole.stop)]

    @cached_property
    def tier_slices(self) -> dict[str, Indices]:
        """Indices of the units that are merged separately: segments, or the values each tier adds (`segment@tier`)."""
        if not self.tiers:
            return dict(self.slices)
        tier_slices: dict[str, Indices] = {}
        for name in self.slices:
            inner: np.ndarray = np.empty(0, np.int32)
            for tier in (*(tier for tier, _ in self.tiers), FULL_TIER):
                outer = self.indices(name, tier)
                outer = np.arange(outer.start, outer.stop) if isinstance(outer, slice) else outer
                if len(outer) > len(inner):
                    tier_slices[f"{name}@{tier}"] = np.setdiff1d(outer, inner, assume_unique=True)
                inner = outer
        return tier_slices

    def slice_indices(self, name: str) -> Indices:
        """Indices in theta of a tier slice, or of a whole segment."""
        return self.slices[name] if name in self.slices else self.tier_slices[name]

    def by_tier_slice(self, segment: str, tier: str, values: np.ndarray) -> dict[str, np.ndarray]:
        """Splits a tier's values of a segment, [p], by tier slice."""
        if not self.tiers:
            return {segment: values}
        indices = self.indices(segment, tier)
        parts = {}
        for name in (*(name for name, _ in self.tiers), FULL_TIER):
            added = self.tier_slices.get(f"{segment}@{name}")
            if isinstance(added, np.ndarray):
                at = added - indices.start if isinstance(indices, slice) else np.searchsorted(indices, added)
                parts[f"{segment}@{name}"] = values[at]
            if name == tier:
                break
        return parts

    def __iter__(self) -> Iterator[Segment]:
        return iter(self.segments)

    def __getitem__(self, name: str) -> Segment:
        return next(segment for segment in self.segments if segment.name == name)

    def split(self, theta: np.ndarray) -> dict[str, np.ndarray]:
        """Views of theta [P] by segment name."""
        return {name: theta[where] for name, where in self.slices.items()}

    def join(self, parts: Mapping[str, np.ndarray], base: np.ndarray) -> np.ndarray:
        """A float32 copy of `base` [P] with the segments in `parts` replaced."""
        theta = np.array(base, dtype=np.float32)
        for name, values in parts.items():
            theta[self.slices[name]] = values
        return theta
