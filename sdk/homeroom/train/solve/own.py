"""Own samples on top of a shared solution: class means moved towards their own, the weight by leave-one-out.

A class's mean is (k m + s) / (k + n) of the shared mean m and the own sum s of n samples: the shared solution counts as
k samples (the posterior mean of a Gaussian with a Gaussian prior, Murphy 2012, section 4.6). Leaving one sample out
changes its own class's mean alone, so all n answers without themselves have a closed form. The shared sums must not
hold the own ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from homeroom.train.solve.discriminant import Discriminant
from homeroom.train.solve.paired import clearly_lower
from homeroom.train.solve.task_vectors import TaskVectors, by_presence, joined


@dataclass(frozen=True)
class Own:
    """head: the discriminant with moved means; samples_of_prior: what the shared solution counts as."""

    head: Discriminant
    samples_of_prior: float

    default: ClassVar[float] = 30.0
    choices: ClassVar[tuple[float, ...]] = (1.0, 3.0, 10.0, 30.0, 100.0, 1000.0)

    @classmethod
    def choose(cls, shared: Discriminant, vectors: TaskVectors, classes: np.ndarray) -> Own:
        """The weight with the least log-loss over the samples, each left out; the default unless that is clearly worse.

        classes: int [n]. Clearly: as of `paired`.
        """
        losses = {k: _losses(cls.left_out(shared, vectors, classes, k), classes) for k in cls.choices}
        least = min(losses, key=lambda k: float(losses[k].sum()))
        best = least if clearly_lower(losses[cls.default] - losses[least]) else cls.default
        return cls(cls.moved(shared, vectors, classes, best), best)

    @staticmethod
    def moved(shared: Discriminant, vectors: TaskVectors, classes: np.ndarray, prior: float) -> Discriminant:
        """The shared solution with means moved by the samples. prior: samples that it counts as."""
        sums, counts = _own_sums(shared, vectors, classes)
        moments = shared.moments
        own = np.zeros_like(moments.counts)
        own[:, range(len(moments.cuts)), range(len(moments.cuts))] = _block_counts(vectors, classes, len(sums))
        taught = replace(moments, counts=moments.counts + own)
        head = Discriminant(taught, shared.strength, (prior * shared.means + sums) / (prior + counts))
        head.within = shared.within  # their own samples change the means alone
        head.priors = shared.priors if not (shared.taught == 0).any() else head.priors
        return head

    @staticmethod
    def left_out(shared: Discriminant, vectors: TaskVectors, classes: np.ndarray, prior: float) -> np.ndarray:
        """float64 [n, classes]: each sample's logits by the means that the others moved."""
        sums, counts = _own_sums(shared, vectors, classes)
        means = (prior * shared.means + sums) / (prior + counts)
        moved = Own.moved(shared, vectors, classes, prior)
        logits = np.tile(moved.priors, (len(vectors), 1))
        for numbers, rows, x in _parts(vectors):
            columns = shared.moments.columns(numbers)
            inverse, spread = shared.metric(numbers)
            scaled, own = means[:, columns] / spread, classes[rows]
            logits[rows] = (x / spread) @ inverse @ scaled.T - 0.5 * ((scaled @ inverse) * scaled).sum(1) + moved.priors
            total = prior * shared.means[own][:, columns] + sums[own][:, columns] - x
            without = total / (prior + counts[own][:, columns] - 1) / spread
            along = without @ inverse
            logits[rows, own] = ((x / spread - 0.5 * without) * along).sum(1) + moved.priors[own]
        return logits


def _own_sums(shared: Discriminant, vectors: TaskVectors, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums and counts [classes, D] of the samples' vectors."""
    moments = shared.moments
    one_hot = np.eye(len(moments.sums))[classes]
    widths = [cut.stop - cut.start for cut in moments.cuts]
    counts = np.repeat(_block_counts(vectors, classes, len(moments.sums)), widths, 1)
    return one_hot.T @ joined(vectors.blocks), counts


def _block_counts(vectors: TaskVectors, classes: np.ndarray, number: int) -> np.ndarray:
    """[classes, blocks]"""
    present = np.stack([block.present for block in vectors.blocks], 1).astype(float)
    return np.asarray(np.eye(number)[classes].T @ present)


def _parts(vectors: TaskVectors) -> Iterator[tuple[tuple[int, ...], np.ndarray, np.ndarray]]:
    """(blocks, rows, their vectors) for each combination of inputs but none."""
    for numbers, rows in by_presence(vectors.blocks):
        if numbers:
            yield numbers, rows, joined([vectors.blocks[number].subset(rows) for number in numbers])


def _losses(logits: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Log-loss of each row."""
    top = logits - logits.max(1, keepdims=True)
    return np.asarray(np.log(np.exp(top).sum(1)) - top[np.arange(len(classes)), classes])
