"""What a kind of task gives to be solved: how its labels become sums, and its head out of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from homeroom.contract.manifest import Task
from homeroom.contract.statistics.sums import Statistics
from homeroom.train.solve.task_vectors import TaskVectors


class Blocks(NamedTuple):
    """`statistics_id` and dimension of the blocks that a head reads. options: of choice and matching, compared with."""

    asked: Sequence[tuple[str, int]]
    options: Sequence[tuple[str, int]] = ()


@dataclass(frozen=True)
class Strength:
    """shrinkage: added to the correlations' diagonal; prior_power: of the classes' shares.

    components: of choice and matching: the first principal components of each block that are read; None: all
    """

    shrinkage: float = 1.0
    prior_power: float = 0.5
    components: int | None = None


class SolvedHead(Protocol):
    """A solved head."""

    def outputs(self, vectors: TaskVectors) -> np.ndarray:
        """float64 [n, width], as the `predict` graph gives them: logits, or numbers in units of the task's scale."""
        ...


def _any_sample(task: Task, statistics: Statistics) -> np.ndarray:
    return np.full(task.width, bool(statistics.rows(task.name)))


@dataclass(frozen=True)
class OnTop:
    """How own samples move a head that others' sums gave, of one kind of task.

    choose: (shared head, own vectors, their targets, their subjects) -> as how many samples the shared solution counts;
        None: own sums are added
    moved: (head of own and others' sums together, shared head, head of own sums, that number) -> the head to answer by
    """

    choose: Callable[[Any, TaskVectors, np.ndarray, Sequence[str]], float | None]
    moved: Callable[[Any, Any, Any, float], SolvedHead]


@dataclass(frozen=True)
class Solver:
    """One kind of task.

    sums: (task, vectors, targets float32 [n, width]) -> the samples' statistics
    head: (task, statistics, blocks, strength) -> the head
    taught: (task, statistics) -> bool [width], the outputs that the samples say anything of
    contributions: (head, vectors) -> float64 [n, blocks, width], which sum to the outputs but for a constant of the
        blocks that are present; None where outputs are no such sum
    pairs: whether it compares two slots, the second of which may have several inputs
    exclusive: whether the outputs are logits of classes or options of which one is right
    """

    kind: str
    sums: Callable[[Task, TaskVectors, np.ndarray], Statistics]
    head: Callable[[Task, Statistics, Blocks, Strength], SolvedHead]
    taught: Callable[[Task, Statistics], np.ndarray] = _any_sample
    contributions: Callable[[Any, TaskVectors], np.ndarray] | None = None
    pairs: bool = False
    exclusive: bool = False
