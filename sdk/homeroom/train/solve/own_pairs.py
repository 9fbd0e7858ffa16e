"""Own pairs on top of shared ones, of choice and matching: the others' sums count as k right pairs beside the own sums.

Sums scaled to k samples are those of the conjugate prior of a Gaussian's mean and covariance (normal inverse Wishart,
Murphy 2012, section 4.6.3). Added sums are the case that k is what the others have. Canonical pairs have no closed form
without some samples, so people are left out in FOLDS turns, each solved again. The shared sums must not hold
the own ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from homeroom.contract.manifest import Task
from homeroom.contract.statistics.sums import Statistics
from homeroom.data.tasks import losses
from homeroom.train.calibration import temperature
from homeroom.train.solve.base import Blocks
from homeroom.train.solve.canonical import PairMoments, SolvedPairs, read_pairs, solve_pairs
from homeroom.train.solve.moments import Moments
from homeroom.train.solve.own import parts_of
from homeroom.train.solve.paired import clearly_lower
from homeroom.train.solve.task_vectors import TaskVectors

FOLDS = 5
OTHERS_ALONE = 1e6  # pairs, beside which own ones do not count
CHOICES = (1.0, 10.0, 100.0, 1000.0, OTHERS_ALONE)
Sums = Callable[[Task, TaskVectors, np.ndarray], Statistics]


def choose_by(
    sums: Sums,
) -> Callable[[SolvedPairs, TaskVectors, np.ndarray, Sequence[str]], float | None]:
    """`choose_prior` of a kind of task. sums: of its samples."""
    return lambda shared, vectors, targets, subjects: choose_prior(shared, sums, vectors, targets, subjects)


def choose_prior(
    shared: SolvedPairs, sums: Sums, vectors: TaskVectors, targets: np.ndarray, subjects: Sequence[str]
) -> float | None:
    """As how many right pairs the shared sums count; None where added sums are not clearly worse (`paired`).

    Each candidate is judged by the loss at its own temperature, as its answers are calibrated. targets: as `sums` takes
    them. Judged on the samples of each person by what others taught; of one person, sample by sample.
    """
    parts = parts_of(subjects) % FOLDS
    outputs = left_out(shared, sums, vectors, targets, (None, *CHOICES), parts)
    task = shared.solved_from.task
    by_prior = {prior: losses(task, one / temperature(task, one, targets), targets) for prior, one in outputs.items()}
    least = min(by_prior, key=lambda prior: float(by_prior[prior].sum()))
    return least if clearly_lower(by_prior[None] - by_prior[least]) else None


def left_out(
    shared: SolvedPairs,
    sums: Sums,
    vectors: TaskVectors,
    targets: np.ndarray,
    priors: Sequence[float | None],
    parts: np.ndarray,
) -> dict[float | None, np.ndarray]:
    """float64 [n, width] by prior: each sample's outputs by heads that the own samples of other parts moved.

    parts: int [n]. A prior of None: as for added sums.
    """
    outputs = {prior: np.zeros((len(targets), shared.solved_from.task.width)) for prior in priors}
    for part in np.unique(parts):
        rest, asked = np.flatnonzero(parts != part), np.flatnonzero(parts == part)
        own = _moments(shared.solved_from, sums, vectors.subset(rest), targets[rest])
        for prior, found in outputs.items():
            found[asked] = _on_top(shared.solved_from, own, prior).outputs(vectors.subset(asked))
    return outputs


def moved_pairs(total: SolvedPairs, shared: SolvedPairs, own: SolvedPairs, prior: float) -> SolvedPairs:
    """The head of own sums on top of the others'."""
    return _on_top(shared.solved_from, own.solved_from.moments, prior)


def _moments(like: PairMoments, sums: Sums, vectors: TaskVectors, targets: np.ndarray) -> Moments:
    widths = [[(b.statistics_id, b.values.shape[1]) for b in some] for some in (vectors.blocks, vectors.options[0])]
    return read_pairs(like.task, sums(like.task, vectors, targets), Blocks(*widths), like.strength).moments


def _on_top(shared: PairMoments, own: Moments, prior: float | None) -> SolvedPairs:
    """The head of own sums and of shared ones that count as so many right pairs."""
    pairs = float(shared.moments.counts[0].max())
    weight = 1.0 if prior is None or not pairs else prior / pairs
    return solve_pairs(replace(shared, moments=own.plus(shared.moments, weight)))
