"""Tracing: after each interaction of one sequence one logit a skill: is the next answer right, if it is that skill?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from homeroom.contract.manifest import Task
from homeroom.data.preprocess.sequence import by_skill, next_answers
from homeroom.data.samples import Label, StoredSample
from homeroom.data.tasks.answers import Answer
from homeroom.data.tasks.base import AnsweredExample, InputKey, TaskKind, Words, labelled
from homeroom.data.tasks.counting import COUNTING_ONE_COLUMN
from homeroom.data.tasks.metrics import column_losses, score_columns, sigmoid
from homeroom.errors import InputError

LEAST_INTERACTIONS = 3  # before an answer is sure


def _check(task: Task, label: Any, where: str) -> Label:
    raise InputError("takes no label", where=where, remedy=f"{task.reads[0]} itself says what was right")


def _token_target(
    task: Task, sample: StoredSample, inputs: Mapping[InputKey, np.ndarray], words: Mapping[str, Words]
) -> np.ndarray | None:
    """The number of the skill that comes next, negative where it is wrong, [tokens]; None where nothing comes next."""
    if (task.reads[0], 0) not in inputs:
        return None
    target = next_answers(inputs[task.reads[0], 0][0])
    return target if target.any() else None


def _token_pairs(outputs: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The logit of each skill that was asked next, and 1.0 or 0.0, [n, 1]."""
    asked = np.flatnonzero(targets)
    numbers = targets.take(asked)
    return outputs[asked, np.abs(numbers).astype(np.int64) - 1][:, None], (numbers > 0).astype(np.float32)[:, None]


def _one_sided(targets: Iterable[np.ndarray]) -> bool:
    """Whether all answers are right, or all wrong."""
    targets = list(targets)
    return not (any((answers > 0).any() for answers in targets) and any((answers < 0).any() for answers in targets))


def _answer(task: Task, chances: np.ndarray, present: Sequence[bool], example: AnsweredExample) -> Answer:
    tokens = example.inputs[task.reads[0], 0].shape[1]  # a start token, then the interactions
    by_skill = labelled(task, chances[tokens - 1])
    best, sure = [skill for skill, p in by_skill.items() if p > 0.5], tokens > LEAST_INTERACTIONS
    return Answer(best, by_skill, sure, "" if sure else f"so far only {tokens - 1} interactions")


def _form(task: Task, label: Label | None) -> None:
    """It takes no label."""


TRACING = TaskKind(
    name="tracing",
    check=_check,
    token_target=_token_target,
    columns_of_numbers=by_skill,
    token_pairs=_token_pairs,
    one_sided=_one_sided,
    teaches_unlabelled=True,
    probabilities=sigmoid,
    losses=column_losses,
    score=partial(score_columns, both_sides=True, ranked=True),
    counting=COUNTING_ONE_COLUMN,
    answer=_answer,
    form=_form,
)
