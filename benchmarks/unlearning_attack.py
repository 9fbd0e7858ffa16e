"""Least-squares attackers: solve for a withdrawn update from the versions that are served and what they know besides.

A version is its start plus a weighted mean of updates for each release on its way, so it is a linear equation in the
updates. An attacker knows who took part in which release with which weight (as a reader of the audit log may), the
updates of its own devices, and every version that is served. It takes the solution of least norm.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Column = tuple[int, int]  # a member, and the release that its update entered
NOTHING = 1e-6  # of the sought update's norm: a shorter estimate is rounding


@dataclass(frozen=True)
class Observation:
    """A served version: how far it is from the start, float64 [P], and the weight of each update in that."""

    moved: np.ndarray
    shares: Mapping[Column, float]


def solve(seen: Sequence[Observation], known: Mapping[Column, np.ndarray], wanted: Collection[Column]) -> np.ndarray:
    """An attacker's estimate of the sum of the updates `wanted`, float64 [P]. known: its own updates."""
    names = sorted({name for one in seen for name in one.shares} | set(wanted))
    columns = [name for name in names if name not in known]
    rows = np.array([[one.shares.get(name, 0.0) for name in columns] for one in seen])
    right = np.stack([one.moved for one in seen])
    for number, one in enumerate(seen):
        for name in one.shares.keys() & known.keys():
            right[number] -= one.shares[name] * known[name]
    found = np.linalg.lstsq(rows, right, rcond=1e-9)[0]
    return np.asarray(found[[columns.index(name) for name in wanted]].sum(0))


def error(estimate: np.ndarray, truth: np.ndarray) -> float:
    """How far an estimate is from the truth at its best scale, relative to the truth: 0 is exact, 1 knows nothing."""
    length, aim = np.linalg.norm(estimate), np.linalg.norm(truth)
    if length < NOTHING * aim:
        return 1.0
    return float(max(0.0, 1 - (estimate @ truth / (length * aim)) ** 2) ** 0.5)
