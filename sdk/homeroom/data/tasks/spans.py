"""Spans: labelled passages of one text; for each token the output is logits over no label and the labels."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from homeroom.contract.manifest import Task
from homeroom.data.samples import Label, StoredSample
from homeroom.data.tasks.answers import LEAST_LEAD, LEAST_PROBABILITY, Answer, TextSpan, unless_unclear
from homeroom.data.tasks.base import AnsweredExample, FormField, InputKey, SlotInputs, TaskKind, Words, check_class
from homeroom.data.tasks.classification import one_hot_losses
from homeroom.data.tasks.counting import counting_classes
from homeroom.data.tasks.metrics import score_classes, softmax
from homeroom.data.tasks.multilabel import parts_of
from homeroom.errors import InputError


def _check(task: Task, label: Any, where: str) -> Label:
    """Returns spans as mappings, in the order of the text; they must not overlap."""
    if isinstance(label, str) or not isinstance(label, Sequence):
        raise InputError("needs a list of spans", where=where, remedy='[{"start": 0, "end": 5, "label": …}, …]')
    spans = sorted((_check_span(task, item, where) for item in label), key=lambda span: (span["start"], span["end"]))
    for before, after in itertools.pairwise(spans):
        if after["start"] < before["end"]:
            raise InputError(
                f"spans {before['start']} to {before['end']} and {after['start']} to {after['end']} overlap",
                where=where,
            )
    return list(spans)


def _check_span(task: Task, item: Any, where: str) -> dict[str, Any]:
    if not isinstance(item, Mapping) and not (isinstance(item, Sequence) and len(item) == 3):
        raise InputError(f"{item!r} is no span", where=where, remedy="give its start, end and label")
    span = dict(item) if isinstance(item, Mapping) else dict(zip(("start", "end", "label"), item, strict=True))
    if span.keys() != {"start", "end", "label"} or not all(type(span[edge]) is int for edge in ("start", "end")):
        raise InputError(f"{item!r} is no span", where=where, remedy="give its start, end and label")
    if not 0 <= span["start"] < span["end"]:
        raise InputError(f"characters {span['start']} to {span['end']} are no span", where=where)
    return {"start": span["start"], "end": span["end"], "label": check_class(task, span["label"], where)}


def _check_inputs(task: Task, label: Label, inputs: SlotInputs) -> None:
    (text,) = inputs.get(task.reads[0], [None])
    if not isinstance(text, str):
        raise InputError(f"{task.reads[0]} is not given", where=f"labels.{task.name}", remedy="give the text, too")
    assert isinstance(label, list)
    for span in label:
        assert isinstance(span, dict)
        if int(span["end"]) > len(text):
            raise InputError(
                f"the span to {span['end']} leads past the text's {len(text)} characters", where=f"labels.{task.name}"
            )


def _parse(cell: str) -> Any:
    return [_parse_span(part) for part in parts_of(cell)]


def _parse_span(part: str) -> Any:
    match = re.fullmatch(r"(\d{1,9})-(\d{1,9}):(.+)", part)
    return (int(match[1]), int(match[2]), match[3].strip()) if match else part


def _token_target(
    task: Task, sample: StoredSample, inputs: Mapping[InputKey, np.ndarray], words: Mapping[str, Words]
) -> np.ndarray | None:
    """One-hot over no label and the task's labels, at each token of a word; a word belongs to the span it overlaps."""
    if task.name not in sample.labels or task.reads[0] not in words:
        return None
    spans: Sequence[Mapping[str, str | int]] = sample.labels[task.name]  # type: ignore[assignment]
    target = np.zeros((len(words[task.reads[0]]), task.width), np.float32)
    for token, word in enumerate(words[task.reads[0]]):
        if word is not None:
            overlapping = [s for s in spans if int(s["start"]) < word[1] and int(s["end"]) > word[0]]
            target[token, 1 + task.labels.index(str(overlapping[0]["label"])) if overlapping else 0] = 1.0
    return target


def _token_pairs(outputs: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At the tokens of words."""
    rows = targets.any(-1)
    return outputs[: len(targets)][rows], targets[rows]


def _answer(task: Task, chances: np.ndarray, present: Sequence[bool], example: AnsweredExample) -> Answer:
    spans = spans_in(task, chances, example.words[task.reads[0]])
    unclear = [str(span) for span in spans if span.probability < LEAST_PROBABILITY + LEAST_LEAD / 2]
    return unless_unclear(spans, {}, unclear)


def spans_in(task: Task, probabilities: np.ndarray, words: Words) -> list[TextSpan]:
    """The spans that probabilities [tokens, width] mark: neighbouring words with one label.

    A word has the label whose probability is highest on average over its tokens.
    """
    tokens: dict[tuple[int, int], list[int]] = {}
    for token, word in enumerate(words[: len(probabilities)]):
        if word is not None:
            tokens.setdefault(word, []).append(token)
    spans: list[TextSpan] = []
    label_before = 0
    for (start, end), positions in tokens.items():
        mean = probabilities[positions].mean(0)
        label = int(mean.argmax())
        if label and label == label_before:
            last = spans.pop()
            spans.append(TextSpan(last.start, end, last.label, min(last.probability, float(mean[label]))))
        elif label:
            spans.append(TextSpan(start, end, task.labels[label - 1], float(mean[label])))
        label_before = label
    return spans


def _form(task: Task, label: Label | None) -> FormField:
    return FormField("note", chosen=(f"{len(label) if isinstance(label, list) else 0} marked",))


TEXT_SPANS = TaskKind(
    name="spans",
    check=_check,
    parse=_parse,
    check_inputs=_check_inputs,
    token_target=_token_target,
    token_pairs=_token_pairs,
    marks_words=True,
    probabilities=softmax,
    losses=one_hot_losses,
    score=score_classes,
    counting=counting_classes(),
    answer=_answer,
    form=_form,
)
