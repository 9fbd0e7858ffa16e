"""A buffer of features: the distinct inputs of many samples, and as many of their features as memory has room for.

Fifty thousand samples are as many rows of a few arrays, not objects: some dozen bytes a sample.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from homeroom.contract.manifest import Manifest
from homeroom.data.samples import StoredInput, StoredSample, digest_of
from homeroom.train.features.spill import Spill

OBJECT_BYTES = 250  # of Python's objects for one array in the buffer
BUFFER_BYTES = 6 << 20  # of features in memory; the system's own cache of files holds what is spilled, as it can
SAMPLE_BYTES = 130  # of the facts about one sample: they take of the same room, so that many need no more memory

ContentKey = tuple[str, bytes]  # subject, digest of the content
InputKey = tuple[str, int]  # slot, index in the slot


def buffer_bytes(samples: int) -> int:
    """Bytes of features to buffer beside the facts about so many samples."""
    return max(0, BUFFER_BYTES - SAMPLE_BYTES * samples)


class ContentIndex:
    """Numbers the distinct contents, (modality, subject, content), of the inputs of some samples as they first occur.

    inputs: the input key of each column
    columns: the column of each input key
    numbers: int32 [samples, inputs], -1 where there is no input
    """

    def __init__(self, manifest: Manifest, samples: Sequence[StoredSample]) -> None:
        self.samples = samples
        self.inputs = tuple((slot, slot_index) for slot, _, slot_index in manifest.inputs)
        self.columns = {key: column for column, key in enumerate(self.inputs)}
        self._modalities: list[str] = [modality for _, modality, _ in manifest.inputs]
        subjects: dict[str, int] = {}
        # Modality, digest, subject, and an end that is not 0
        contents = np.zeros(len(samples) * len(self.inputs), "S38")
        for row, sample in enumerate(samples):
            subject = subjects.setdefault(sample.subject, len(subjects)).to_bytes(4, "big") + b"\1"
            for column, (slot, slot_index) in enumerate(self.inputs):
                if (value := input_at(sample, slot, slot_index)) is not None:
                    modality = bytes([self._modalities.index(self._modalities[column])])
                    contents[row * len(self.inputs) + column] = modality + digest_of(value) + subject
        present = np.flatnonzero(contents != b"")
        unique, first, inverse = np.unique(contents[present], return_index=True, return_inverse=True)
        order = np.argsort(first)
        self._subjects, self._first = list(subjects), present[first[order]].astype(np.int32)
        fields = unique[order].view(np.uint8).reshape(-1, contents.itemsize)
        self._modality_numbers = fields[:, 0].copy()
        self._subject_numbers = fields[:, 33:37].copy().view(">u4")[:, 0].astype(np.int32)
        self._digests: np.ndarray | None = fields[:, 1:33].copy()
        self.numbers = np.full((len(samples), len(self.inputs)), -1, np.int32)
        self.numbers.reshape(-1)[present] = np.argsort(order)[inverse]

    def __len__(self) -> int:
        return len(self._first)

    def of(self, modality: str) -> Iterator[int]:
        """The numbers of a modality's contents."""
        return (number for number in range(len(self)) if self.modality(number) == modality)

    def modality(self, number: int) -> str:
        """The modality of a content."""
        return self._modalities[self._modality_numbers.item(number)]

    def subject(self, number: int) -> str:
        """The subject that gave a content."""
        return self._subjects[self._subject_numbers.item(number)]

    def key(self, number: int) -> ContentKey:
        """What the cache knows a content by."""
        digest = digest_of(self.source(number)[1]) if self._digests is None else self._digests[number].tobytes()
        return self.subject(number), digest

    def drop_digests(self) -> None:
        """Frees the digests once every content was looked up; a `key` is then computed again, which is seldom."""
        self._digests = None

    def source(self, number: int) -> tuple[StoredSample, StoredInput]:
        """The first sample that has a content, and the content there."""
        row, column = divmod(int(self._first[number]), len(self.inputs))
        sample = self.samples[row]
        value = input_at(sample, *self.inputs[column])
        assert value is not None  # it was there when it was numbered
        return sample, value


class FeatureBuffer:
    """Features int8 [taps, n, dim] by the number of their content; the first that fit into memory, the others spilled.

    Which ones are in memory does not change: passes over all of them would empty any other cache.

    limit_bytes: of memory, None for no limit
    recompute: finds the features that are neither in memory nor spilled
    """

    def __init__(
        self,
        limit_bytes: int | None,
        recompute: Callable[[set[int]], dict[int, np.ndarray]],
        spill: Spill | None = None,
    ) -> None:
        self.limit_bytes, self._recompute, self._spill = limit_bytes, recompute, spill
        self._held: dict[int, np.ndarray] = {}
        self.held_bytes = 0

    def put(self, number: int, array: np.ndarray) -> bool:
        """Keeps features in memory, or else in the spill; returns whether there was room."""
        size = array.nbytes + OBJECT_BYTES
        if self.limit_bytes is not None and self.held_bytes + size > self.limit_bytes:
            return self._spill is not None and self._spill.put(number, array)
        self._held[number] = array
        self.held_bytes += size
        return True

    def __getitem__(self, number: int) -> np.ndarray:
        return self.read([number])[number]

    def read(self, numbers: Collection[int]) -> Mapping[int, np.ndarray]:
        """Features of these contents, perhaps of more; those that are not in memory are read together."""
        absent = {number for number in numbers if number not in self._held}
        if not absent:
            return self._held
        arrays = {number: self._held[number] for number in numbers if number not in absent}
        if self._spill is not None:
            arrays |= self._spill.read(absent)
        lost = absent - arrays.keys()
        return arrays | self._recompute(lost) if lost else arrays


class LazyInputs(Mapping[InputKey, np.ndarray]):
    """The features of one sample's inputs, each read from the buffer when it is asked for."""

    __slots__ = ("_buffer", "_contents", "_row")

    def __init__(self, buffer: FeatureBuffer, contents: ContentIndex, row: int) -> None:
        self._buffer, self._contents, self._row = buffer, contents, row

    def __getitem__(self, key: InputKey) -> np.ndarray:
        number = self._contents.numbers.item(self._row, self._contents.columns[key])
        if number < 0:
            raise KeyError(key)
        return self._buffer[number]

    def __iter__(self) -> Iterator[InputKey]:
        numbers = self._contents.numbers[self._row].tolist()
        return (key for key, number in zip(self._contents.inputs, numbers, strict=True) if number >= 0)

    def __len__(self) -> int:
        return int(np.count_nonzero(self._contents.numbers[self._row] >= 0))

    def __contains__(self, key: object) -> bool:
        column = self._contents.columns.get(key)  # type: ignore[call-overload]
        return column is not None and self._contents.numbers.item(self._row, column) >= 0


class LazySamples(Sequence[StoredSample]):
    """A lazy view of samples: a function is applied to each whenever it is asked for."""

    def __init__(self, samples: Sequence[StoredSample], view: Callable[[StoredSample], StoredSample]) -> None:
        self._samples, self._view = samples, view

    def __len__(self) -> int:
        return len(self._samples)

    def __iter__(self) -> Iterator[StoredSample]:
        return map(self._view, self._samples)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return LazySamples(self._samples[index], self._view)
        return self._view(self._samples[index])


def input_at(sample: StoredSample, slot: str, slot_index: int) -> StoredInput | None:
    """A sample's input, None where it is absent."""
    values = sample.inputs.get(slot, ())
    return values[slot_index] if slot_index < len(values) else None
