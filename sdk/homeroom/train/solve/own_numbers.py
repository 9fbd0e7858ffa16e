"""Own samples on top of a shared line: their residuals move it, held back by the shared solution as k samples.

With z = (1, standardised x) and the residuals r that the shared line leaves, the own weights are the shared ones plus
(sum of z z^T + k M)^-1 (sum of z r), M the shared mean of z z^T with its ridge: the posterior mean where the shared
solution is a Gaussian prior worth k samples (Bishop 2006, equation 3.50). Added sums are, but for the ridge, the case
that k is what the others have. Samples left out need nothing solved again: of some rows p together the residuals are
(I - H_pp)^-1 r_p, with H the hat matrix (Allen 1974, PRESS). The shared sums must not hold the own ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from homeroom.train.solve.moments import Moments, standardized
from homeroom.train.solve.own import CHOICES, parts_of
from homeroom.train.solve.paired import clearly_lower
from homeroom.train.solve.ridge import Line, Ridge
from homeroom.train.solve.task_vectors import TaskVectors, by_presence, joined

SAMPLES_A_NUMBER = 16  # that the shared line counts as at first, for each of its numbers


def choose_prior(shared: Ridge, vectors: TaskVectors, targets: np.ndarray, subjects: Sequence[str]) -> float | None:
    """As how many samples the shared line counts: SAMPLES_A_NUMBER unless another is clearly better (`paired`).

    None where that is added sums. Of n own samples drawn as the others', a line of D numbers held back as k = c D
    samples misses by D n / (n + k)^2, at most 1 / (4 c), of the residual variance: little is lost where schools are
    alike, and few samples say whether they are. targets: float [n, 1]. Judged on the samples of each person by what all
    others taught; of one person, sample by sample.
    """
    parts, first = parts_of(subjects), float(SAMPLES_A_NUMBER * (1 + shared.moments.sums.shape[1]))
    losses = {k: left_out(shared, vectors, targets, k, parts) ** 2 for k in (first, None, *CHOICES)}
    least = min(losses, key=lambda k: float(losses[k].sum()))
    return least if clearly_lower(losses[first] - losses[least]) else first


def left_out(
    shared: Ridge, vectors: TaskVectors, targets: np.ndarray, prior: float | None, parts: np.ndarray
) -> np.ndarray:
    """float64 [n]: each sample's residual by the line that the own samples of other parts moved; 0 without an input.

    A sample with some inputs is judged by those that have at least these. parts: int [n]; prior: None as for added sums
    """
    residuals, x = np.zeros(len(vectors)), joined(vectors.blocks)
    present = np.stack([block.present for block in vectors.blocks], 1)
    for numbers, rows in by_presence(vectors.blocks):
        if not numbers:
            continue
        line, columns = shared.line(numbers), shared.moments.columns(numbers)
        using = np.flatnonzero(present[:, list(numbers)].all(1))
        some = x[using][:, columns]
        z = np.column_stack([np.ones(len(using)), (some - line.mean) / line.spread])
        own = targets[using, 0] - line(some)
        held = z.T @ z + _held_back(shared, numbers, prior)
        inverse = np.linalg.inv(held)
        rest = own - z @ (inverse @ (z.T @ own))
        for part in np.unique(parts[rows]):
            at = np.flatnonzero(parts[using] == part)
            apart = np.linalg.solve(np.eye(len(at)) - z[at] @ inverse @ z[at].T, rest[at])
            judged = np.isin(using[at], rows)
            residuals[using[at][judged]] = apart[judged]
    return residuals


@dataclass(kw_only=True)
class MovedRidge(Ridge):
    """As `Ridge`, of own and shared sums together, but its lines are the shared ones as own sums move them."""

    shared: Ridge
    own: Ridge
    prior: float

    def _solve(self, chosen: tuple[int, ...]) -> Line:
        line, moments = self.shared.line(chosen), self.own.moments.of(chosen)
        columns = self.own.moments.columns(chosen)
        seen = np.diagonal(moments.counts[0])
        best = int(seen.argmax())
        sums = (moments.sums[0] - moments.column_counts[0] * line.mean) / line.spread
        second = _standardized_second(moments, line)
        normal = np.block([[np.full((1, 1), float(seen[best])), sums[None]], [sums[:, None], second]])
        widths = [cut.stop - cut.start for cut in moments.cuts]
        totals = self.own.numbers[list(chosen), 0]
        products = (self.own.products[columns] - line.mean * np.repeat(totals, widths)) / line.spread
        start = np.concatenate([[line.offset], line.weights])
        asked = np.concatenate([[totals[best]], products]) - normal @ start
        values, directions = np.linalg.eigh(normal)  # samples with a part of the blocks need not fit together
        proper = (directions * np.maximum(values, 0.0)) @ directions.T
        moved = start + np.linalg.solve(proper + _held_back(self.shared, chosen, self.prior), asked)
        return replace(line, offset=float(moved[0]), weights=moved[1:])


def moved_ridge(total: Ridge, shared: Ridge, own: Ridge, prior: float) -> MovedRidge:
    """The head of own and others' sums together with its lines moved."""
    return MovedRidge(total.moments, total.numbers, total.products, shared=shared, own=own, prior=prior)


def _held_back(shared: Ridge, numbers: Sequence[int], prior: float | None) -> np.ndarray:
    """[1 + D, 1 + D]: what the shared line of these blocks adds to own sums; never more than added sums would."""
    moments, line = shared.moments.of(numbers), shared.line(numbers)
    correlations, _ = standardized(moments.covariance([0]))
    samples = max(1.0, float(moments.counts[0].min()))
    shrunken = correlations + line.precision / samples * np.eye(len(correlations))
    whole = np.zeros((1 + len(shrunken), 1 + len(shrunken)))
    whole[0, 0], whole[1:, 1:] = 1.0, shrunken
    return np.asarray((samples if prior is None else min(prior, samples)) * whole)


def _standardized_second(moments: Moments, line: Line) -> np.ndarray:
    """[D, D]: second moments about the line's means, in its spreads, over the samples that have both blocks."""
    widths = [cut.stop - cut.start for cut in moments.cuts]
    both = np.repeat(np.repeat(moments.counts[0], widths, 0), widths, 1)
    shift = np.outer(moments.sums[0], line.mean)
    centred = moments.second - shift - shift.T + both * np.outer(line.mean, line.mean)
    return np.asarray(centred / np.outer(line.spread, line.spread))
