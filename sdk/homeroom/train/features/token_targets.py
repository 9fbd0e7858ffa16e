"""Tasks that answer for each token of a slot, spans of a text and tracing; imports samples and preprocess.

Their targets float32 [tokens, width] are zeros where nothing is compared: at special tokens of a text, and after the
last interaction of a sequence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from homeroom.contract.manifest import SequencePreprocess, Task, TextPreprocess
from homeroom.data.preprocess.sequence import next_answers
from homeroom.data.samples import StoredSample
from homeroom.runtime.bundle import Bundle

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
    """By slot, the words of the texts that a task marks spans in."""
    found: dict[str, Words] = {}
    for slot in {task.reads[0] for task in bundle.manifest.tasks if task.kind == "spans"}:
        modality = bundle.manifest.modality(bundle.manifest.slot(slot).modality)
        value = sample.inputs.get(slot, [None])[0]
        if isinstance(value, str) and isinstance(modality.preprocess, TextPreprocess):
            from homeroom.data.preprocess.text import word_spans

            found[slot] = word_spans(bundle.file(modality.preprocess.tokenizer), value, modality.buckets[-1])
    return found


def targets_of(
    bundle: Bundle, sample: StoredSample, inputs: Mapping[tuple[str, int], np.ndarray], words: Mapping[str, Words]
) -> dict[str, np.ndarray]:
    """float32 [tokens, width] by task, of those that the sample teaches; inputs: features by (slot, place)."""
    found = {}
    for task in bundle.manifest.tasks:
        slot = task.reads[0]
        if task.kind == "spans" and task.name in sample.labels and slot in words:
            found[task.name] = _marked(task, sample.labels[task.name], words[slot])  # type: ignore[arg-type]
        elif task.kind == "tracing" and (slot, 0) in inputs:
            target = next_answers(inputs[slot, 0][0])
            if target.any():
                found[task.name] = target
    return found


def note_of(bundle: Bundle, sample: StoredSample) -> str:
    """What of a sample's sequences is too long ago to be read, in words."""
    said = []
    for slot in bundle.manifest.slots:
        modality = bundle.manifest.modality(slot.modality)
        value = sample.inputs.get(slot.name, [None])[0]
        if not isinstance(modality.preprocess, SequencePreprocess) or not isinstance(value, list):
            continue
        if len(value) > modality.buckets[-1]:
            said.append(f"of {slot.name} the last {modality.buckets[-1]} of {len(value)} interactions count")
    return "; ".join(said)


def _marked(task: Task, spans: Sequence[Mapping[str, str | int]], words: Words) -> np.ndarray:
    """One-hot over no label and the task's labels, at each token of a word; a word belongs to the span it overlaps."""
    found = np.zeros((len(words), task.width), np.float32)
    for token, word in enumerate(words):
        if word is not None:
            over = [s for s in spans if int(s["start"]) < word[1] and int(s["end"]) > word[0]]
            found[token, 1 + task.labels.index(str(over[0]["label"])) if over else 0] = 1.0
    return found


def compared_pairs(task: Task, outputs: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What `scores.score` compares of one example's outputs and targets [tokens, width]: [n, width] of each.

    Spans: the tokens of words. Tracing: the logit of each skill that was asked, and 1.0 or 0.0, [n, 1].
    """
    outputs = outputs[: len(targets)]
    if task.kind == "tracing":
        asked = targets != 0
        return outputs[asked][:, None], (targets[asked] > 0).astype(np.float32)[:, None]
    rows = targets.any(-1)
    return outputs[rows], targets[rows]


def spans_in(task: Task, chances: np.ndarray, words: Words) -> list[TextSpan]:
    """The spans that the probabilities [tokens, width] mark: neighbouring words with one label.

    A word has the label whose probability is highest on average over its tokens.
    """
    tokens: dict[tuple[int, int], list[int]] = {}
    for token, word in enumerate(words[: len(chances)]):
        if word is not None:
            tokens.setdefault(word, []).append(token)
    found: list[TextSpan] = []
    before = 0
    for (start, end), places in tokens.items():
        mean = chances[places].mean(0)
        best = int(mean.argmax())
        if best and best == before:
            last = found.pop()
            found.append(TextSpan(last.start, end, last.label, min(last.probability, float(mean[best]))))
        elif best:
            found.append(TextSpan(start, end, task.labels[best - 1], float(mean[best])))
        before = best
    return found
