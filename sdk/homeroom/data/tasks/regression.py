"""Regression: a number in the task's unit; the output is (value - offset) / scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from homeroom.contract.manifest import Task
from homeroom.data.cells import parse_number
from homeroom.data.samples import Label
from homeroom.data.tasks.answers import Answer, Best
from homeroom.data.tasks.base import AnsweredExample, TaskKind
from homeroom.data.tasks.counting import COUNTING_NUMBERS
from homeroom.data.tasks.metrics import quantity, score_numbers
from homeroom.errors import InputError

LABEL_LIMIT_SCALES = 1e15  # from the offset: squares, and their sums over a batch, stay finite in float32


def _check(task: Task, label: Any, where: str) -> Label:
    try:
        number = math.nan if isinstance(label, bool) or not isinstance(label, int | float) else float(label)
    except OverflowError:  # of an int
        number = math.inf
    if not math.isfinite(number):
        raise InputError(f"{label!r} is not a finite number", where=where)
    if not abs((number - task.offset) / task.scale) <= LABEL_LIMIT_SCALES:
        raise InputError(f"{label!r} is too far from {task.offset:g} to be learned", where=where, remedy="correct it")
    return number


def _parse(text: str) -> Any:
    return parse_number(text)


def _target(task: Task, label: Label) -> np.ndarray:
    """float32 [1], in units of the task's scale."""
    with np.errstate(over="ignore"):  # a store may hold labels that were added before LABEL_LIMIT_SCALES
        return np.asarray([(float(label) - task.offset) / task.scale], np.float32)  # type: ignore[arg-type]


def _losses(outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Absolute errors float [n], in units of the task's scale."""
    return np.asarray(np.abs(outputs - targets).mean(1))


def _answer(task: Task, output: np.ndarray, present: Sequence[bool], example: AnsweredExample) -> Answer:
    return Answer(float(output[0]) * task.scale + task.offset)


def select_number(task: Task, label: str, answer: Answer) -> np.ndarray:
    """Weights float32 [1] that make the explained value the number itself."""
    return np.asarray([task.scale], np.float32)


def show_number(task: Task, best: Best) -> str:
    """A number for a person, with its unit."""
    return quantity(best, task.said_unit) if isinstance(best, int | float) else "no answer"


def label_number(task: Task, answer: Answer) -> str:
    """The number of an answer, with its unit."""
    return show_number(task, answer.best)


REGRESSION = TaskKind(
    name="regression",
    check=_check,
    parse=_parse,
    target=_target,
    soft_target=np.asarray,
    probabilities=np.asarray,
    losses=_losses,
    score=score_numbers,
    counting=COUNTING_NUMBERS,
    numbers=True,
    calibrated=False,
    answer=_answer,
    select=select_number,
    own_label=label_number,
    show=show_number,
)
