"""What is looked at before a sample may teach or be answered, and what of it teaches; imports quality, store."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec

from homeroom.contract.manifest import Manifest, Task
from homeroom.data.quality import QualityFinding, poor_inputs
from homeroom.data.quality.finding import DEFAULT_INPUT_WEIGHT
from homeroom.data.quality.near_duplicates import near_duplicate_digest
from homeroom.data.samples import StoredInput, StoredSample
from homeroom.store import Store
from homeroom.train.features.dataset import fused_slots, needs_all

Place = tuple[str, int]


def add_checked(store: Store, manifest: Manifest, samples: Iterable[StoredSample]) -> list[str]:
    """Store samples, near copies and what is poor set aside; return their ids.

    Of a sample that still teaches something without its poor inputs, only these are left out, or count less.
    """
    return store.add(
        (_examined(sample, manifest) for sample in samples), lambda sample: near_duplicate_digest(sample, manifest)
    )


def training_view(sample: StoredSample, manifest: Manifest) -> StoredSample:
    """A stored sample as training sees it: without what was left out, or labels that ask about that."""
    return _teaching(sample, _listed(sample.left_out), manifest)


def prediction_view(sample: StoredSample, manifest: Manifest, weights: Mapping[str, float]) -> tuple[StoredSample, str]:
    """A sample to be answered, without what is left out of it, and a note on its poor inputs.

    It stays as it is where nothing else would be left. weights: as of `collect.examples`.
    """
    poor = poor_inputs(sample, manifest)
    left_out, weighed = _sorted(poor, manifest)
    kept = msgspec.structs.replace(_without(sample, _listed(left_out)), weighed=weighed)
    if not any(value is not None for places in kept.inputs.values() for value in places):
        return sample, ""
    notes = [f"left out {poor[place].reason}" for place in _listed(left_out)]
    for slot, place in _listed(weighed):
        weight = weights.get(manifest.slot(slot).modality, DEFAULT_INPUT_WEIGHT)
        notes.append(f"{poor[slot, place].reason}, so it counts {weight:g} times what a good one does")
    return kept, "; ".join(notes)


def _examined(sample: StoredSample, manifest: Manifest) -> StoredSample:
    poor = poor_inputs(sample, manifest)
    if not poor:
        return sample
    why = msgspec.structs.replace(sample, aside="; ".join(one.reason for one in poor.values()))
    if not _teaches(_teaching(why, poor.keys(), manifest), manifest):
        return why
    left_out, weighed = _sorted(poor, manifest)
    return msgspec.structs.replace(why, left_out=left_out, weighed=weighed)


def _sorted(
    poor: Mapping[Place, QualityFinding], manifest: Manifest
) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """By slot, the places of poor inputs that are left out, and of those that count less: the fusion alone weighs."""
    left_out, weighed, slots = dict[str, list[int]](), dict[str, list[int]](), fused_slots(manifest)
    for slot, place in sorted(poor):
        into = left_out if poor[slot, place].empty or slot not in slots else weighed
        into.setdefault(slot, []).append(place)
    return left_out, weighed


def _listed(places: Mapping[str, Sequence[int]]) -> list[Place]:
    return [(slot, place) for slot, some in places.items() for place in some]


def _teaching(sample: StoredSample, gone: Collection[Place], manifest: Manifest) -> StoredSample:
    """A sample without some inputs, and the labels that ask about them."""
    if not gone:
        return sample
    kept = _without(sample, gone)
    labels = {name: label for name, label in kept.labels.items() if _asks_what_is_there(manifest.task(name), kept)}
    return msgspec.structs.replace(kept, labels=labels)


def _without(sample: StoredSample, places: Collection[Place]) -> StoredSample:
    inputs: dict[str, list[StoredInput | None]] = {
        slot: [None if (slot, place) in places else value for place, value in enumerate(values)]
        for slot, values in sample.inputs.items()
    }
    return msgspec.structs.replace(sample, inputs=inputs)


def _teaches(sample: StoredSample, manifest: Manifest) -> bool:
    """Whether one of its labels, or an objective without labels, can be learned from the inputs that it has."""
    tasks = [manifest.task(name) for name in sample.labels]
    if any((all if needs_all(task, manifest) else any)(_given(sample, slot) for slot in task.reads) for task in tasks):
        return True
    return manifest.needs_no_label and any(_given(sample, slot) for slot in sample.inputs)


def _asks_what_is_there(task: Task, sample: StoredSample) -> bool:
    """Whether the right option of a choice is among the inputs; other labels ask about no single place."""
    return task.kind != "choice" or sample.inputs[task.reads[1]][int(sample.labels[task.name])] is not None  # type: ignore[arg-type]


def _given(sample: StoredSample, slot: str) -> bool:
    return any(value is not None for value in sample.inputs.get(slot, ()))
