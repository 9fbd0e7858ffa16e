"""Choice: which of the options fits the query; `reads` is (query, options), the output one logit an option."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from homeroom.contract.manifest import Task
from homeroom.data.samples import Label
from homeroom.data.tasks.answers import Answer, judge
from homeroom.data.tasks.base import AnsweredExample, InputKey, SlotInputs, TaskKind, against_the_others, column_of
from homeroom.data.tasks.classification import one_hot_losses
from homeroom.data.tasks.counting import counting_classes
from homeroom.data.tasks.metrics import score_classes, softmax
from homeroom.errors import InputError


def _check(task: Task, label: Any, where: str) -> Label:
    if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < task.width:
        raise InputError(f"{label!r} is not the index of an option", where=where, remedy=f"0 to {task.width - 1}")
    return label


def _parse(text: str) -> Any:
    try:
        return int(text)
    except ValueError:
        return text


def _right_option(task: Task, label: Label) -> InputKey:
    return task.reads[1], int(label)  # type: ignore[arg-type]


def _check_inputs(task: Task, label: Label, inputs: SlotInputs) -> None:
    slot, index = _right_option(task, label)
    if slot not in inputs or inputs[slot][index] is None:
        raise InputError(f"option {label} is not given", where=f"labels.{task.name}", remedy=f"fill {slot}")


def _target(task: Task, label: Label) -> np.ndarray:
    """One-hot, float32 [width]."""
    return np.asarray(np.arange(task.width) == label, np.float32)


def _answer(task: Task, chances: np.ndarray, present: Sequence[bool], example: AnsweredExample) -> Answer:
    by_option = {str(i): float(p) for i, p in enumerate(chances) if present[i]}
    return judge(int(max(by_option, key=lambda option: by_option[option])), by_option)


def _select(task: Task, label: str, answer: Answer) -> np.ndarray:
    known = list(answer.probabilities)
    columns = [int(name) for name in known]
    return against_the_others(task.width, columns, columns[column_of(task, label, known)])


CHOICE = TaskKind(
    name="choice",
    check=_check,
    parse=_parse,
    asked_input=_right_option,
    check_inputs=_check_inputs,
    target=_target,
    probabilities=softmax,
    losses=one_hot_losses,
    score=partial(score_classes, places_mean_nothing=True),
    counting=counting_classes(places_mean_nothing=True),
    needs_every_slot=True,
    answer=_answer,
    select=_select,
)
