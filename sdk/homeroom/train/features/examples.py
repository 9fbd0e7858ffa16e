"""Samples to training examples, their features computed once and cached."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from homeroom.contract.manifest import Manifest
from homeroom.data.preprocess.raw_inputs import token_count
from homeroom.data.quality.finding import DEFAULT_INPUT_WEIGHT
from homeroom.data.samples import StoredSample, digest_of, group_key
from homeroom.runtime.bundle import Bundle
from homeroom.runtime.graphs import Graphs
from homeroom.store import Store
from homeroom.system.hardware import trim_memory
from homeroom.train.features.buffer import ContentIndex, FeatureBuffer
from homeroom.train.features.cached import CachedFeatures, read_value
from homeroom.train.features.columns import Columns
from homeroom.train.features.compute import Progress
from homeroom.train.features.dataset import Example
from homeroom.train.features.spill import Spill
from homeroom.train.features.token_targets import note_of, targets_of, words_of


def examples(
    store: Store | None,
    bundle: Bundle,
    graphs: Graphs,
    samples: Sequence[StoredSample],
    *,
    progress: Progress | None = None,
    stop: Callable[[], bool] = bool,
    room: int | None = None,
    weights: Mapping[str, float] | None = None,
    decode_room: Callable[[], int | None] = lambda: None,
) -> Sequence[Example]:
    """Examples of the samples, in order; where `stop` ended it, of those whose features are there.

    store: whose cache of features is used; None for samples that are only predicted
    progress: called with the stage, features done, and features in total
    stop: asked before each batch whether to end there
    room: bytes of features in memory, None for all; the others are spilled, and read again for every batch
    weights: of poor inputs in the fusion, by modality; DEFAULT_INPUT_WEIGHT where it names none
    decode_room: as in `CachedFeatures`
    """
    manifest = bundle.manifest
    contents = ContentIndex(manifest, samples)
    features = CachedFeatures(store, bundle, graphs, contents, decode_room)
    # Raw inputs of a LoRA step are not int8 [taps, n, dim], so they are not spilled.
    if store and room is not None and all(modality.adapter == "ladder" for modality in manifest.modalities):
        buffer = FeatureBuffer(room, features.recompute, Spill(store.directory, len(contents)))
    else:
        buffer = FeatureBuffer(None, features.recompute)
    tokens = np.full(len(contents) + 1, -1, np.int32)  # of each content; the last stands for an absent input
    tokens[-1], all_buffered = 0, True
    for modality in manifest.modalities:
        for number, array in features.read(modality.name, contents.of(modality.name), progress, stop):
            all_buffered &= buffer.put(number, array)
            tokens[number] = token_count(modality, array)
    if all_buffered:  # else the cache is asked for the others again and again, by digest
        contents.drop_digests()
    complete = np.all(tokens[contents.numbers] >= 0, axis=1)
    columns = Columns(manifest, contents, buffer, tokens, np.flatnonzero(complete).astype(np.int32))
    slot_weights = {slot: (weights or {}).get(name, DEFAULT_INPUT_WEIGHT) for slot, name, _ in manifest.inputs}
    position = 0
    for row, sample in enumerate(samples):
        if complete[row]:
            words = words_of(bundle, sample, partial(read_value, store))
            token_targets = targets_of(bundle, sample, columns.inputs(position), words)
            poor = {(slot, index): slot_weights[slot] for slot, indexes in sample.weighed.items() for index in indexes}
            (note, cut), group = note_of(bundle, sample), group_of(manifest, sample)
            told = {"note": note, "cut": cut, "group": group}
            columns.put(position, sample, token_targets, words=words, input_weights=poor, **told)
            position += 1
    if store:
        trim_memory()  # a step's arena would not take what preparing the samples has left on the heap
    return columns


def group_of(manifest: Manifest, sample: StoredSample) -> str:
    """What a sample is held out with, by a task that labels it and names a slot, else as it was added; else ""."""
    for task in manifest.tasks:
        if isinstance(task.group, str) and task.name in sample.labels:
            value = next(iter(sample.inputs.get(task.group, ())), None)
            if value is not None:
                return f"{task.group}:{digest_of(value).hex()}"
    return group_key(sample)
