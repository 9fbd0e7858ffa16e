"""Prediction: the best label of each task, its calibrated probabilities, and whether the answer is sure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from homeroom.contract.manifest import Manifest
from homeroom.data.tasks import kind_of, probabilities
from homeroom.data.tasks.answers import Answer
from homeroom.runtime.graphs import Graphs
from homeroom.train.evaluate import all_outputs_of
from homeroom.train.features.dataset import Dataset, Example


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
        kind, temperature = kind_of(task), temperatures.get(task.name, 1.0)
        chances: Sequence[np.ndarray]
        if kind.per_token:
            chances = [probabilities(task, example, temperature) for example in tokens[task.name]]
        else:
            chances = list(probabilities(task, outputs[task.name], temperature))
        last = [column for column, (slot, _, _) in enumerate(manifest.inputs) if slot == task.reads[-1]]
        for row, answerable in enumerate(dataset.usable(task, dataset.presence)):
            if not answerable:
                answer = Answer(None, {}, False, f"needs {' and '.join(task.reads)}")
            else:
                answer = kind.answer(task, chances[row], (dataset.presence[row, last] > 0).tolist(), examples[row])
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
