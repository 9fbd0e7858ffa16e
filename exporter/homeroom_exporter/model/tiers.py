"""Tiers: smaller, nested versions of a design whose theta is a part of the full one's, theta[index].

A tier keeps the first channels of every layer (as HeteroFL, Diao et al. 2021, and MatFormer, Devvrit et al. 2023), and
the first rank components of LoRA (as HetLoRA, Cho et al. 2024), so that a small machine and a large one train the same
numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from homeroom.errors import ExportError
from homeroom_exporter.model.design import Design

TierName = Literal["eighth", "quarter", "half"]

THETA_SHARES: dict[TierName, float] = {"eighth": 1 / 8, "quarter": 1 / 4, "half": 1 / 2}  # of theta, about
WIDTH_STEP = 4  # channels by which widths are tried
# Primes that no other size is made of: they mark the axes that a tier cuts.
WIDTH, HIDDEN, RANK = 1_000_003, 1_000_033, 1_000_037


@dataclass(frozen=True)
class NestedDesign:
    """A narrower design; its theta is theta[index], index int32 [p], rising."""

    design: Design
    index: np.ndarray


def make_tiers(design: Design, names: tuple[TierName, ...]) -> dict[str, NestedDesign]:
    """The tiers asked for, smallest first, each within the next."""
    tiers: dict[str, NestedDesign] = {}
    used: set[int] = set()
    for name in (name for name in THETA_SHARES if name in names):
        share, whole = THETA_SHARES[name], design.layout.size
        sizes = {w: narrowed(design, w, share).layout.size for w in range(WIDTH_STEP, design.width, WIDTH_STEP)}
        width = min(sizes, key=lambda w: abs(sizes[w] - share * whole))
        if width in used:
            fault = f"a model {design.width} wide has no tier {name} of its own"
            raise ExportError(fault, where="tiers", remedy="name fewer tiers")
        used.add(width)
        small = narrowed(design, width, share)
        tiers[name] = NestedDesign(small, tier_index(design, small))
    return tiers


def narrowed(design: Design, width: int, share: float) -> Design:
    """The design with so many channels and hidden ones in proportion, and its share of each rank."""
    hidden = max(WIDTH_STEP, round(design.hidden * width / design.width / WIDTH_STEP) * WIDTH_STEP)
    return _with_ranks(replace(design, width=width, hidden=hidden), lambda rank: max(1, round(rank * share)))


def _with_ranks(design: Design, rank: Callable[[int], int]) -> Design:
    return replace(design, adapter=design.adapter.ranked(rank)) if design.adapter else design


def tier_index(design: Design, small: Design) -> np.ndarray:
    """int32 [p]: where in the whole theta each value of the small design's stands."""
    marks = _with_ranks(replace(design, width=WIDTH, hidden=HIDDEN), lambda _: RANK)
    start, indices = 0, []
    for whole, part, marked in zip(_shapes(design), _shapes(small), _shapes(marks), strict=True):
        axes = [_kept_indices(*sizes, design, small) for sizes in zip(whole, part, marked, strict=True)]
        indices.append(start + np.ravel_multi_index(np.ix_(*axes), whole).ravel())
        start += int(np.prod(whole))
    return np.concatenate(indices).astype(np.int32)


def sheltered(design: Design, tiers: Mapping[str, NestedDesign], theta: np.ndarray) -> np.ndarray:
    """A copy of theta float32 [P] in which no channel feeds one of a smaller tier: those weights begin at zero.

    So what the smallest tier learns is not drowned, in a larger one, by random channels that few devices train (as a
    net that grows keeps its function: Net2Net, Chen et al. 2016).
    """
    level = np.full(theta.size, len(tiers))
    for number, tier in reversed(list(enumerate(tiers.values()))):
        level[tier.index] = number
    theta, start = theta.copy(), 0
    for parameter in (parameter for segment in design.layout for parameter in segment.parameters):
        end = start + int(np.prod(parameter.shape))
        if parameter.name.endswith("weight"):
            into = level[start:end].reshape(parameter.shape)  # weights are [from, to]
            theta[start:end][(into > into.min(0)).ravel()] = 0.0
        start = end
    return theta


def _shapes(design: Design) -> Iterator[tuple[int, ...]]:
    return (parameter.shape for segment in design.layout for parameter in segment.parameters)


def _kept_indices(whole: int, part: int, marked: int, design: Design, small: Design) -> np.ndarray:
    """Which places of an axis the small design has: the first, of each block of `width` or `hidden`; else all."""
    for mark, block, kept in ((WIDTH, design.width, small.width), (HIDDEN, design.hidden, small.hidden)):
        if marked % mark == 0:
            return np.concatenate([np.arange(kept) + i * block for i in range(marked // mark)])
    assert whole == part or marked == RANK
    return np.arange(part)
