"""Choice and matching: canonical pairs of the two inputs, and the log-likelihood ratio of belonging together.

Hotelling 1936: directions of both inputs, whitened by their own shrunken covariances, whose correlation over right
pairs is greatest. Of a pair (x, y) of such coordinates with correlation r, jointly Gaussian or independent, the log of
the ratio is -log(1 - r^2) / 2 - (r^2 (x^2 + y^2) - 2 r x y) / (2 (1 - r^2)) (as in probabilistic linear discriminant
analysis, Ioffe 2006, for two views).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from homeroom.contract.manifest import Task
from homeroom.contract.statistics.accumulate import BlockVectors, sum_samples
from homeroom.contract.statistics.sums import Statistics
from homeroom.train.solve.base import Blocks, Solver, Strength
from homeroom.train.solve.moments import Moments, read_moments, standardized
from homeroom.train.solve.task_vectors import TaskVectors, all_present, joined

RIGHT, WRONG = "true", "false"
PAIRS = 24  # canonical pairs at most
MOST_CORRELATED = 0.98
UNGIVEN = -1e4  # logit of an option that is not given


@dataclass(frozen=True)
class PairHead:
    """Canonical coordinates are (x - mean) @ matrix of the blocks side by side. offset: added to every ratio."""

    first: tuple[np.ndarray, np.ndarray]
    second: tuple[np.ndarray, np.ndarray]
    correlations: np.ndarray
    offset: float

    def outputs(self, vectors: TaskVectors) -> np.ndarray:
        """float64 [n, options]: logits; 0 where there is nothing to compare with, UNGIVEN for an absent option."""
        asked = _coordinates(vectors.blocks, self.first)
        columns, there = [], all_present(vectors.blocks)
        for option in vectors.options:
            ratio = self.ratio(asked, _coordinates(option, self.second))
            columns.append(np.where(all_present(option), np.where(there, ratio, 0.0), UNGIVEN))
        return np.stack(columns, 1)

    def ratio(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """float64 [n] of coordinates [n, pairs]."""
        r, rest = self.correlations, 1 - self.correlations**2
        terms = -0.5 * np.log(rest) - (r**2 * (x**2 + y**2) - 2 * r * x * y) / (2 * rest)
        return np.asarray(terms.sum(1) + self.offset)


def _coordinates(blocks: Sequence[BlockVectors], projection: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    return np.asarray((joined(blocks) - projection[0]) @ projection[1])


@dataclass(frozen=True)
class PairMoments:
    """Sums of a task, as arrays.

    moments: of the rows RIGHT and WRONG; second moments of right pairs alone
    blocks: of the asked input, whose columns stand first, and of the other
    """

    task: Task
    moments: Moments
    blocks: Blocks
    strength: Strength


@dataclass(frozen=True)
class SolvedPairs(PairHead):
    """A head with the sums that it was solved from."""

    solved_from: PairMoments


def read_pairs(task: Task, statistics: Statistics, blocks: Blocks, strength: Strength) -> PairMoments:
    """The sums of a task."""
    moments = read_moments(statistics, task.name, (RIGHT, WRONG), (*blocks.asked, *blocks.options))
    return PairMoments(task, moments, blocks, strength)


def solve_pairs(sums: PairMoments) -> SolvedPairs:
    """The head of these sums."""
    moments, strength = sums.moments, sums.strength
    border = sum(width for _, width in sums.blocks.asked)
    asked, other = slice(border), slice(border, None)
    covariance = moments.covariance([0])
    sides = zip((asked, other), (sums.blocks.asked, sums.blocks.options), strict=True)
    whitening = [_whitening_of(covariance[cut, cut], side, strength) for cut, side in sides]
    cross = whitening[0].T @ covariance[asked, other] @ whitening[1]
    left, correlations, right = np.linalg.svd(cross, full_matrices=False)
    kept = slice(min(PAIRS, len(correlations)))
    counts = moments.counts[:, 0, -1]  # a pair has all blocks or counts in none
    odds = strength.prior_power * float(np.log((counts[0] + 1) / (counts[1] + 1))) if counts[1] else 0.0
    return SolvedPairs(
        (moments.means[0, asked], whitening[0] @ left[:, kept]),
        (moments.means[0, other], whitening[1] @ right[kept].T),
        np.minimum(correlations[kept], MOST_CORRELATED),
        odds,
        sums,
    )


def _head(task: Task, statistics: Statistics, blocks: Blocks, strength: Strength) -> SolvedPairs:
    return solve_pairs(read_pairs(task, statistics, blocks, strength))


def _whitening_of(covariance: np.ndarray, blocks: Sequence[tuple[str, int]], strength: Strength) -> np.ndarray:
    """[d, kept] of one side, zeros for the components that are not read: those that vary least in each block."""
    rows = np.flatnonzero(np.concatenate([np.arange(width) < (strength.components or width) for _, width in blocks]))
    found = np.zeros((len(covariance), len(rows)))
    found[rows] = _whitening(covariance[np.ix_(rows, rows)], strength.shrinkage)
    return found


def _whitening(covariance: np.ndarray, shrinkage: float) -> np.ndarray:
    """[d, d] whose transpose times the shrunken covariance times itself is the identity."""
    correlations, spread = standardized(covariance)
    values, vectors = np.linalg.eigh(correlations + shrinkage * np.eye(len(spread)))
    return np.asarray(vectors / np.sqrt(values) / spread[:, None])


def _choice_sums(task: Task, vectors: TaskVectors, targets: np.ndarray) -> Statistics:
    chosen = targets.argmax(1)
    right = [_chosen(blocks, chosen) for blocks in zip(*vectors.options, strict=True)]
    return _pair_sums(task, (*vectors.blocks, *right), np.ones(len(chosen), bool))


def _matching_sums(task: Task, vectors: TaskVectors, targets: np.ndarray) -> Statistics:
    return _pair_sums(task, (*vectors.blocks, *vectors.options[0]), targets[:, 0] > 0.5)


def _chosen(options: Sequence[BlockVectors], chosen: np.ndarray) -> BlockVectors:
    """One block of the options with these numbers. options: that block of each option."""
    values, present = (
        np.stack(parts)[chosen, np.arange(len(chosen))]
        for parts in zip(*((o.values, o.present) for o in options), strict=True)
    )
    return BlockVectors(options[0].statistics_id, values, present)


def _pair_sums(task: Task, pair: Sequence[BlockVectors], right: np.ndarray) -> Statistics:
    both = all_present(pair)  # a pair counts whole or not at all
    blocks = [BlockVectors(b.statistics_id, b.values * both[:, None], both) for b in pair]
    rows = {RIGHT: right, WRONG: ~right}
    return sum_samples(task.name, blocks, rows, moments=right)


def _right_pairs(task: Task, statistics: Statistics) -> np.ndarray:
    return np.full(task.width, RIGHT in statistics.rows(task.name))


SOLVE_CHOICE = Solver(kind="choice", sums=_choice_sums, head=_head, taught=_right_pairs, pairs=True, exclusive=True)
SOLVE_MATCHING = Solver(
    kind="matching",
    sums=_matching_sums,
    head=_head,
    taught=_right_pairs,
    pairs=True,
)
