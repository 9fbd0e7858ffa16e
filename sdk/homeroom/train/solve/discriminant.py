"""Classes and levels: linear discriminants from class means and a shared within-class covariance.

Friedman 1989, Regularized discriminant analysis, section 3 (the covariance shrunk towards its diagonal, here of
standardised vectors); priors are the classes' shares to a power, since shares differ from school to school. Any subset
of inputs is answered from the sub-blocks of means and covariance, which are the Gaussian's marginals: nothing is
imputed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from homeroom.contract.manifest import Task
from homeroom.contract.statistics.accumulate import sum_samples
from homeroom.contract.statistics.pooling import OTHERS
from homeroom.contract.statistics.sums import ONE, Statistics
from homeroom.train.solve.base import Blocks, Solver, Strength
from homeroom.train.solve.moments import Moments, read_moments, standardized
from homeroom.train.solve.task_vectors import TaskVectors, by_presence, joined

UNTAUGHT = -1e4  # logit of a class without samples
MEAN_SAMPLES = 2  # samples' worth of the mean over all classes in the mean of each
PRIOR_SAMPLES = 2


@dataclass(frozen=True)
class Rule:
    """logits = x / spread @ weights + bias, for the blocks that it reads. weights: [D, classes]; bias: [classes]."""

    spread: np.ndarray
    weights: np.ndarray
    bias: np.ndarray

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return np.asarray((x / self.spread) @ self.weights + self.bias)


@dataclass
class Discriminant:
    """Logits over the classes for any subset of the blocks; each subset is solved once.

    moments: over the classes' rows, in the order of the labels
    means: [classes, D], in place of those of the moments
    """

    moments: Moments
    strength: Strength
    means: np.ndarray
    _rules: dict[tuple[int, ...], Rule] = field(default_factory=dict)

    @cached_property
    def within(self) -> np.ndarray:
        """[D, D], the shared covariance within the classes, with PRIOR_SAMPLES' worth of the variances of all samples.

        Else what never varies within a class, as of one sample each, would be told apart without any doubt.
        """
        moments = self.moments
        counts = moments.column_counts.sum(0)
        means = moments.sums.sum(0) / np.maximum(1, counts)
        variances = np.diag(moments.second) / np.maximum(1, counts) - means**2
        widths = [cut.stop - cut.start for cut in moments.cuts]
        both = np.repeat(np.repeat(moments.counts.sum(0), widths, 0), widths, 1)
        within = moments.covariance(range(len(moments.sums))) * both + PRIOR_SAMPLES * np.diag(variances)
        return np.asarray(within / (both + PRIOR_SAMPLES))

    @property
    def scale(self) -> float:
        """What logits are multiplied by: shrinkage adds to the variances, and would leave them the smaller by it."""
        return 1 + self.strength.shrinkage

    @cached_property
    def taught(self) -> np.ndarray:
        """[classes]: samples of each class, in the block that most of them have."""
        return np.asarray(np.diagonal(self.moments.counts, axis1=1, axis2=2).max(1))

    @cached_property
    def priors(self) -> np.ndarray:
        """[classes]: what is added to the logits; UNTAUGHT for a class without samples."""
        shares = np.log(np.maximum(1, self.taught) / max(1.0, self.taught.sum()))
        return np.where(self.taught > 0, self.scale * self.strength.prior_power * shares, UNTAUGHT)

    def metric(self, numbers: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """(inverse of the shrunken correlations [D, D], spreads [D]) of these blocks."""
        columns = self.moments.columns(numbers)
        correlations, spread = standardized(self.within[np.ix_(columns, columns)])
        shrunken = correlations + self.strength.shrinkage * np.eye(len(spread))
        return self.scale * np.linalg.inv(shrunken), spread

    def rule(self, numbers: Sequence[int]) -> Rule:
        """The rule for inputs of these blocks."""
        key = tuple(numbers)
        if key not in self._rules:
            inverse, spread = self.metric(numbers)
            weights, bias = np.zeros((len(spread), len(self.taught))), self.priors.copy()
            for chosen in (self.taught > 0, self.taught == 0):  # apart, so that these change no bit of those
                means = self.means[chosen][:, self.moments.columns(numbers)] / spread
                weights[:, chosen] = some = inverse @ means.T
                bias[chosen] -= 0.5 * (means.T * some).sum(0)
            self._rules[key] = Rule(spread, weights, bias)
        return self._rules[key]

    def logits(self, vectors: TaskVectors) -> np.ndarray:
        """float64 [n, classes]; the priors alone where no block is present."""
        logits = np.tile(self.priors, (len(vectors), 1))
        for numbers, rows in by_presence(vectors.blocks):
            if numbers:
                some = [vectors.blocks[number].subset(rows) for number in numbers]
                logits[rows] = self.rule(numbers)(joined(some))
        return logits


def contributions(head: ClassHead, vectors: TaskVectors) -> np.ndarray:
    """float64 [n, blocks, classes]: what each block adds to the logits beyond the mean of all samples in it."""
    own, parts = head.discriminant, np.zeros((len(vectors), len(vectors.blocks), len(head.discriminant.means)))
    overall = own.moments.sums.sum(0) / np.maximum(1, own.moments.column_counts.sum(0))
    for numbers, rows in by_presence(vectors.blocks):
        rule, start = own.rule(numbers) if numbers else None, 0
        for number in numbers:
            cut, block = own.moments.cuts[number], vectors.blocks[number]
            columns = slice(start, start + cut.stop - cut.start)
            assert rule
            x = block.values[rows] / ONE - overall[cut]
            parts[rows, number] = x / rule.spread[columns] @ rule.weights[columns]
            start = columns.stop
    return parts


def class_means(moments: Moments) -> np.ndarray:
    """[classes, D]: each with MEAN_SAMPLES samples' worth of the mean over all."""
    overall = moments.sums.sum(0) / np.maximum(1, moments.column_counts.sum(0))
    return np.asarray((moments.sums + MEAN_SAMPLES * overall) / (moments.column_counts + MEAN_SAMPLES))


