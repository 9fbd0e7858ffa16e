"""Golden samples: a few inputs with the float reference's features and the first theta's outputs.

Of an encoder with LoRA inside there are no features: its inputs go to the step as they were prepared.

A device compares its own with them at install, since int8 arithmetic differs between processors.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from homeroom.contract.graph_io import FEATURES, MASK, OUTPUT, PRESENCE, named
from homeroom.contract.manifest import Modality, Slot
from homeroom.data.preprocess import collate, prepare
from homeroom.data.preprocess.raw_inputs import empty_batch, fill_input, raw_input, token_count
from homeroom.data.samples import StoredSample
from homeroom.data.tasks import kind_of
from homeroom.runtime.backend import LoadedGraph
from homeroom_exporter.model.design import Design

Features = Mapping[tuple[str, int], np.ndarray]  # by (slot, index): int8 [taps, n, dim]
SUFFIXES = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpg", b"RIFF": "wav", b"OggS": "ogg", b"fLaC": "flac"}


def slot_values(slot: Slot, sample: StoredSample) -> list[tuple[int, Any]]:
    """What a sample holds for a slot, as (index within the slot, value); absent ones are left out."""
    return [
        (slot_index, value) for slot_index, value in enumerate(sample.inputs.get(slot.name, [])) if value is not None
    ]


def sample_features(
    design: Design, run: Mapping[str, LoadedGraph], bundle_file: Callable[[str], Path], sample: StoredSample
) -> dict[tuple[str, int], np.ndarray]:
    """Features of one sample, each input alone; `run` is the features graph of each modality."""
    features = {}
    for slot in design.slots:
        modality = design.modality(slot.modality)
        for slot_index, value in slot_values(slot, sample):
            prepared = prepare(modality, value, bundle_file)
            if modality.adapter == "lora":
                features[slot.name, slot_index] = raw_input(modality, prepared)
                continue
            outputs = run[modality.name](collate(modality, [prepared]))[FEATURES]
            features[slot.name, slot_index] = np.ascontiguousarray(outputs[0, :, : prepared.tokens])
    return features


def bucket(design: Design, rows: Sequence[Features]) -> dict[str, int]:
    """The smallest token counts that hold every row, by modality."""
    tokens: dict[str, int] = {}
    for modality in design.modalities:
        names = {slot.name for slot in design.slots if slot.modality == modality.name}
        longest = max((token_count(modality, f) for row in rows for (s, _), f in row.items() if s in names), default=0)
        tokens[modality.name] = next(b for b in modality.buckets if b >= longest)
    return tokens


def feeds(design: Design, rows: Sequence[Features], batch: int, tokens: Mapping[str, int]) -> dict[str, np.ndarray]:
    """The predict graph's inputs but theta for at most `batch` rows, padded with absent ones."""
    presence = np.zeros((batch, len(design.inputs)), np.float32)
    inputs: dict[str, np.ndarray] = {}
    for slot in design.slots:
        modality = design.modality(slot.modality)
        length, columns = tokens[modality.name], design.columns(slot.name)
        if modality.adapter == "lora":
            inputs |= _direct(slot, modality, rows, batch, length)
            presence[: len(rows), columns] = [[(slot.name, p) in row for p in range(slot.count)] for row in rows]
            continue
        features = np.zeros((batch, slot.count, len(modality.taps), length, modality.dim), np.int8)
        mask = np.zeros((batch, slot.count, length), np.float32)
        for i, row in enumerate(rows):
            for slot_index in range(slot.count):
                if (one := row.get((slot.name, slot_index))) is not None:
                    features[i, slot_index, :, : one.shape[1]] = one
                    mask[i, slot_index, : one.shape[1]] = 1.0
                    presence[i, columns[slot_index]] = 1.0
        inputs[named(slot.name, FEATURES)], inputs[named(slot.name, MASK)] = features, mask
    inputs[PRESENCE] = presence
    return inputs


def _direct(slot: Slot, modality: Modality, rows: Sequence[Features], batch: int, length: int) -> dict[str, np.ndarray]:
    """The inputs of one slot whose encoder has LoRA inside."""
    feeds = empty_batch(modality, batch, slot.count, length)
    for i, row in enumerate(rows):
        for slot_index in range(slot.count):
            if (one := row.get((slot.name, slot_index))) is not None:
                fill_input(feeds, i, slot_index, one)
    return {named(slot.name, name): value for name, value in feeds.items()}


def golden_files(
    design: Design,
    samples: Sequence[StoredSample],
    reference: Mapping[str, LoadedGraph],
    bundle_file: Callable[[str], Path],
    predict: Callable[[Sequence[Features]], Mapping[str, np.ndarray]],
) -> dict[str, bytes]:
    """The files of the golden folder.

    `predict` gives `{task}.output` float32 [samples, width], or [samples, tokens, width], for the features of all.
    """
    files: dict[str, bytes] = {}
    lines: list[str] = []
    computed: list[Features] = []
    expected: dict[str, np.ndarray] = {}
    for i, sample in enumerate(samples):
        features = sample_features(design, reference, bundle_file, sample)
        computed.append(features)
        expected |= {
            f"features.{i}.{slot}.{slot_index}": value
            for (slot, slot_index), value in features.items()
            if design.modality(design.slot(slot).modality).adapter == "ladder"
        }
        lines.append(json.dumps(_line(design, i, sample, files), ensure_ascii=False, sort_keys=True))
    expected |= _outputs(design, "output", predict(computed), computed)
    if design.adapter:
        lora_slots = {slot.name for slot in design.slots if slot.modality == design.adapter.modality.name}
        lora_rows = [{k: v for k, v in row.items() if k[0] in lora_slots} for row in computed]
        expected |= _outputs(design, "direct", predict(lora_rows), lora_rows)
    files["samples.jsonl"] = ("\n".join(lines) + "\n").encode()
    files["expected.safetensors"] = safetensors.numpy.save(dict(sorted(expected.items())))
    return files


def _outputs(
    design: Design, kind: str, outputs: Mapping[str, np.ndarray], rows: Sequence[Features]
) -> dict[str, np.ndarray]:
    """`<kind>.<row>.<task>` float32 [width], of tasks per token [n, width], n tokens that are not padding."""
    expected = {}
    for task in design.tasks:
        for i, (row, values) in enumerate(zip(rows, outputs[named(task.name, OUTPUT)], strict=True)):
            if kind_of(task).per_token:
                read = row.get((task.reads[0], 0))
                modality = design.modality(design.slot(task.reads[0]).modality)
                values = values[: 0 if read is None else token_count(modality, read)]
            expected[f"{kind}.{i}.{task.name}"] = np.ascontiguousarray(values, np.float32)
    return expected


def _line(design: Design, row: int, sample: StoredSample, files: dict[str, bytes]) -> dict[str, Any]:
    """A sample in the JSONL form, without whom it is about; its media are put into `files` under names of their own."""
    line: dict[str, Any] = {"subject": f"golden-{row}", "labels": sample.labels}
    for slot in design.slots:
        written: list[Any] = [None] * slot.count
        for slot_index, value in slot_values(slot, sample):
            if isinstance(value, bytes):
                suffix = next((s for magic, s in SUFFIXES.items() if value.startswith(magic)), "bin")
                name = f"{row}-{slot.name}-{slot_index}.{suffix}"
                files[name] = value
                value = name
            written[slot_index] = value
        if any(value is not None for value in written):
            line[slot.name] = written if slot.count > 1 else written[0]
    return line
