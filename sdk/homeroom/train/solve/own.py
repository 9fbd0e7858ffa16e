"""Own samples on top of a shared solution: class means moved towards their own, as far as samples left out show.

A class's mean is (k m + s) / (k + n) of the shared mean m and the own sum s of n samples: the shared solution counts as
k samples (the posterior mean of a Gaussian with a Gaussian prior, Murphy 2012, section 4.6). Added sums are the case
that k is what the others have. Leaving some samples out only takes them from s and n, so nothing is solved again. The
shared sums must not hold the own ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from homeroom.train.solve.discriminant import MEAN_SAMPLES, ClassHead, Discriminant, LevelHead
from homeroom.train.solve.moments import Moments
from homeroom.train.solve.paired import clearly_lower
from homeroom.train.solve.task_vectors import TaskVectors, by_presence, joined

CHOICES = (1.0, 3.0, 10.0, 30.0, 100.0, 1000.0)
MOST_PARTS = 50  # that are left out in turn


def choose_prior(
    shared: Discriminant, vectors: TaskVectors, classes: np.ndarray, subjects: Sequence[str]
) -> float | None:
    """As how many samples a class the shared solution counts; None where added sums are not clearly worse (`paired`).

    classes: int [n]. Judged on the samples of each person by what all others taught; of one person, sample by sample.
    """
    parts = parts_of(subjects)
    added = _losses(left_out(shared, vectors, classes, None, parts), classes)
    losses = {k: _losses(left_out(shared, vectors, classes, k, parts), classes) for k in CHOICES}
    least = min(losses, key=lambda k: float(losses[k].sum()))
    return least if clearly_lower(added - losses[least]) else None


def choose_by(
    classes_of: Callable[[np.ndarray], np.ndarray],
) -> Callable[[ClassHead | LevelHead, TaskVectors, np.ndarray, Sequence[str]], float | None]:
    """`choose_prior` of a kind of task. classes_of: its targets -> int [n]."""
    return lambda shared, vectors, targets, subjects: choose_prior(
        shared.discriminant, vectors, classes_of(targets), subjects
    )


def moved_head(total: ClassHead | LevelHead, shared: ClassHead, own: ClassHead, prior: float) -> ClassHead | LevelHead:
    """The head of own and others' sums together with its class means moved."""
    means = moved(total.discriminant, shared.discriminant, own.discriminant.moments, prior)
    return replace(total, discriminant=means)


def moved(total: Discriminant, shared: Discriminant, own: Moments, prior: float) -> Discriminant:
    """The discriminant of a total with its means moved. own: of the own samples, which the total holds too."""
    means = _means(shared, own.sums, own.column_counts, prior)
    return Discriminant(total.moments, total.strength, means)


def left_out(
    shared: Discriminant, vectors: TaskVectors, classes: np.ndarray, prior: float | None, parts: np.ndarray
) -> np.ndarray:
    """float64 [n, classes]: each sample's logits by the means that the own samples of other parts moved.

    parts: int [n]. prior: None as for added sums. Covariance and shares are the shared ones.
    """
    x, one_hot = joined(vectors.blocks), np.eye(len(shared.means))[classes]
    present = np.stack([block.present for block in vectors.blocks], 1).astype(float)
    widths = [cut.stop - cut.start for cut in shared.moments.cuts]
    priors = _priors(shared, one_hot)
    logits = np.tile(priors, (len(vectors), 1))
    patterns = [(numbers, rows, *shared.metric(numbers)) for numbers, rows in by_presence(vectors.blocks) if numbers]
    for part in np.unique(parts):
        rest = one_hot * (parts != part)[:, None]
        means = _means(shared, rest.T @ x, np.repeat(rest.T @ present, widths, 1), prior)
        for numbers, every, inverse, spread in patterns:
            rows, columns = every[parts[every] == part], shared.moments.columns(numbers)
            scaled = means[:, columns] / spread
            weights = inverse @ scaled.T
            logits[rows] = (x[rows][:, columns] / spread) @ weights - 0.5 * (scaled.T * weights).sum(0) + priors
    return logits


def _means(shared: Discriminant, sums: np.ndarray, counts: np.ndarray, prior: float | None) -> np.ndarray:
    """[classes, D], moved by own sums and counts [classes, D]; never less than added sums would be.

    Else of one own sample a class, which it is left out of, none would count. A class that only own samples have is as
    if alone.
    """
    added = shared.moments.column_counts + MEAN_SAMPLES
    weight = added if prior is None else np.minimum(prior, added)
    weight = np.where(shared.moments.column_counts > 0, weight, float(MEAN_SAMPLES))
    return np.asarray((weight * shared.means + sums) / (weight + counts))


def _priors(shared: Discriminant, one_hot: np.ndarray) -> np.ndarray:
    """[classes]: of the shared samples and the own ones."""
    counts = shared.moments.counts + one_hot.sum(0)[:, None, None]
    return Discriminant(replace(shared.moments, counts=counts), shared.strength, shared.means).priors


def parts_of(subjects: Sequence[str]) -> np.ndarray:
    """int [n], a person in one of MOST_PARTS; a single person's samples in several."""
    numbers = np.unique(np.array(subjects), return_inverse=True)[1]
    return np.asarray((numbers if numbers.any() else np.arange(len(numbers))) % MOST_PARTS)


def _losses(logits: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Log-loss of each row."""
    top = logits - logits.max(1, keepdims=True)
    return np.asarray(np.log(np.exp(top).sum(1)) - top[np.arange(len(classes)), classes])
