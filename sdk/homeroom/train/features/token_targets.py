"""Targets of the tasks that answer for each token of a slot: spans of a text, and knowledge tracing.

They are float32 [tokens, width], zeros where nothing is compared: at special tokens of a text, and after the last
interaction of a sequence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from homeroom.contract.manifest import SequencePreprocess, Task, TextPreprocess
from homeroom.data.preprocess.sequence import next_answers
from homeroom.data.samples import StoredSample
from homeroom.runtime.bundle import Bundle
from homeroom.train.features.buffer import InputKey

Words = Sequence[tuple[int, int] | None]  # for each token its word's [start, end) in characters; None for special ones


@dataclass(frozen=True)
class TextSpan:
    """Characters [start, end) of a text, their label, and its least probability over the words of the span."""

    start: int
    end: int
    label: str
    probability: float

    def __str__(self) -> str:
        return f"{self.start}-{self.end} {self.label} ({self.probability:.0%})"


def words_of(bundle: Bundle, sample: StoredSample) -> dict[str, Words]:
    """The words of the texts that a task marks spans in, by slot."""
    words: dict[str, Words] = {}
    for slot in {task.reads[0] for task in bundle.manifest.tasks if task.kind == "spans"}:
        modality = bundle.manifest.modality(bundle.manifest.slot(slot).modality)
        value = sample.inputs.get(slot, [None])[0]
        if isinstance(value, str) and isinstance(modality.preprocess, TextPreprocess):
            from homeroom.data.preprocess.text import word_spans

            words[slot] = word_spans(bundle.file(modality.preprocess.tokenizer), value, modality.buckets[-1])
    return words


def targets_of(
    bundle: Bundle, sample: StoredSample, inputs: Mapping[InputKey, np.ndarray], words: Mapping[str, Words]
) -> dict[str, np.ndarray]:
    """The targets float32 [tokens, width] of a sample, by task.

    inputs: features or raw inputs of the sample
    words: of `words_of`
    """
    targets = {}
    for task in bundle.manifest.tasks:
        slot = task.reads[0]
        if task.kind == "spans" and task.name in sample.labels and slot in words:
            targets[task.name] = _span_target(task, sample.labels[task.name], words[slot])  # type: ignore[arg-type]
        elif task.kind == "tracing" and (slot, 0) in inputs:
            target = next_answers(inputs[slot, 0][0])
            if target.any():
                targets[task.name] = target
    return targets


def note_of(bundle: Bundle, sample: StoredSample) -> str:
    """A note for people on sequences longer than the bundle reads; empty if there are none."""
    notes = []
    for slot in bundle.manifest.slots:
        modality = bundle.manifest.modality(slot.modality)
        value = sample.inputs.get(slot.name, [None])[0]
        if not isinstance(modality.preprocess, SequencePreprocess) or not isinstance(value, list):
            continue
        if len(value) > modality.buckets[-1]:
            notes.append(f"of {slot.name} the last {modality.buckets[-1]} of {len(value)} interactions count")
    return "; ".join(notes)


def _span_target(task: Task, spans: Sequence[Mapping[str, str | int]], words: Words) -> np.ndarray:
    """One-hot over no label and the task's labels, at each token of a word; a word belongs to the span it overlaps."""
    target = np.zeros((len(words), task.width), np.float32)
    for token, word in enumerate(words):
        if word is not None:
            overlapping = [s for s in spans if int(s["start"]) < word[1] and int(s["end"]) > word[0]]
            target[token, 1 + task.labels.index(str(overlapping[0]["label"])) if overlapping else 0] = 1.0
    return target


def compared_pairs(task: Task, outputs: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Outputs and targets [n, width], as `metrics.score` compares them, of one example's [tokens, width].

    Spans: at the tokens of words. Tracing: the logit of each skill that was asked next, and 1.0 or 0.0, [n, 1].
    """
    outputs = outputs[: len(targets)]
    if task.kind == "tracing":
        asked = targets != 0
        return outputs[asked][:, None], (targets[asked] > 0).astype(np.float32)[:, None]
    rows = targets.any(-1)
    return outputs[rows], targets[rows]


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
