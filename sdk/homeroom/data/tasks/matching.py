"""Matching: whether two inputs belong together; `reads` is two slots, the output one logit."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from homeroom.contract.manifest import Task
from homeroom.data.samples import TRUTH_WORDS, Label
from homeroom.data.tasks.answers import Answer, judge
from homeroom.data.tasks.base import AnsweredExample, FormField, TaskKind, column_of
from homeroom.data.tasks.counting import COUNTING_COLUMNS
from homeroom.data.tasks.metrics import column_losses, score_columns, sigmoid
from homeroom.errors import InputError

WORDS = ("true", "false")


def _check(task: Task, label: Any, where: str) -> Label:
    if label not in (True, False):
        raise InputError(f"{label!r} is neither true nor false", where=where)
    return bool(label)


def _parse(text: str) -> Any:
    return TRUTH_WORDS.get(text.lower(), text)


def _target(task: Task, label: Label) -> np.ndarray:
    """1.0 or 0.0, float32 [1]."""
    return np.asarray([bool(label)], np.float32)


def _answer(task: Task, chances: np.ndarray, present: Sequence[bool], example: AnsweredExample) -> Answer:
    match = float(chances[0])
    return judge(match > 0.5, dict(zip(WORDS, (match, 1 - match), strict=True)))


def _select(task: Task, label: str, answer: Answer) -> np.ndarray:
    return np.asarray([(1.0, -1.0)[column_of(task, label, WORDS)]], np.float32)


def _form(task: Task, label: Label | None) -> FormField:
    return FormField("select", WORDS, () if label is None else (str(label).lower(),))


MATCHING = TaskKind(
    name="matching",
    check=_check,
    parse=_parse,
    target=_target,
    soft_target=sigmoid,
    probabilities=sigmoid,
    losses=column_losses,
    score=partial(score_columns, both_sides=True),
    counting=COUNTING_COLUMNS,
    needs_every_slot=True,
    answer=_answer,
    select=_select,
    form=_form,
)
