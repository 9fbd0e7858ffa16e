"""Classes by direction: the head of a private release, which has class sums with noise and no counts.

A discriminant with equal priors and class means of equal length: of a mean, only the direction of its sum is known.
Directions are compared after whitening by the covariance within the classes of public samples, shrunk as in
`discriminant`, so that the released sums answer for nothing but the classes' places. Any subset of inputs is answered
from the sub-blocks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from homeroom.contract.manifest import Task
from homeroom.contract.statistics.sums import Statistics
from homeroom.train.solve.base import Blocks, Strength
from homeroom.train.solve.discriminant import Discriminant, solve_classes
from homeroom.train.solve.moments import read_moments
from homeroom.train.solve.task_vectors import TaskVectors, by_presence, joined

SHORTEST = 1e-9  # of a direction, which nothing points to


@dataclass(frozen=True)
class DirectionHead:
    """Logits over the classes: lengths of whitened vectors along each class's direction.

    public: of public samples, read for its covariance alone
    sums: [classes, D], the released ones
    """

    public: Discriminant
    sums: np.ndarray

    def outputs(self, vectors: TaskVectors) -> np.ndarray:
        """float64 [n, classes]; zeros where no block is present."""
        logits = np.zeros((len(vectors), len(self.sums)))
        for numbers, rows in by_presence(vectors.blocks):
            if not numbers:
                continue
            inverse, spread = self.public.metric(numbers)
            towards = self.sums[:, self.public.moments.columns(numbers)] / spread
            weights = inverse @ towards.T
            lengths = np.sqrt(np.maximum((towards.T * weights).sum(0), SHORTEST**2))
            some = [vectors.blocks[number].subset(rows) for number in numbers]
            logits[rows] = (joined(some) / spread) @ (weights / lengths)
        return logits


def solve_directions(
    task: Task, released: Statistics, public: Statistics, blocks: Blocks, strength: Strength
) -> DirectionHead:
    """The head of a release. public: statistics of public samples, with counts and second moments."""
    moments = read_moments(released, task.name, task.labels, blocks.asked)
    return DirectionHead(solve_classes(task, public, blocks, strength), moments.sums)
