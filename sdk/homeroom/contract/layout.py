"""Theta, the one flat float32 vector of everything trainable, and its table of named segments; numpy only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Literal

import msgspec
import numpy as np

from homeroom.contract.canonical import identity

Scope = Literal["shared", "institution", "personal"]


class Parameter(msgspec.Struct, frozen=True):
    """One tensor inside a segment, stored row-major; `shape` as the training graph reads it."""

    name: str
    shape: tuple[int, ...]


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """A named slice of theta.

    `modality` or `task`, where set, is what a sample must have for the segment to learn from it;
    `reads` are the `features_id`s that it was made for; `meaning` is the module's kind and its settings.
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
        return identity(
            {
                "name": self.name,
                "parameters": [[p.name, list(p.shape)] for p in self.parameters],
                "meaning": self.meaning,
                "reads": list(self.reads),
            }
        )


class Layout(msgspec.Struct, frozen=True, dict=True):
    """The segments of a theta, in order and without holes."""

    segments: tuple[Segment, ...]

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
