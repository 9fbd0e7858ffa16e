"""What is looked at before a sample may teach or be answered, and what of it teaches; imports quality, store."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec

from homeroom.contract.manifest import Manifest, Task
from homeroom.dataset import needs_all
from homeroom.quality import poor_inputs
from homeroom.quality.near import fingerprint
from homeroom.samples import StoredInput, StoredSample
from homeroom.store import Store
from homeroom.store.samples import comparable


def add_examined(store: Store, manifest: Manifest, samples: Sequence[StoredSample]) -> list[str]:
    """Store samples, near copies and what is poor set aside; return their ids.

    Of a sample that still teaches something without its poor inputs, only these are left out.
    """
    examined = [_examined(sample, manifest) for sample in samples]
    return store.add(examined, [fingerprint(s, manifest) if comparable(s) else b"" for s in samples])


def as_taught(sample: StoredSample, manifest: Manifest) -> StoredSample:
    """A stored sample as training sees it: without what was left out, or labels that ask about that."""
    if not sample.left_out:
        return sample
    kept = _without(sample, {(slot, place) for slot, places in sample.left_out.items() for place in places})
    labels = {name: label for name, label in kept.labels.items() if _asks_what_is_there(manifest.task(name), kept)}
    return msgspec.structs.replace(kept, labels=labels)


def without_poor(sample: StoredSample, manifest: Manifest) -> tuple[StoredSample, str]:
    """A sample without its poor inputs, and which they are; as it is where nothing else would be left."""
    poor = poor_inputs(sample, manifest)
    kept = _without(sample, poor.keys())
    if not poor or not any(value is not None for places in kept.inputs.values() for value in places):
        return sample, ""
    return kept, f"left out {'; '.join(poor.values())}"


def _examined(sample: StoredSample, manifest: Manifest) -> StoredSample:
    poor = poor_inputs(sample, manifest)
    if not poor:
        return sample
    places: dict[str, list[int]] = {}
    for slot, place in sorted(poor):
        places.setdefault(slot, []).append(place)
    partly = msgspec.structs.replace(sample, aside="; ".join(poor.values()), left_out=places)
    return partly if _teaches(as_taught(partly, manifest), manifest) else msgspec.structs.replace(partly, left_out={})


def _without(sample: StoredSample, places: Collection[tuple[str, int]]) -> StoredSample:
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
