"""Classification: one label a sample; the output is logits over the labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from homeroom.contract.manifest import Task
from homeroom.data.samples import Label
from homeroom.data.tasks.answers import Answer, judge
from homeroom.data.tasks.base import (
    AnsweredExample,
    TaskKind,
    against_the_others,
    check_class,
    column_of,
    labelled,
    select_field,
)
from homeroom.data.tasks.counting import counting_classes
from homeroom.data.tasks.metrics import class_losses, one_hot_class, score_classes, softmax


def _target(task: Task, label: Label) -> np.ndarray:
    """One-hot, float32 [width]."""
    return np.asarray(np.arange(task.width) == task.labels.index(str(label)), np.float32)


def one_hot_losses(chances: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Log-loss of each row, float [n]; targets: one-hot."""
    return class_losses(chances, one_hot_class(targets))


def best_label(task: Task, chances: np.ndarray, present: Sequence[bool], example: AnsweredExample) -> Answer:
    """The most probable label."""
    by_label = labelled(task, chances)
    return judge(max(by_label, key=lambda label: by_label[label]), by_label)


def _select(task: Task, label: str, answer: Answer) -> np.ndarray:
    return against_the_others(task.width, range(task.width), column_of(task, label, task.labels))


CLASSIFICATION = TaskKind(
    name="classification",
    check=check_class,
    target=_target,
    soft_target=softmax,
    probabilities=softmax,
    losses=one_hot_losses,
    score=score_classes,
    counting=counting_classes(),
    classes=one_hot_class,
    class_prior=True,
    grows=True,
    answer=best_label,
    select=_select,
    form=select_field,
)
