"""Theta, the one flat float32 vector of everything trainable, and its table of named segments; numpy only."""

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
    return max(one, other, key=SCOPES.index)


class Parameter(msgspec.Struct, frozen=True):
    """One tensor inside a segment, stored row-major; `shape` as the training graph reads it."""

    name: str
    shape: tuple[int, ...]


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """A named slice of theta.

    `modality` or `task`, where set, is what a sample must have for the segment to learn from it;
    `reads` are the `features_id`s that it was made for; `meaning` is the module's kind and its settings. `scope` is how
    far it goes without a policy (shared: to the federation; institution: to one school's own aggregator; personal:
    nowhere), and `widest` how far it may ever go.
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
        return sum(int(np.prod(parameter.shape)) for parameter in self.parameters)

    @property
    def segment_id(self) -> str:
        """Identity for merging: equal where name, shapes, meaning and the features read are equal."""
        return _segment_id(self.name, self.parameters, self.meaning, self.reads)


@lru_cache(maxsize=1 << 12)  # asked for several times an update, and half of what reading a small one takes
def _segment_id(name: str, parameters: tuple[Parameter, ...], meaning: str, reads: tuple[str, ...]) -> str:
    shapes = [[parameter.name, list(parameter.shape)] for parameter in parameters]
    return identity({"name": name, "parameters": shapes, "meaning": meaning, "reads": list(reads)})


FULL_TIER = "full"  # the tier that has everything
Places = slice | np.ndarray


def segment_of(ring: str) -> str:
    """The segment that a ring belongs to."""
    return ring.partition("@")[0]


class Layout(msgspec.Struct, frozen=True, dict=True):
    """The segments of a theta, in order and without holes.

    `tiers`: smallest first, the name and the rising places in theta, int32 [p], of each; one lies within the next.
    """

    segments: tuple[Segment, ...]
    tiers: tuple[tuple[str, np.ndarray], ...] = ()

    @cached_property
    def slices(self) -> dict[str, slice]:
        slices, start = {}, 0
        for segment in self.segments:
            slices[segment.name] = slice(start, start + segment.size)
            start += segment.size
        return slices

    @property
    def size(self) -> int:
        """P, the number of trainable values."""
        return sum(segment.size for segment in self.segments)

    def places(self, segment: str, tier: str = FULL_TIER) -> Places:
        """Where in theta a tier's part of a segment stands."""
        where = self.slices[segment]
        if tier == FULL_TIER:
            return where
        index = dict(self.tiers)[tier]
        return index[np.searchsorted(index, where.start) : np.searchsorted(index, where.stop)]

    @cached_property
    def rings(self) -> dict[str, Places]:
        """What is merged by itself: each segment, or, with tiers, what each tier adds to it (`segment@tier`)."""
        rings: dict[str, Places] = {}
        for name, where in self.slices.items():
            if not self.tiers:
                rings[name] = where
                continue
            inner: np.ndarray = np.empty(0, np.int32)
            for tier in (*(tier for tier, _ in self.tiers), FULL_TIER):
                outer = self.places(name, tier)
                outer = np.arange(outer.start, outer.stop) if isinstance(outer, slice) else outer
                if len(outer) > len(inner):
                    rings[f"{name}@{tier}"] = np.setdiff1d(outer, inner, assume_unique=True)
                inner = outer
        return rings

    def where(self, ring: str) -> Places:
        """The places in theta of a ring, or of a whole segment."""
        return self.slices[ring] if ring in self.slices else self.rings[ring]

    def by_ring(self, segment: str, tier: str, values: np.ndarray) -> dict[str, np.ndarray]:
        """A tier's values of a segment, one array for each ring that it has."""
        if not self.tiers:
            return {segment: values}
        places = self.places(segment, tier)
        found = {}
        for name in (*(name for name, _ in self.tiers), FULL_TIER):
            ring = self.rings.get(f"{segment}@{name}")
            if isinstance(ring, np.ndarray):
                at = ring - places.start if isinstance(places, slice) else np.searchsorted(places, ring)
                found[f"{segment}@{name}"] = values[at]
            if name == tier:
                break
        return found

    def __iter__(self) -> Iterator[Segment]:
        return iter(self.segments)

    def __getitem__(self, name: str) -> Segment:
        return next(segment for segment in self.segments if segment.name == name)

    def split(self, theta: np.ndarray) -> dict[str, np.ndarray]:
        """Views of theta [P] by segment name."""
        return {name: theta[where] for name, where in self.slices.items()}

    def join(self, parts: Mapping[str, np.ndarray], base: np.ndarray) -> np.ndarray:
        """A copy of `base` [P] with the segments in `parts` put in place."""
        theta = np.array(base, dtype=np.float32)
        for name, values in parts.items():
            theta[self.slices[name]] = values
        return theta
