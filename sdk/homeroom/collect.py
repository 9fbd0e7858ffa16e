"""Samples to training examples, their features computed once and cached; imports the store, features and preprocess."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from homeroom.bundle import Bundle
from homeroom.dataset import Example
from homeroom.features import compute
from homeroom.preprocess import prepare
from homeroom.preprocess.direct import direct, length_of
from homeroom.runtime import Graphs
from homeroom.samples import Kept, StoredInput, StoredSample, target
from homeroom.shelf import Contents, Key, Row, Shelf
from homeroom.store import Store
from homeroom.tokens import note_of, targets_of, words_of
from homeroom.weighing import USUAL

SAVED_TOGETHER = 64  # features written in one step: what a power cut may cost to compute again
READ_TOGETHER = 256  # features opened at once, before it is settled whether they stay in memory

Progress = Callable[[str, int, int], None]  # stage, done, total


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
) -> list[Example]:
    """Examples of those samples whose features are there when `stop` says so, in order.

    Without a store nothing is cached, as for a sample that is only predicted. room: bytes of features to hold; what has
    no room is read from the store again whenever a batch needs it. weights: of poor inputs, by modality.
    """

    def again(number: int) -> np.ndarray:
        name = contents.modality(number)
        if store and (found := store.read_features(names[name], [contents.key(number)])):
            return found[contents.key(number)]
        # It was lost since: computed anew.
        return dict(_features(store, bundle, graphs, contents, name, [number], None, bool))[number]

    contents = Contents(bundle.manifest, samples)
    ladders = [m.name for m in bundle.manifest.modalities if m.adapter == "ladder"]
    names: dict[str, str] = {name: variant(bundle, graphs, name) for name in ladders}
    shelf = Shelf(room if store and ladders == [m.name for m in bundle.manifest.modalities] else None, again)
    tokens = np.full(len(contents) + 1, -1, np.int32)  # of each content; the last stands for what is absent
    tokens[-1] = 0
    for facts in bundle.manifest.modalities:
        wanted = contents.of(facts.name)
        for number, array in _features(store, bundle, graphs, contents, facts.name, wanted, progress, stop):
            shelf.put(number, array)
            tokens[number] = length_of(facts, array)
    longest = tokens[contents.numbers]  # [samples, inputs]
    weigh = {slot: (weights or {}).get(modality, USUAL) for slot, modality, _ in bundle.manifest.inputs}
    shared: dict[Any, Any] = {}  # equal parts of many examples are one object
    whole = {task.name: task for task in bundle.manifest.tasks if not task.per_token}

    def targets(labels: Mapping[str, Any]) -> Mapping[str, np.ndarray]:
        made = {name: target(whole[name], label) for name, label in labels.items() if name in whole}
        return shared.setdefault(repr(labels), made)  # type: ignore[no-any-return]

    def example(row: int, sample: StoredSample) -> Example:
        arrays, words = Row(shelf, contents, row), words_of(bundle, sample)
        found, each = targets(sample.labels), targets_of(bundle, sample, arrays, words)
        lengths: dict[str, int] = {}
        for (_, modality, _), count in zip(bundle.manifest.inputs, longest[row].tolist(), strict=True):
            if count:
                lengths[modality] = max(lengths.get(modality, 0), count)
        return Example(
            inputs=arrays,
            targets={**found, **each} if each else found,
            subject=sample.subject,
            sample_id=sample.sample_id,
            language=sample.language or "",
            longest=shared.setdefault(tuple(lengths.items()), lengths),
            words=words or shared.setdefault("no words", words),
            note=note_of(bundle, sample),
            counts={(slot, place): weigh[slot] for slot, places in sample.weighed.items() for place in places},
        )

    there = np.all(longest >= 0, axis=1).tolist()
    return [example(row, sample) for row, sample in enumerate(samples) if there[row]]


def missing(store: Store, bundle: Bundle, graphs: Graphs, samples: Sequence[StoredSample]) -> set[tuple[str, str, int]]:
    """(sample id, slot, place) of the inputs whose features are still to be computed."""
    contents = Contents(bundle.manifest, samples)
    lacking = np.zeros(len(contents) + 1, bool)
    for modality in bundle.manifest.modalities:
        name = variant(bundle, graphs, modality.name)
        for some in _batched(contents.of(modality.name), READ_TOGETHER):
            keys = {number: contents.key(number) for number in some}
            held = store.held_features(name, keys.values())
            lacking[[number for number, key in keys.items() if key not in held]] = True
    found = np.argwhere(lacking[contents.numbers])
    return {(samples[row].sample_id, *contents.places[column]) for row, column in found.tolist()}


def variant(bundle: Bundle, graphs: Graphs, modality: str) -> str:
    """What the cache goes by: the features' identity and the very graph file that computes them here."""
    graph = graphs.features_graph(modality)
    return f"{bundle.manifest.modality(modality).features_id}/{bundle.manifest.files[graph.file].sha256}"


def _features(
    store: Store | None,
    bundle: Bundle,
    graphs: Graphs,
    contents: Contents,
    modality: str,
    wanted: Iterable[int],
    progress: Progress | None,
    stop: Callable[[], bool],
) -> Iterator[tuple[int, np.ndarray]]:
    """Cached features by number, then the missing ones, computed once an input, however many subjects gave it.

    An input that steps read themselves is prepared anew each time: that is quick, and nothing of it is cached.
    """
    facts = bundle.manifest.modality(modality)
    values: dict[bytes, StoredInput] = {}  # to be computed, by digest
    owners: dict[bytes, list[int]] = {}
    name = variant(bundle, graphs, modality) if facts.adapter == "ladder" else ""
    for some in _batched(wanted, READ_TOGETHER):
        keys = {number: contents.key(number) for number in some}
        found = store.read_features(name, keys.values()) if store and name else {}
        for number, key in keys.items():
            if key in found:
                yield number, found[key]
            else:
                values.setdefault(key[1], contents.value(number))
                owners.setdefault(key[1], []).append(number)
    given = _Values(store, list(values.values()))
    if facts.adapter == "lora":
        for at, digest in enumerate(values):
            if stop():
                return
            array = direct(facts, prepare(facts, given[at], bundle.file))
            yield from ((number, array) for number in owners[digest])
        return
    unsaved: dict[Key, np.ndarray] = {}

    def save() -> None:
        if store:
            store.write_features(name, unsaved)
        unsaved.clear()

    digests = list(values)
    for at, array in compute(bundle, graphs, modality, given, progress=progress, stop=stop):
        for number in owners[digests[at]]:
            unsaved[contents.key(number)] = array
            yield number, array
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


def _batched(numbers: Iterable[int], size: int) -> Iterator[list[int]]:
    rest = iter(numbers)
    while some := list(islice(rest, size)):
        yield some
