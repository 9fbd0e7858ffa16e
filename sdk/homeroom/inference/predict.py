"""Prediction: the best label of each task, its calibrated probabilities, and whether the answer is sure."""

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

LEAST_LEAD = 0.2  # of the best answer's probability over the next one's
LEAST_PROBABILITY = 0.5  # of the best answer
LEAST_INTERACTIONS = 3  # before a tracing is sure

Best = str | int | float | bool | list[str] | list[TextSpan] | None


@dataclass(frozen=True)
class Answer:
    """One task's answer for one sample.

    best: a label, a list of labels or spans, a number, an option's index or a truth; None where an input is missing. Of
    tracing, the skills whose next interaction is more likely right than wrong.
    probabilities: calibrated, by label, option or skill; empty for spans, which have their own, and for numbers.
    sure: False where probabilities are too low or too close, or where too little is known.
    reason: why it is not sure, and which inputs were left out.
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
    """Returns the answers for each example, by task.

    theta: float32 [P]. temperatures: of calibration, by task; 1 for others. trained: tasks that theta ever learned, or
    None if that is not known; answers of other tasks are not sure.
    """
    if not examples:
        return []
    dataset = Dataset(manifest, examples)
    outputs, tokens = all_outputs_of(graphs, dataset, theta)
    answers: list[dict[str, Answer]] = [{} for _ in examples]
    for task in manifest.tasks:
        usable = dataset.usable(task, dataset.presence)
        temperature = temperatures.get(task.name, 1.0)
        chances: Sequence[np.ndarray]
        if task.per_token:
            chances = [probabilities(task, example, temperature) for example in tokens[task.name]]
        else:
            chances = list(probabilities(task, outputs[task.name], temperature))
        for row, answerable in enumerate(usable):
            if not answerable:
                answer = Answer(None, {}, False, f"needs {' and '.join(task.reads)}")
            elif task.per_token:
                answer = _answer_by_token(task, chances[row], examples[row])
            else:
                answer = _answer(task, chances[row], dataset.presence[row], manifest)
            if answerable and trained is not None and task.name not in trained:
                answer = Answer(answer.best, answer.probabilities, False, "this task was never taught here")
            answers[row][task.name] = answer
    return [noted(answer, example.note) for answer, example in zip(answers, examples, strict=True)]


def noted(answers: Mapping[str, Answer], note: str) -> dict[str, Answer]:
    """Adds a note to the reason of each answer."""
    if not note:
        return dict(answers)
    return {
        task: replace(answer, reason="; ".join(filter(None, (answer.reason, note)))) for task, answer in answers.items()
    }


def _answer(task: Task, chances: np.ndarray, presence: np.ndarray, manifest: Manifest) -> Answer:
    if task.kind == "regression":
        return Answer(float(chances[0]) * task.scale + task.offset)
    if task.kind == "multilabel":
        by_label = {label: float(p) for label, p in zip(task.labels, chances, strict=True)}
        unclear = [label for label, p in by_label.items() if abs(p - 0.5) < LEAST_LEAD / 2]
        return Answer(
            [label for label, p in by_label.items() if p > 0.5],
            by_label,
            not unclear,
            f"unclear: {', '.join(unclear)}" if unclear else "",
        )
    if task.kind == "matching":
        match = float(chances[0])
        return _judge(match > 0.5, {"true": match, "false": 1 - match})
    if task.kind == "choice":
        columns = [i for i, (slot, _, _) in enumerate(manifest.inputs) if slot == task.reads[1]]
        by_option = {str(i): float(p) for i, p in enumerate(chances) if presence[columns[i]]}
        return _judge(int(max(by_option, key=lambda option: by_option[option])), by_option)
    by_label = {label: float(p) for label, p in zip(task.labels, chances, strict=True)}
    return _judge(max(by_label, key=lambda label: by_label[label]), by_label)


def _answer_by_token(task: Task, chances: np.ndarray, example: Example) -> Answer:
    """Answers spans and tracing; chances: [tokens with padding, width]."""
    slot = task.reads[0]
    if task.kind == "spans":
        spans = spans_in(task, chances, example.words[slot])
        unclear = [str(span) for span in spans if span.probability < LEAST_PROBABILITY + LEAST_LEAD / 2]
        return Answer(spans, {}, not unclear, f"unclear: {', '.join(unclear)}" if unclear else "")
    tokens = example.inputs[slot, 0].shape[1]  # a start token, then the interactions
    by_skill = {skill: float(p) for skill, p in zip(task.labels, chances[tokens - 1], strict=True)}
    best, sure = [skill for skill, p in by_skill.items() if p > 0.5], tokens > LEAST_INTERACTIONS
    return Answer(best, by_skill, sure, "" if sure else f"so far only {tokens - 1} interactions")


def _judge(best: Best, by_label: Mapping[str, float]) -> Answer:
    """Sure only of a probability that is high enough and ahead of the next."""
    ranked = sorted(by_label.values(), reverse=True)
    if ranked[0] < LEAST_PROBABILITY:
        return Answer(best, by_label, False, f"no answer reaches {LEAST_PROBABILITY:.0%}")
    if len(ranked) > 1 and ranked[0] - ranked[1] < LEAST_LEAD:
        return Answer(best, by_label, False, "two answers are close")
    return Answer(best, by_label)
