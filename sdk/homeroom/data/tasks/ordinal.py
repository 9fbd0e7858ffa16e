"""Ordinal: one of rising levels; the output is one logit for each label but the first: is it at least this?"""

from __future__ import annotations

from functools import partial

import numpy as np

from homeroom.contract.manifest import Task
from homeroom.data.samples import Label
from homeroom.data.tasks.answers import Answer
from homeroom.data.tasks.base import TaskKind, check_class, column_of, select_field
from homeroom.data.tasks.classification import best_label
from homeroom.data.tasks.counting import counting_classes
from homeroom.data.tasks.metrics import class_losses, score_classes, sigmoid


def _target(task: Task, label: Label) -> np.ndarray:
    """Ones up to the level, float32 [width]."""
    return np.asarray(np.arange(task.width) < task.labels.index(str(label)), np.float32)


def _levels(targets: np.ndarray) -> np.ndarray:
    return np.asarray(targets.sum(1).round().astype(int))


def _probabilities(scaled: np.ndarray) -> np.ndarray:
    """Distribution over the levels, float64 [n, width + 1]."""
    columns = sigmoid(scaled)
    at_least = np.minimum.accumulate(np.hstack([np.ones((len(columns), 1)), columns]), axis=1)
    return np.asarray(at_least - np.hstack([at_least[:, 1:], np.zeros((len(columns), 1))]))


def _losses(chances: np.ndarray, targets: np.ndarray) -> np.ndarray:
    return class_losses(chances, _levels(targets))


def _select(task: Task, label: str, answer: Answer) -> np.ndarray:
    """For reaching the level, against passing it."""
    weights, level = np.zeros(task.width, np.float32), column_of(task, label, task.labels)
    if level > 0:
        weights[level - 1] = 1.0
    if level < task.width:
        weights[level] = -1.0
    return weights


ORDINAL = TaskKind(
    name="ordinal",
    check=check_class,
    target=_target,
    soft_target=sigmoid,
    probabilities=_probabilities,
    losses=_losses,
    score=partial(score_classes, class_of=_levels, ordered=True),
    counting=counting_classes(lambda task: task.width + 1, _levels),
    classes=_levels,
    answer=best_label,
    select=_select,
    form=select_field,
)
