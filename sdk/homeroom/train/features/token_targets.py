"""Targets of the tasks that answer for each token of a slot: spans of a text, and knowledge tracing.

They are float32 [tokens, width], zeros where nothing is compared: at special tokens of a text, and after the last
interaction of a sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from homeroom.contract.manifest import TextPreprocess
from homeroom.data.samples import InputReference, StoredInput, StoredSample, input_kind, input_length
from homeroom.data.tasks import kind_of
from homeroom.data.tasks.base import InputKey, Words
from homeroom.runtime.bundle import Bundle


def words_of(
    bundle: Bundle, sample: StoredSample, read: Callable[[StoredSample, InputReference], StoredInput | None]
) -> dict[str, Words]:
    """The words of the texts that a task marks spans in, by slot.

    read: opens an input that was left in the store
    """
    words: dict[str, Words] = {}
    for slot in {task.reads[0] for task in bundle.manifest.tasks if kind_of(task).marks_words}:
        modality = bundle.manifest.modality(bundle.manifest.slot(slot).modality)
        value = sample.inputs.get(slot, [None])[0]
        if isinstance(value, InputReference):
            value = read(sample, value)
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
        if (make := kind_of(task).token_target) and (target := make(task, sample, inputs, words)) is not None:
            targets[task.name] = target
    return targets


def note_of(bundle: Bundle, sample: StoredSample) -> str:
    """A note for people on sequences longer than the bundle reads; empty if there are none."""
    notes = []
    for slot in bundle.manifest.slots:
        value = sample.inputs.get(slot.name, [None])[0]
        if value is None or input_kind(value) != "sequence":
            continue
        modality = bundle.manifest.modality(slot.modality)
        if input_length(value) > modality.buckets[-1]:
            notes.append(f"of {slot.name} the last {modality.buckets[-1]} of {input_length(value)} interactions count")
    return "; ".join(notes)
