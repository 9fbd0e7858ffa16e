"""Counting right and wrong answers of a task as integers: the exact counterpart of `metrics`, for sums over devices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from homeroom.contract.evaluation_counts import MOST_CLASSES, NUMBER_GRID, NUMBER_LIMIT, CountsShape
from homeroom.contract.manifest import Task
from homeroom.data.tasks.metrics import one_hot_class


@dataclass(frozen=True)
class Counting:
    """How a kind's answers are counted.

    shape: of a task's counts. count: (task, probabilities, targets) of n samples to int64 [shape.size].
    """

    shape: Callable[[Task], CountsShape]
    count: Callable[[Task, np.ndarray, np.ndarray], np.ndarray]


def counting_classes(
    width: Callable[[Task], int] = lambda task: task.width,
    class_of: Callable[[np.ndarray], np.ndarray] = one_hot_class,
    *,
    places_mean_nothing: bool = False,
) -> Counting:
    """Counts a confusion matrix; of many classes, or where a class is only a place, how many are right."""

    def shape(task: Task) -> CountsShape:
        classes = width(task)
        only_right = places_mean_nothing or classes > MOST_CLASSES
        return CountsShape("right") if only_right else CountsShape("classes", classes)

    def count(task: Task, chances: np.ndarray, targets: np.ndarray) -> np.ndarray:
        true, answered, of = class_of(targets), chances.argmax(1), shape(task)
        if of.form == "right":
            return np.array([len(true), (true == answered).sum()], np.int64)
        return np.bincount(true * of.width + answered, minlength=of.size).astype(np.int64)

    return Counting(shape, count)


def _count_columns(task: Task, chances: np.ndarray, targets: np.ndarray) -> np.ndarray:
    true, answered = targets > 0.5, chances > 0.5
    parts = (true & answered, ~true & answered, true & ~answered, ~true & ~answered)
    return np.stack([part.sum(0) for part in parts], 1).astype(np.int64).ravel()


def _count_numbers(task: Task, predicted: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Errors and labels are cut to the limit, and how many were is counted; what is not finite counts as the limit."""
    labels = np.asarray(targets, np.float64).ravel()
    errors = np.nan_to_num(np.asarray(predicted, np.float64).ravel() - labels, nan=np.inf)
    cut = (np.abs(errors) > NUMBER_LIMIT) | (np.abs(labels) > NUMBER_LIMIT)
    error, label = (
        np.rint(np.clip(values, -NUMBER_LIMIT, NUMBER_LIMIT) * NUMBER_GRID).astype(np.int64)
        for values in (errors, labels)
    )
    sums = (len(labels), np.abs(error).sum(), (error**2).sum(), label.sum(), (label**2).sum(), cut.sum())
    return np.array(sums, np.int64)


COUNTING_COLUMNS = Counting(lambda task: CountsShape("columns", task.width), _count_columns)
COUNTING_ONE_COLUMN = Counting(lambda task: CountsShape("columns"), _count_columns)  # of each interaction
COUNTING_NUMBERS = Counting(lambda task: CountsShape("numbers"), _count_numbers)
