"""Samples to training examples, their features computed once and cached; imports the store, features and preprocess."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from homeroom.data.preprocess import prepare
from homeroom.data.preprocess.raw_inputs import raw_input, token_count
from homeroom.data.quality.finding import DEFAULT_INPUT_WEIGHT
from homeroom.data.samples import MediaReference, StoredSample
from homeroom.runtime.bundle import Bundle
from homeroom.runtime.graphs import Graphs
from homeroom.store import Store
from homeroom.system.hardware import trim_memory
from homeroom.train.features.buffer import Contents, Key, Row, Shelf
from homeroom.train.features.columns import Columns
from homeroom.train.features.compute import compute
from homeroom.train.features.dataset import Example
from homeroom.train.features.spill import Spill
from homeroom.train.features.token_targets import note_of, targets_of, words_of

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
) -> Sequence[Example]:
    """Examples of those samples whose features are there when `stop` says so, in order.

    Without a store nothing is cached, as for a sample that is only predicted. room: bytes of features to hold, None for
    all; what has no room is spilled, and read again whenever a batch needs it. weights: of poor inputs, by modality.
    """
    contents = Contents(bundle.manifest, samples)
    ladders = [m.name for m in bundle.manifest.modalities if m.adapter == "ladder"]

    def again(numbers: set[int]) -> dict[int, np.ndarray]:
        found: dict[int, np.ndarray] = {}
        for modality in {contents.modality(number) for number in numbers}:
            these = [number for number in numbers if contents.modality(number) == modality]
            found |= _features(store, bundle, graphs, contents, modality, these, None, bool)
        return found

    if store and room is not None and ladders == [m.name for m in bundle.manifest.modalities]:
        shelf = Shelf(room, again, Spill(store.directory, len(contents)))
    else:
        shelf = Shelf(None, again)
    tokens = np.full(len(contents) + 1, -1, np.int32)  # of each content; the last stands for what is absent
    tokens[-1], roomy = 0, True
    for facts in bundle.manifest.modalities:
        wanted = contents.of(facts.name)
        for number, array in _features(store, bundle, graphs, contents, facts.name, wanted, progress, stop):
            roomy &= shelf.put(number, array)
            tokens[number] = token_count(facts, array)
    if roomy:  # else the cache is asked for the others again and again, by digest
        contents.let_go()
    there = np.all(tokens[contents.numbers] >= 0, axis=1)
    weigh = {slot: (weights or {}).get(modality, DEFAULT_INPUT_WEIGHT) for slot, modality, _ in bundle.manifest.inputs}
    found = Columns(bundle.manifest, contents, shelf, tokens, np.flatnonzero(there).astype(np.int32))
    at = 0
    for row, sample in enumerate(samples):
        if there[row]:
            words = words_of(bundle, sample)
            each = targets_of(bundle, sample, Row(shelf, contents, row), words)
            counts = {(slot, place): weigh[slot] for slot, places in sample.weighed.items() for place in places}
            found.put(at, sample, each, words=words, note=note_of(bundle, sample), counts=counts)
            at += 1
    if store:
        trim_memory()  # a step's arena would not take what getting ready has left on the heap
    return found


def missing(store: Store, bundle: Bundle, graphs: Graphs, samples: Sequence[StoredSample]) -> np.ndarray:
    """bool [samples, inputs]: where features are still to be computed."""
    contents = Contents(bundle.manifest, samples)
    lacking = np.zeros(len(contents) + 1, bool)
    for modality in bundle.manifest.modalities:
        name = variant(bundle, graphs, modality.name)
        for some in _batched(contents.of(modality.name), READ_TOGETHER):
            keys = {number: contents.key(number) for number in some}
            held = store.held_features(name, keys.values())
            lacking[[number for number, key in keys.items() if key not in held]] = True
    return np.asarray(lacking[contents.numbers])


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
    lacking: list[int] = []
    name = variant(bundle, graphs, modality) if facts.adapter == "ladder" else ""
    for some in _batched(wanted, READ_TOGETHER):
        keys = {number: contents.key(number) for number in some}
        found = store.read_features(name, keys.values()) if store and name else {}
        lacking.extend(number for number, key in keys.items() if key not in found)
        yield from ((number, found[key]) for number, key in keys.items() if key in found)
    values = _Values(store, contents, lacking)
    if facts.adapter == "lora":
        for at in range(len(values)):
            if stop():
                return
            kept = raw_input(facts, prepare(facts, values[at], bundle.file))
            yield from ((number, kept) for number in values.owners(at))
        return
    unsaved: dict[Key, np.ndarray] = {}

    def save() -> None:
        if store:
            store.write_features(name, unsaved)
        unsaved.clear()

    for at, made in compute(bundle, graphs, modality, values, progress=progress, stop=stop):
        for number in values.owners(at):
            unsaved[contents.key(number)] = made
            yield number, made
        if len(unsaved) >= SAVED_TOGETHER:
            save()
    save()


class _Values(Sequence[Any]):
    """What features are to be computed of, each content once, in the order they first occur: read when asked for."""

    def __init__(self, store: Store | None, contents: Contents, numbers: Sequence[int]) -> None:
        self._store, self._contents = store, contents
        digests = np.fromiter((contents.key(number)[1] for number in numbers), "V32", len(numbers))
        _, first, same = np.unique(digests, return_index=True, return_inverse=True)
        place = np.argsort(np.argsort(first))[same]  # of each number's content
        order = np.argsort(place, kind="stable")
        self._numbers = np.asarray(numbers, np.int32)[order]
        self._starts = np.searchsorted(place[order], np.arange(len(first) + 1)).astype(np.int32)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def owners(self, at: int) -> list[int]:
        """The numbers that a content goes by, one for each subject that gave it."""
        return self._numbers[self._starts[at] : self._starts[at + 1]].tolist()  # type: ignore[no-any-return]

    def __getitem__(self, at: Any) -> Any:
        value = self._contents.value(self.owners(at)[0])
        if not isinstance(value, MediaReference):
            return value
        sample = self._store.sample(value.sample_id) if self._store else None
        assert sample is not None  # one process at a time opens a device's directory
        return sample.inputs[value.slot][value.index]


def _batched(numbers: Iterable[int], size: int) -> Iterator[list[int]]:
    rest = iter(numbers)
    while some := list(islice(rest, size)):
        yield some
