"""Multilabel: any of the labels; the output is one logit a label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from homeroom.contract.manifest import Task
from homeroom.data.samples import Label
from homeroom.data.tasks.answers import LEAST_LEAD, Answer, unless_unclear
from homeroom.data.tasks.base import AnsweredExample, FormField, TaskKind, check_class, column_of, labelled, match_name
from homeroom.data.tasks.counting import COUNTING_COLUMNS
from homeroom.data.tasks.metrics import column_losses, score_columns, sigmoid
from homeroom.errors import InputError

JOINED_BY = (";", ",")  # in the cells of forms, where several boxes are ticked


def _check(task: Task, label: Any, where: str) -> Label:
    if not isinstance(label, list | tuple | set) or isinstance(label, str):
        raise InputError("needs a list of labels", where=where, remedy=f"some of {list(task.labels)}")
    return list(sorted({check_class(task, name, where) for joined in label for name in _names(task, joined)}))


def _names(task: Task, joined: Any) -> list[Any]:
    """The labels that a form joined by semicolons or commas, where each part is one; else what was given."""
    text = str(joined)
    for separator in JOINED_BY if match_name(text, task.labels) is None else ():
        parts: list[Any] = [part for part in text.split(separator) if part.strip()]
        if parts and all(match_name(part, task.labels) for part in parts):
            return parts
    return [joined]


def parts_of(cell: str) -> list[str]:
    """The parts of a cell that `|` separates."""
    return [part.strip() for part in cell.split("|") if part.strip()]


def _target(task: Task, label: Label) -> np.ndarray:
    """Many-hot, float32 [width]."""
    assert isinstance(label, list)
    return np.asarray([name in label for name in task.labels], np.float32)


def _answer(task: Task, chances: np.ndarray, present: Sequence[bool], example: AnsweredExample) -> Answer:
    by_label = labelled(task, chances)
    unclear = [label for label, p in by_label.items() if abs(p - 0.5) < LEAST_LEAD / 2]
    return unless_unclear([label for label, p in by_label.items() if p > 0.5], by_label, unclear)


def _select(task: Task, label: str, answer: Answer) -> np.ndarray:
    return np.asarray(np.arange(task.width) == column_of(task, label, task.labels), np.float32)


def _likeliest(task: Task, answer: Answer) -> str:
    return max(answer.probabilities, key=lambda name: answer.probabilities[name])


def _form(task: Task, label: Label | None) -> FormField:
    return FormField("checkboxes", task.labels, [str(name) for name in label] if isinstance(label, list) else ())


MULTILABEL = TaskKind(
    name="multilabel",
    check=_check,
    parse=parts_of,
    target=_target,
    soft_target=sigmoid,
    probabilities=sigmoid,
    losses=column_losses,
    score=score_columns,
    counting=COUNTING_COLUMNS,
    grows=True,
    answer=_answer,
    select=_select,
    own_label=_likeliest,
    form=_form,
)
