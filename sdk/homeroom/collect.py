"""Samples to training examples, their features computed once and cached; imports the store, features and preprocess."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np

from homeroom.bundle import Bundle
from homeroom.dataset import Example
from homeroom.features import compute
from homeroom.preprocess import content, prepare
from homeroom.preprocess.direct import direct
from homeroom.runtime import Graphs
from homeroom.samples import StoredSample, target
from homeroom.store import Store

SAVED_TOGETHER = 64  # features written in one step: what a power cut may cost to compute again

Progress = Callable[[str, int, int], None]  # stage, done, total


@dataclass(frozen=True)
class Place:
    """Where one input belongs: sample number, slot, place in the slot; `key` is (subject, digest of the content)."""

    sample: int
    slot: str
    place: int
    key: tuple[str, bytes]
    value: Any


def examples(
    store: Store | None,
    bundle: Bundle,
    graphs: Graphs,
    samples: Sequence[StoredSample],
    *,
    progress: Progress | None = None,
    stop: Callable[[], bool] = bool,
) -> list[Example]:
    """Examples of those samples whose features are there when `stop` says so, in order.

    Without a store nothing is cached, as for a sample that is only predicted.
    """
    manifest = bundle.manifest
    features: dict[tuple[str, str, bytes], np.ndarray] = {}
    places = {m.name: list(_places(bundle, samples, m.name)) for m in manifest.modalities}
    for modality, wanted in places.items():
        for (subject, digest), array in _features(store, bundle, graphs, modality, wanted, progress, stop).items():
            features[modality, subject, digest] = array
    inputs: list[dict[tuple[str, int], np.ndarray] | None] = [{} for _ in samples]
    for modality, wanted in places.items():
        for place in wanted:
            found, row = features.get((modality, *place.key)), inputs[place.sample]
            if found is None:
                inputs[place.sample] = None
            elif row is not None:
                row[place.slot, place.place] = found
    return [
        Example(
            inputs=row,
            targets={name: target(manifest.task(name), label) for name, label in sample.labels.items()},
            subject=sample.subject,
            sample_id=sample.sample_id,
            language=sample.language or "",
        )
        for sample, row in zip(samples, inputs, strict=True)
        if row is not None
    ]


def missing(store: Store, bundle: Bundle, graphs: Graphs, samples: Sequence[StoredSample]) -> set[tuple[str, str, int]]:
    """(sample id, slot, place) of the inputs whose features are still to be computed."""
    found = set()
    for modality in bundle.manifest.modalities:
        places = list(_places(bundle, samples, modality.name))
        held = store.held_features(variant(bundle, graphs, modality.name), {place.key for place in places})
        found |= {(samples[p.sample].sample_id, p.slot, p.place) for p in places if p.key not in held}
    return found


def variant(bundle: Bundle, graphs: Graphs, modality: str) -> str:
    """What the cache goes by: the features' identity and the very graph file that computes them here."""
    graph = graphs.features_graph(modality)
    return f"{bundle.manifest.modality(modality).features_id}/{bundle.manifest.files[graph.file].sha256}"


def _places(bundle: Bundle, samples: Sequence[StoredSample], modality: str) -> Iterator[Place]:
    slots = [slot.name for slot in bundle.manifest.slots if slot.modality == modality]
    for number, sample in enumerate(samples):
        for slot in slots:
            for place, value in enumerate(sample.inputs.get(slot, ())):
                if value is not None:
                    key = (sample.subject, sha256(content(value)).digest())
                    yield Place(number, slot, place, key, value)


def _features(
    store: Store | None,
    bundle: Bundle,
    graphs: Graphs,
    modality: str,
    wanted: Sequence[Place],
    progress: Progress | None,
    stop: Callable[[], bool],
) -> dict[tuple[str, bytes], np.ndarray]:
    """Cached features, and the missing ones computed once an input, however many subjects gave it.

    An input that steps read themselves is prepared anew each time: that is quick, and nothing of it is cached.
    """
    facts = bundle.manifest.modality(modality)
    if facts.adapter == "lora":
        made: dict[bytes, np.ndarray] = {}
        for place in wanted:
            if place.key[1] not in made and not stop():
                made[place.key[1]] = direct(facts, prepare(facts, place.value, bundle.file))
        return {place.key: made[place.key[1]] for place in wanted if place.key[1] in made}
    name = variant(bundle, graphs, modality)
    keys = {place.key for place in wanted}
    found = store.read_features(name, keys) if store else {}
    owners: dict[bytes, list[tuple[str, bytes]]] = {}
    values = {place.key[1]: place.value for place in wanted if place.key not in found}
    for key in keys - found.keys():
        owners.setdefault(key[1], []).append(key)
    digests = list(values)
    unsaved: dict[tuple[str, bytes], np.ndarray] = {}

    def save() -> None:
        if store:
            store.write_features(name, unsaved)
        unsaved.clear()

    for number, array in compute(bundle, graphs, modality, [values[d] for d in digests], progress=progress, stop=stop):
        shared = {key: array for key in owners[digests[number]]}
        found.update(shared)
        unsaved.update(shared)
        if len(unsaved) >= SAVED_TOGETHER:
            save()
    save()
    return found
