"""Samples to training examples, their features computed once and cached; imports the store, features and preprocess."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from homeroom.bundle import Bundle
from homeroom.dataset import Example
from homeroom.features import compute
from homeroom.preprocess import prepare
from homeroom.preprocess.direct import direct, length_of
from homeroom.runtime import Graphs
from homeroom.samples import Kept, StoredInput, StoredSample, digest_of, target
from homeroom.shelf import Shelf
from homeroom.store import Store
from homeroom.tokens import note_of, targets_of, words_of

SAVED_TOGETHER = 64  # features written in one step: what a power cut may cost to compute again
READ_TOGETHER = 256  # features opened at once, before it is settled whether they stay in memory

Progress = Callable[[str, int, int], None]  # stage, done, total
Key = tuple[str, bytes]  # subject, digest of the content


@dataclass(frozen=True)
class Place:
    """Where one input belongs: sample number, slot, place in the slot."""

    sample: int
    slot: str
    place: int
    key: Key
    value: StoredInput


def examples(
    store: Store | None,
    bundle: Bundle,
    graphs: Graphs,
    samples: Sequence[StoredSample],
    *,
    progress: Progress | None = None,
    stop: Callable[[], bool] = bool,
    room: int | None = None,
) -> list[Example]:
    """Examples of those samples whose features are there when `stop` says so, in order.

    Without a store nothing is cached, as for a sample that is only predicted. room: bytes of features to hold; what has
    no room is read from the store again whenever a batch needs it.
    """

    def again(key: tuple[str, str, bytes]) -> np.ndarray:
        if store and (found := store.read_features(names[key[0]], [key[1:]])):
            return found[key[1:]]
        # It was lost since: computed anew.
        wanted = (place for place in _places(bundle, samples, key[0]) if place.key == key[1:])
        return dict(_features(store, bundle, graphs, key[0], islice(wanted, 1), None, bool))[key[1:]]

    ladders = [m.name for m in bundle.manifest.modalities if m.adapter == "ladder"]
    names: dict[str, str] = {name: variant(bundle, graphs, name) for name in ladders}
    shelf = Shelf(room if store and ladders == [m.name for m in bundle.manifest.modalities] else None, again)
    inputs: list[dict[tuple[str, int], tuple[str, str, bytes]] | None] = [{} for _ in samples]
    longest: list[dict[str, int]] = [{} for _ in samples]
    for facts in bundle.manifest.modalities:
        wanted = _places(bundle, samples, facts.name)
        for key, array in _features(store, bundle, graphs, facts.name, wanted, progress, stop):
            shelf.put((facts.name, *key), array, length_of(facts, array))
        for place in _places(bundle, samples, facts.name):
            found, row = (facts.name, *place.key), inputs[place.sample]
            if found not in shelf:
                inputs[place.sample] = None
            elif row is not None:
                row[place.slot, place.place] = found
                known = longest[place.sample]
                known[facts.name] = max(known.get(facts.name, 0), shelf.tokens(found))
    shared: dict[Any, Any] = {}  # equal parts of many examples are one object
    whole = {task.name: task for task in bundle.manifest.tasks if not task.per_token}

    def targets(labels: Mapping[str, Any]) -> Mapping[str, np.ndarray]:
        made = {name: target(whole[name], label) for name, label in labels.items() if name in whole}
        return shared.setdefault(repr(labels), made)  # type: ignore[no-any-return]

    def example(
        sample: StoredSample, arrays: Mapping[tuple[str, int], np.ndarray], tokens: Mapping[str, int]
    ) -> Example:
        words = words_of(bundle, sample)
        found, each = targets(sample.labels), targets_of(bundle, sample, arrays, words)
        return Example(
            inputs=arrays,
            targets={**found, **each} if each else found,
            subject=sample.subject,
            sample_id=sample.sample_id,
            language=sample.language or "",
            longest=shared.setdefault(tuple(tokens.items()), tokens),
            words=words or shared.setdefault("no words", words),
            note=note_of(bundle, sample),
        )

    return [
        example(sample, shelf.row(row), tokens)
        for sample, row, tokens in zip(samples, inputs, longest, strict=True)
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
                    yield Place(number, slot, place, (sample.subject, digest_of(value)), value)


def _features(
    store: Store | None,
    bundle: Bundle,
    graphs: Graphs,
    modality: str,
    wanted: Iterable[Place],
    progress: Progress | None,
    stop: Callable[[], bool],
) -> Iterator[tuple[Key, np.ndarray]]:
    """Cached features, then the missing ones, computed once an input, however many subjects gave it.

    An input that steps read themselves is prepared anew each time: that is quick, and nothing of it is cached.
    """
    facts = bundle.manifest.modality(modality)
    values: dict[bytes, StoredInput] = {}  # to be computed, by digest
    owners: dict[bytes, list[Key]] = {}
    name = variant(bundle, graphs, modality) if facts.adapter == "ladder" else ""
    for some in _batched({place.key: place.value for place in wanted}.items(), READ_TOGETHER):
        found = store.read_features(name, [key for key, _ in some]) if store and name else {}
        yield from found.items()
        for key, value in some:
            if key not in found:
                values[key[1]] = value
                owners.setdefault(key[1], []).append(key)
    given = _Values(store, list(values.values()))
    if facts.adapter == "lora":
        for number, digest in enumerate(values):
            if stop():
                return
            array = direct(facts, prepare(facts, given[number], bundle.file))
            yield from ((key, array) for key in owners[digest])
        return
    unsaved: dict[Key, np.ndarray] = {}

    def save() -> None:
        if store:
            store.write_features(name, unsaved)
        unsaved.clear()

    digests = list(values)
    for number, array in compute(bundle, graphs, modality, given, progress=progress, stop=stop):
        for key in owners[digests[number]]:
            unsaved[key] = array
            yield key, array
        if len(unsaved) >= SAVED_TOGETHER:
            save()
    save()


class _Values(Sequence[Any]):
    """Inputs, those that stayed in the store read when they are asked for."""

    def __init__(self, store: Store | None, values: Sequence[StoredInput]) -> None:
        self._store, self._values = store, values

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, number: Any) -> Any:
        value = self._values[number]
        if not isinstance(value, Kept):
            return value
        sample = self._store.sample(value.sample_id) if self._store else None
        assert sample is not None  # one process at a time opens a device's directory
        return sample.inputs[value.slot][value.place]


def _batched(items: Iterable[tuple[Key, StoredInput]], size: int) -> Iterator[list[tuple[Key, StoredInput]]]:
    rest = iter(items)
    while some := list(islice(rest, size)):
        yield some