def solve_classes(task: Task, statistics: Statistics, blocks: Blocks, strength: Strength) -> Discriminant:
    """The discriminant of a task's labels."""
    moments = read_moments(statistics, task.name, (*task.labels, OTHERS), blocks.asked)
    if OTHERS in statistics.rows(task.name):
        moments = moments.without_last_row()
    else:
        moments = replace(moments, counts=moments.counts[:-1], sums=moments.sums[:-1])
    return Discriminant(moments, strength, class_means(moments))


def sum_classes(task: Task, vectors: TaskVectors, classes: np.ndarray) -> Statistics:
    """The sums of samples with these classes int [n]."""
    rows = {label: classes == number for number, label in enumerate(task.labels)}
    return sum_samples(task.name, vectors.blocks, rows, moments=np.ones(len(classes), bool))


@dataclass(frozen=True)
class ClassHead:
    """Outputs of a classification."""

    discriminant: Discriminant

    def outputs(self, vectors: TaskVectors) -> np.ndarray:
        """float64 [n, labels]: logits."""
        return self.discriminant.logits(vectors)


@dataclass(frozen=True)
class LevelHead:
    """Outputs of an ordinal task: the levels' discriminant, as the logits of reaching each level but the first."""

    discriminant: Discriminant

    def outputs(self, vectors: TaskVectors) -> np.ndarray:
        """float64 [n, levels - 1]."""
        logits = self.discriminant.logits(vectors)
        logits = logits - logits.max(1, keepdims=True)
        chances = np.exp(logits)
        reached = np.cumsum(chances[:, ::-1], 1)[:, ::-1][:, 1:]
        below = np.cumsum(chances, 1)[:, :-1]
        return np.asarray(np.log(np.maximum(reached, 1e-300)) - np.log(np.maximum(below, 1e-300)))


def levels_of(targets: np.ndarray) -> np.ndarray:
    """int [n] of an ordinal task's targets [n, levels - 1]."""
    return np.asarray(targets.sum(1).round().astype(int))


def _taught(task: Task, statistics: Statistics) -> np.ndarray:
    rows = statistics.rows(task.name)
    return np.array([label in rows for label in task.labels])


def _taught_levels(task: Task, statistics: Statistics) -> np.ndarray:
    """All or none: without samples of a level, what lies above and below it is told by its neighbours alone."""
    return np.full(task.width, _taught(task, statistics).all())


SOLVE_CLASSIFICATION = Solver(
    kind="classification",
    sums=lambda task, vectors, targets: sum_classes(task, vectors, targets.argmax(1)),
    head=lambda task, statistics, blocks, strength: ClassHead(solve_classes(task, statistics, blocks, strength)),
    taught=_taught,
    contributions=contributions,
    exclusive=True,
)
SOLVE_ORDINAL = Solver(
    kind="ordinal",
    sums=lambda task, vectors, targets: sum_classes(task, vectors, levels_of(targets)),
    head=lambda task, statistics, blocks, strength: LevelHead(solve_classes(task, statistics, blocks, strength)),
    taught=_taught_levels,
)
