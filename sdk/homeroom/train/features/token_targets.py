"""Targets of the tasks that answer for each token of a slot: spans of a text, and knowledge tracing.

They are float32 [tokens, width] of a text, [tokens] of a sequence, zeros where nothing is compared: at special tokens,
and after the last interaction.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping

import numpy as np

from homeroom.contract.manifest import AudioPreprocess, Modality, SequencePreprocess, TextPreprocess
from homeroom.data.decoder import client
from homeroom.data.preprocess.media import heard_s
from homeroom.data.samples import InputReference, StoredInput, StoredSample, input_length
from homeroom.data.tasks import kind_of
from homeroom.data.tasks.base import InputKey, Words
from homeroom.runtime.bundle import Bundle

SHOWN_CHARACTERS = 60  # of a text's end that is not read


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
        if isinstance(value, str) and isinstance(spec := modality.preprocess, TextPreprocess):
            from homeroom.data.preprocess.text import word_spans

            words[slot] = word_spans(bundle.file(spec.tokenizer), value, modality.buckets[-1], spec.version)
    return words


def targets_of(
    bundle: Bundle, sample: StoredSample, inputs: Mapping[InputKey, np.ndarray], words: Mapping[str, Words]
) -> dict[str, np.ndarray]:
    """The targets float32 [tokens, width] or [tokens] of a sample, by task.

    inputs: features or raw inputs of the sample
    words: of `words_of`
    """
    targets = {}
    for task in bundle.manifest.tasks:
        if (make := kind_of(task).token_target) and (target := make(task, sample, inputs, words)) is not None:
            targets[task.name] = target
    return targets


def note_of(bundle: Bundle, sample: StoredSample) -> tuple[str, tuple[str, ...]]:
    """A note for people on inputs that are longer than the bundle reads, and the slots whose texts are cut off.

    Empty if there are none. Texts and sounds that were left in the store are not read for it.
    """
    notes, cut = [], []
    for slot in bundle.manifest.slots:
        modality = bundle.manifest.modality(slot.modality)
        for index, value in enumerate(sample.inputs.get(slot.name, [])):
            name = slot.name if slot.count == 1 else f"{slot.name} {index + 1}"
            if value is not None and (note := _unread(bundle, modality, value)):
                notes.append(f"of {name} {note}")
                cut += [slot.name] if isinstance(modality.preprocess, TextPreprocess) else []
    return "; ".join(notes), tuple(cut)


def _unread(bundle: Bundle, modality: Modality, value: StoredInput) -> str:
    """What counts of an input, or does not, where that is not all of it."""
    limit = modality.buckets[-1]
    match modality.preprocess:
        case SequencePreprocess() if input_length(value) > limit:
            return f"the last {limit} of {input_length(value)} interactions count"
        case TextPreprocess() as spec if isinstance(value, str):
            from homeroom.data.preprocess.text import unknown_words, unread_end

            if unknown := unknown_words(modality, value, bundle.file):
                return unknown
            if end := unread_end(bundle.file(spec.tokenizer), value, limit, spec.version):
                return f"the end is not read: “{textwrap.shorten(end, SHOWN_CHARACTERS, placeholder=' ...')}”"
        case AudioPreprocess() as spec if isinstance(value, bytes):
            begin_s, end_s, length_s = client.run(heard_s, spec, value)
            if length_s > spec.samples / spec.rate:
                return f"{begin_s:.1f} to {end_s:.1f} s of {length_s:.1f} s are heard"
    return ""
