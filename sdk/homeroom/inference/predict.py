"""Prediction: the best label of each task, its calibrated probabilities, and whether the answer is sure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np
from msgspec import UNSET

from homeroom.contract.manifest import Manifest, Task
from homeroom.data.tasks import kind_of, probabilities
from homeroom.data.tasks.answers import Answer
from homeroom.runtime.graphs import Graphs
from homeroom.train.evaluate import all_outputs_of
from homeroom.train.features.dataset import Dataset, Example, needs_all
from homeroom.train.features.quality_gate import PredictionView
from homeroom.train.solve.combine import NOT_SOLVED, SolvedPart
from homeroom.train.solve.local_labels import LocalOutputs


def predict(
    graphs: Graphs,
    manifest: Manifest,
    theta: np.ndarray,
    examples: Sequence[Example],
    temperatures: Mapping[str, float],
    trained: Collection[str] | None = None,
    part: SolvedPart = NOT_SOLVED,
    local: Mapping[str, LocalOutputs] = MappingProxyType({}),
) -> list[dict[str, Answer]]:
    """Returns the answers for each example, by task.

    theta: float32 [P]. temperatures: of calibration, by task; 1 for others. trained: tasks that theta ever learned, or
    None if that is not known; answers of other tasks are not sure. part: the solved part, of these examples. local: by
    task, what heads that know labels of this device say of them.
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
        elif task.name in part.outputs:
            chances = list(probabilities(task, part.answered(task.name, outputs[task.name])))
        else:
            chances = list(probabilities(task, outputs[task.name], temperature))
        shown, more = task, local.get(task.name)
        if more is not None:
            shown, chances = more.task, list(more.chances(np.stack(chances)))
        taught, divided = _taught(task, len(examples), trained, part), np.zeros(len(examples), bool)
        if task.name in part.outputs:
            divided = part.divided(task.name, outputs[task.name])
        last = [column for column, (slot, _, _) in enumerate(manifest.inputs) if slot == task.reads[-1]]
        for row, answerable in enumerate(dataset.usable(task, dataset.presence)):
            if not answerable:
                answer = Answer(None, {}, False, f"needs {' and '.join(task.reads)}")
            else:
                answer = kind.answer(shown, chances[row], (dataset.presence[row, last] > 0).tolist(), examples[row])
            if answerable and not taught[row]:
                answer = Answer(answer.best, answer.probabilities, False, "this task was never taught here")
            elif answerable and divided[row] and answer.best in task.labels:
                answer = doubted(answer, "the two parts of the model answer differently")
            if answerable and more is not None:
                answer = doubted(answer, more.doubt(answer.best))
            if _cut_off(task, manifest, examples[row]):
                answer = replace(answer, sure=False)  # the note says which end is not read
            answers[row][task.name] = answer
    return [_with_note(answer, example.note) for answer, example in zip(answers, examples, strict=True)]


def _cut_off(task: Task, manifest: Manifest, example: Example) -> bool:
    """Whether a task reads only texts whose ends are cut off, or one of those that it needs."""
    given = {slot for slot, _ in example.inputs} & set(task.reads)
    cut = given.intersection(example.cut)
    return bool(cut) and (needs_all(task, manifest) or cut == given)


def _taught(task: Task, number: int, trained: Collection[str] | None, part: SolvedPart) -> np.ndarray:
    """bool [examples]: whether theta or a solved head ever learned to answer the task from such inputs."""
    by_theta = trained is None or task.name in trained
    if task.name in part.outputs and not (by_theta and task.name in part.mixes):
        return np.asarray(part.outputs[task.name].known.any(1))
    return np.full(number, by_theta)


def _with_note(answers: Mapping[str, Answer], note: str) -> dict[str, Answer]:
    return {name: replace(one, reason="; ".join(filter(None, (one.reason, note)))) for name, one in answers.items()}


def doubted(answer: Answer, doubt: str | None) -> Answer:
    """The answer, which is not sure where there is a reason to doubt it whatever its probability is."""
    if not doubt or answer.best is None:
        return answer
    return replace(answer, sure=False, reason="; ".join(filter(None, (answer.reason, doubt))))


def noted(answers: Mapping[str, Answer], manifest: Manifest, view: PredictionView) -> dict[str, Answer]:
    """Adds what a person must know of a sample's inputs to the reason of each answer; makes those unsure that are."""
    return {name: _noted(answer, manifest.task(name), view) for name, answer in answers.items()}


def _noted(answer: Answer, task: Task, view: PredictionView) -> Answer:
    doubts = [view.unsure[slot] for slot in task.reads if slot in view.unsure]
    poor = view.poor.get(task.name, "")
    if poor and not all(finding in view.note for finding in poor.split("; ")):
        doubts.append(poor)
    rule = ""
    if task.name in view.unread and task.unreadable is not UNSET:
        answer = Answer(task.unreadable, {}, False, answer.reason)
        rule = f"what cannot be read is {task.unreadable!r} by the lesson's own rule"
    reason = "; ".join(filter(None, (answer.reason, *doubts, view.note, rule)))
    return replace(answer, sure=answer.sure and not doubts and not poor, reason=reason)
