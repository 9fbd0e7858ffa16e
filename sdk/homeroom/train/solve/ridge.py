"""Numbers: ridge regression from second moments, its strength by the evidence.

Hoerl and Kennard 1970; the strength by MacKay's fixed point (Bishop 2006, equations 3.91 to 3.95), which needs sums
alone: in the eigenvectors of the standardised covariance, gamma = sum of n l / (n l + a) is the number of directions
that the samples fix, and a = gamma / |w|^2 * residual variance. Any subset of inputs by sub-blocks of the moments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from homeroom.contract.manifest import Task
from homeroom.contract.statistics.accumulate import numbers_to_grid, sum_samples
from homeroom.contract.statistics.sums import NUMBER_LIMIT, ONE, Cell, Statistics
from homeroom.train.solve.base import Blocks, Solver, Strength
from homeroom.train.solve.moments import Moments, read_moments, standardized
from homeroom.train.solve.task_vectors import TaskVectors, by_presence, joined

ROUNDS = 50  # of the fixed point
LEAST_RESIDUAL = 1e-6  # variance, in units of the task's scale


@dataclass(frozen=True)
class Line:
    """number = (x - mean) / spread @ weights + offset. precision: ridge strength, in samples."""

    mean: np.ndarray
    spread: np.ndarray
    weights: np.ndarray
    offset: float
    precision: float

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return np.asarray((x - self.mean) / self.spread @ self.weights + self.offset)


@dataclass
class Ridge:
    """Numbers for any subset of the blocks; each subset is solved once.

    numbers: [blocks, 2], sums of y and y squared over the samples that have a block; products: [D], sums of y x
    """

    moments: Moments
    numbers: np.ndarray
    products: np.ndarray
    _lines: dict[tuple[int, ...], Line] = field(default_factory=dict)

    def line(self, numbers: Sequence[int]) -> Line:
        """The line for inputs of these blocks."""
        key = tuple(numbers)
        if key not in self._lines:
            self._lines[key] = self._solve(key)
        return self._lines[key]

    def _solve(self, chosen: tuple[int, ...]) -> Line:
        moments, columns = self.moments.of(chosen), self.moments.columns(chosen)
        counts = np.maximum(1, moments.column_counts[0])
        widths = [cut.stop - cut.start for cut in moments.cuts]
        totals = self.numbers[list(chosen)]
        averages = totals[:, 0] / np.maximum(1, np.diagonal(moments.counts[0]))
        correlations, spread = standardized(moments.covariance([0]))
        covariance = (self.products[columns] / counts - moments.means[0] * np.repeat(averages, widths)) / spread
        seen = np.diagonal(moments.counts[0])
        best = int(seen.argmax())
        variance = max(LEAST_RESIDUAL, totals[best, 1] / max(1.0, seen[best]) - averages[best] ** 2)
        least = max(1.0, float(moments.counts[0].min()))
        weights, precision = evidence(correlations, covariance, variance, least)
        return Line(moments.means[0], spread, weights, float(averages[best]), precision)

    def outputs(self, vectors: TaskVectors) -> np.ndarray:
        """float64 [n, 1], in units of the task's scale; the mean over all samples where no block is present."""
        seen = np.diagonal(self.moments.counts[0])
        mean = self.numbers[int(seen.argmax()), 0] / max(1.0, float(seen.max()))
        outputs = np.full((len(vectors), 1), mean)
        for numbers, rows in by_presence(vectors.blocks):
            if numbers:
                some = [vectors.blocks[number].subset(rows) for number in numbers]
                outputs[rows, 0] = self.line(numbers)(joined(some))
        return np.asarray(np.clip(outputs, -NUMBER_LIMIT, NUMBER_LIMIT))


def evidence(
    correlations: np.ndarray, covariance: np.ndarray, variance: float, samples: float
) -> tuple[np.ndarray, float]:
    """(weights [D], ridge strength in samples) that the evidence asks for.

    correlations: [D, D] of the inputs; covariance: [D] of standardised inputs and number; variance: of the number
    """
    values, vectors = np.linalg.eigh(correlations)
    values, along = np.maximum(values, 0.0), vectors.T @ covariance
    strength = float(len(values))
    weights = along / (values + strength / samples)
    for _ in range(ROUNDS):
        fitted = 2 * weights @ along - weights @ (values * weights)
        known = float((values / (values + strength / samples)).sum())
        residual = max(LEAST_RESIDUAL, (variance - fitted) * samples / max(1.0, samples - known))
        size = float(weights @ weights)
        strength = min(max(known * residual / max(size, 1e-12), 1e-3), 1e9)
        weights = along / (values + strength / samples)
    return vectors @ weights, strength


def _sums(task: Task, vectors: TaskVectors, targets: np.ndarray) -> Statistics:
    every = np.ones(len(targets), bool)
    numbers = numbers_to_grid(targets[:, 0])
    return sum_samples(task.name, vectors.blocks, {"": every}, moments=every, numbers=numbers)


def solve_number(task: Task, statistics: Statistics, blocks: Blocks, strength: Strength) -> Ridge:
    """The head of a task of numbers; the evidence takes the place of `strength`."""
    moments = read_moments(statistics, task.name, ("",), blocks.asked)
    numbers = np.zeros((len(blocks.asked), 2))
    products = np.zeros(moments.sums.shape[1])
    for number, (block, _) in enumerate(blocks.asked):
        if (found := statistics.cells.get(Cell(task.name, "number", "", (block,)))) is not None:
            numbers[number] = found / np.array([ONE, ONE**2])
        if (found := statistics.cells.get(Cell(task.name, "product", "", (block,)))) is not None:
            products[moments.cuts[number]] = found / ONE**2
    return Ridge(moments, numbers, products)


def contributions(head: Ridge, vectors: TaskVectors) -> np.ndarray:
    """float64 [n, blocks, 1]: what each block adds to the number; they sum to it unless it is cut to its limit."""
    parts = np.zeros((len(vectors), len(vectors.blocks), 1))
    for numbers, rows in by_presence(vectors.blocks):
        line, start = head.line(numbers) if numbers else None, 0
        for number in numbers:
            block = vectors.blocks[number]
            columns = slice(start, start + block.values.shape[1])
            assert line
            x = block.values[rows] / ONE - line.mean[columns]
            parts[rows, number, 0] = x / line.spread[columns] @ line.weights[columns]
            start = columns.stop
    return parts


SOLVE_REGRESSION = Solver(kind="regression", sums=_sums, head=solve_number, contributions=contributions)
