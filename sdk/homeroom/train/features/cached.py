"""Features through the cache: read where the store has them, else computed once and written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from homeroom.contract.manifest import Modality
from homeroom.data.preprocess import Prepared, prepare
from homeroom.data.preprocess.media import prepare_outside
from homeroom.data.preprocess.raw_inputs import raw_input
from homeroom.data.samples import InputReference, StoredInput, StoredSample
from homeroom.errors import InputError, StoreError
from homeroom.runtime.bundle import Bundle
from homeroom.runtime.graphs import Graphs
from homeroom.store import Store
from homeroom.train.features.buffer import ContentIndex, ContentKey
from homeroom.train.features.compute import Progress, compute

WRITTEN_TOGETHER = 64  # features of one transaction: what a power cut may cost to compute again
LOOKED_UP_TOGETHER = 256  # features opened at once, before it is decided whether they stay in memory


class CachedFeatures:
    """The features of a content index.

    store: whose cache is used; None to compute all features and keep none
    decode_room: bytes that decoding a stored picture may take now, None for any; a sample beyond it is quarantined
    """

    def __init__(
        self,
        store: Store | None,
        bundle: Bundle,
        graphs: Graphs,
        contents: ContentIndex,
        decode_room: Callable[[], int | None] = lambda: None,
    ) -> None:
        self._store, self._bundle, self._graphs, self._contents = store, bundle, graphs, contents
        self._decode_room = decode_room
        self._prepare = self._prepare_stored if store else prepare_outside

    def _prepare_stored(self, modality: Modality, value: Any, bundle_file: Callable[[str], Path]) -> Prepared:
        """Prepares an input in this process: the store's own were decoded within bounds once."""
        return prepare(modality, value, bundle_file, self._decode_room())

    def read(
        self, modality: str, numbers: Iterable[int], progress: Progress | None = None, stop: Callable[[], bool] = bool
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (number, int8 [taps, n, dim]) of contents of one modality: the cached ones, then those it computes.

        A content that several subjects gave is computed once. Where LoRA is inside the backbone, yields the raw inputs
        of the training step instead: preparing them is quick, and they are never cached.

        progress: told of those that are computed
        stop: asked before each batch whether to end there
        """
        if self._bundle.manifest.modality(modality).adapter == "lora":
            yield from self._raw_inputs(modality, list(numbers), stop)
            return
        uncached: list[int] = []
        name = variant(self._bundle, self._graphs, modality)
        for some in _batched(numbers, LOOKED_UP_TOGETHER):
            keys = {number: self._contents.key(number) for number in some}
            arrays = self._store.read_features(name, keys.values()) if self._store else {}
            uncached.extend(number for number, key in keys.items() if key not in arrays)
            yield from ((number, arrays[key]) for number, key in keys.items() if key in arrays)
        yield from self._compute(modality, uncached, progress, stop)

    def recompute(self, numbers: set[int]) -> dict[int, np.ndarray]:
        """The features of contents of any modality."""
        arrays: dict[int, np.ndarray] = {}
        for modality in {self._contents.modality(number) for number in numbers}:
            arrays |= self.read(modality, [n for n in numbers if self._contents.modality(n) == modality])
        if numbers - arrays.keys():
            remedy = "do it again: the sample is left out then"
            raise StoreError("an input that was read before is damaged, and the copy does not have it", remedy=remedy)
        return arrays

    def _raw_inputs(
        self, modality: str, numbers: Sequence[int], stop: Callable[[], bool]
    ) -> Iterator[tuple[int, np.ndarray]]:
        facts = self._bundle.manifest.modality(modality)
        values = _DistinctValues(self._store, self._contents, numbers)
        for index in range(len(values)):
            if stop():
                return
            if (value := values[index]) is None:
                continue
            try:
                raw = raw_input(facts, self._prepare(facts, value, self._bundle.file))
            except InputError as problem:
                if self._store is None:
                    raise
                self._set_apart(values, index, problem)
                continue
            yield from ((number, raw) for number in values.numbers(index))

    def _set_apart(self, values: _DistinctValues, index: int, problem: InputError) -> None:
        """Quarantines the samples of a stored file that cannot be decoded any more, so that the others are learned."""
        assert self._store is not None
        samples = [self._contents.source(number)[0] for number in values.numbers(index)]
        self._store.quarantine({sample.sample_id: str(problem) for sample in samples}, released=True)

    def _compute(
        self, modality: str, numbers: Sequence[int], progress: Progress | None, stop: Callable[[], bool]
    ) -> Iterator[tuple[int, np.ndarray]]:
        name = variant(self._bundle, self._graphs, modality)
        values = _DistinctValues(self._store, self._contents, numbers)
        unwritten: dict[ContentKey, np.ndarray] = {}

        def write() -> None:
            if self._store:
                self._store.write_features(name, unwritten)
            unwritten.clear()

        for index, array in compute(
            self._bundle,
            self._graphs,
            modality,
            values,
            progress=progress,
            stop=stop,
            prepare=self._prepare,
            refused=partial(self._set_apart, values) if self._store else None,
        ):
            for number in values.numbers(index):
                unwritten[self._contents.key(number)] = array
                yield number, array
            if len(unwritten) >= WRITTEN_TOGETHER:
                write()
        write()


def missing(store: Store, bundle: Bundle, graphs: Graphs, samples: Sequence[StoredSample]) -> np.ndarray:
    """bool [samples, inputs]: whether features are still to be computed."""
    contents = ContentIndex(bundle.manifest, samples)
    uncached = np.zeros(len(contents) + 1, bool)
    for modality in bundle.manifest.modalities:
        name = variant(bundle, graphs, modality.name)
        for some in _batched(contents.of(modality.name), LOOKED_UP_TOGETHER):
            keys = {number: contents.key(number) for number in some}
            cached = store.held_features(name, keys.values())
            uncached[[number for number, key in keys.items() if key not in cached]] = True
    return np.asarray(uncached[contents.numbers])


def variant(bundle: Bundle, graphs: Graphs, modality: str) -> str:
    """The cache's name of a backbone: the features' identity, and the very graph file that computes them here."""
    graph = graphs.features_graph(modality)
    return f"{bundle.manifest.modality(modality).features_id}/{bundle.manifest.every_file[graph.file].sha256}"


class _DistinctValues(Sequence[Any]):
    """The distinct values of some contents, whoever gave them, as they first occur; each read when asked for."""

    def __init__(self, store: Store | None, contents: ContentIndex, numbers: Sequence[int]) -> None:
        self._store, self._contents = store, contents
        digests = np.fromiter((contents.key(number)[1] for number in numbers), "V32", len(numbers))
        _, first, inverse = np.unique(digests, return_index=True, return_inverse=True)
        index = np.argsort(np.argsort(first))[inverse]  # of each number's value
        order = np.argsort(index, kind="stable")
        self._numbers = np.asarray(numbers, np.int32)[order]
        self._starts = np.searchsorted(index[order], np.arange(len(first) + 1)).astype(np.int32)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def numbers(self, index: int) -> list[int]:
        """The numbers of the contents with a value, one for each subject that gave it."""
        return self._numbers[self._starts[index] : self._starts[index + 1]].tolist()  # type: ignore[no-any-return]

    def __getitem__(self, index: Any) -> Any:
        """The value; None where it is lost."""
        return read_value(self._store, *self._contents.source(self.numbers(index)[0]))


def read_value(store: Store | None, sample: StoredSample, value: StoredInput) -> StoredInput | None:
    """An input of a sample, opened if it was left in the store; None where it is lost."""
    if not isinstance(value, InputReference):
        return value
    return store.read_input(sample, value) if store else None


def _batched(numbers: Iterable[int], size: int) -> Iterator[list[int]]:
    rest = iter(numbers)
    return iter(lambda: list(islice(rest, size)), [])
