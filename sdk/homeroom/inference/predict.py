"""Answers for people: the best label, calibrated probabilities, and whether there is enough to go on."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from homeroom.contract.manifest import Manifest, Task
from homeroom.data.tasks.metrics import probabilities
from homeroom.runtime.graphs import Graphs
from homeroom.train.evaluate import all_outputs_of
from homeroom.train.features.dataset import Dataset, Example
from homeroom.train.features.token_targets import TextSpan, spans_in

LEAST_LEAD = 0.2  # by which the best answer's probability must exceed the next one's
LEAST_PROBABILITY = 0.5  # and what it must reach
LEAST_INTERACTIONS = 3  # interactions that a tracing is sure from on

Best = str | int | float | bool | list[str] | list[TextSpan] | None


@dataclass(frozen=True)
class Answer:
    """`best` is a label, a list of labels or spans, a number, an option's index or a truth; None where nothing can be
    said. Of tracing it lists the skills that would more likely than not be answered right next.

    `probabilities` are calibrated, by label (option, skill), and empty for spans, which have their own; `sure` is False
    where there is too little to go on, and `reason` then says why, or what was left out.
    """

    best: Best
    probabilities: Mapping[str, float] = field(default_factory=dict)
    sure: bool = True
    reason: str = ""


def predict(
    graphs: Graphs,
    manifest: Manifest,
    theta: np.ndarray,
    examples: Sequence[Example],
    temperatures: Mapping[str, float],
    trained: Collection[str] | None = None,
) -> list[dict[str, Answer]]:
    """An answer for each example and task. `trained`: tasks that theta ever learned; None if that is not known."""
    if not examples:
        return []
    dataset = Dataset(manifest, examples)
    outputs, tokens = all_outputs_of(graphs, dataset, theta)
    answers: list[dict[str, Answer]] = [{} for _ in examples]
    for task in manifest.tasks:
        usable = dataset.usable(task, dataset.presence)
        heat = temperatures.get(task.name, 1.0)
        chances: Sequence[np.ndarray]
        if task.per_token:
            chances = [probabilities(task, one, heat) for one in tokens[task.name]]
        else:
            chances = list(probabilities(task, outputs[task.name], heat))
        for row, enough in enumerate(usable):
            if not enough:
                said = Answer(None, {}, False, f"needs {' and '.join(task.reads)}")
            elif task.per_token:
                said = _answer_by_token(task, chances[row], examples[row])
            else:
                said = _answer(task, chances[row], dataset.presence[row], manifest)
            if enough and trained is not None and task.name not in trained:
                said = Answer(said.best, said.probabilities, False, "this task was never taught here")
            answers[row][task.name] = said
    return [noted(answer, example.note) for answer, example in zip(answers, examples, strict=True)]


def noted(answers: Mapping[str, Answer], note: str) -> dict[str, Answer]:
    """The answers with a note added to each one's reason."""
    if not note:
        return dict(answers)
    return {
        task: replace(answer, reason="; ".join(filter(None, (answer.reason, note)))) for task, answer in answers.items()
    }


def _answer(task: Task, chances: np.ndarray, presence: np.ndarray, manifest: Manifest) -> Answer:
    if task.kind == "regression":
        return Answer(float(chances[0]) * task.scale + task.offset)
    if task.kind == "multilabel":
        found = {label: float(p) for label, p in zip(task.labels, chances, strict=True)}
        unclear = [label for label, p in found.items() if abs(p - 0.5) < LEAST_LEAD / 2]
        return Answer(
            [label for label, p in found.items() if p > 0.5],
            found,
            not unclear,
            f"unclear: {', '.join(unclear)}" if unclear else "",
        )
    if task.kind == "matching":
        yes = float(chances[0])
        return _judge(yes > 0.5, {"true": yes, "false": 1 - yes})
    if task.kind == "choice":
        columns = [i for i, (slot, _, _) in enumerate(manifest.inputs) if slot == task.reads[1]]
        given = {str(i): float(p) for i, p in enumerate(chances) if presence[columns[i]]}
        return _judge(int(max(given, key=lambda option: given[option])), given)
    named = {label: float(p) for label, p in zip(task.labels, chances, strict=True)}
    return _judge(max(named, key=lambda label: named[label]), named)


def _answer_by_token(task: Task, chances: np.ndarray, example: Example) -> Answer:
    """chances: [tokens and padding, width]."""
    slot = task.reads[0]
    if task.kind == "spans":
        found = spans_in(task, chances, example.words[slot])
        unclear = [str(span) for span in found if span.probability < LEAST_PROBABILITY + LEAST_LEAD / 2]
        return Answer(found, {}, not unclear, f"unclear: {', '.join(unclear)}" if unclear else "")
    seen = example.inputs[slot, 0].shape[1]
    after = {skill: float(p) for skill, p in zip(task.labels, chances[seen - 1], strict=True)}
    best = [skill for skill, p in after.items() if p > 0.5]
    return Answer(
        best,
        after,
        seen > LEAST_INTERACTIONS,
        "" if seen > LEAST_INTERACTIONS else f"so far only {seen - 1} interactions",
    )


def _judge(best: Best, found: Mapping[str, float]) -> Answer:
    ranked = sorted(found.values(), reverse=True)
    if ranked[0] < LEAST_PROBABILITY:
        return Answer(best, found, False, f"no answer reaches {LEAST_PROBABILITY:.0%}")
    if len(ranked) > 1 and ranked[0] - ranked[1] < LEAST_LEAD:
        return Answer(best, found, False, "two answers are close")
    return Answer(best, found)
