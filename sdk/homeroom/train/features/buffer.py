"""Which content each input of many samples has, and what is held of its features; numpy and the manifest.

Fifty thousand samples are as many rows of a few arrays, not objects: some dozen bytes a sample.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from homeroom.contract.manifest import Manifest
from homeroom.data.samples import StoredInput, StoredSample, digest_of
from homeroom.train.features.spill import Spill

OBJECT_BYTES = 250  # of Python's objects for one array that is held
ROOM_BYTES = 6 << 20  # of features in memory; the system's own cache of files holds what is spilled, as it can
KNOWN_BYTES = 130  # of what is known of one sample: it takes of the same room, so that many need no more memory

Key = tuple[str, bytes]  # subject, digest of the content
Place = tuple[str, int]  # slot, place in the slot


def room_beside(samples: int) -> int:
    """Bytes of features to hold where so many samples are known."""
    return max(0, ROOM_BYTES - KNOWN_BYTES * samples)


class Contents:
    """Every input of some samples by a number that stands for its (modality, subject, content).

    numbers: int32 [samples, inputs], -1 where there is none. Contents are numbered as they first occur.
    """

    def __init__(self, manifest: Manifest, samples: Sequence[StoredSample]) -> None:
        self.samples = samples
        self.places = tuple((slot, place) for slot, _, place in manifest.inputs)
        self.columns = {place: column for column, place in enumerate(self.places)}
        self._modalities: list[str] = [modality for _, modality, _ in manifest.inputs]
        subjects: dict[str, int] = {}
        found = np.zeros(len(samples) * len(self.places), "S38")  # modality, digest, subject and an end that is not 0
        for row, sample in enumerate(samples):
            owner = subjects.setdefault(sample.subject, len(subjects)).to_bytes(4, "big") + b"\1"
            for column, (slot, place) in enumerate(self.places):
                if (value := value_at(sample, slot, place)) is not None:
                    kind = bytes([self._modalities.index(self._modalities[column])])
                    found[row * len(self.places) + column] = kind + digest_of(value) + owner
        here = np.flatnonzero(found != b"")
        unique, first, inverse = np.unique(found[here], return_index=True, return_inverse=True)
        order = np.argsort(first)
        self._subjects, self._first = list(subjects), here[first[order]].astype(np.int32)
        parts = unique[order].view(np.uint8).reshape(-1, found.itemsize)
        self._kinds, self._owners = parts[:, 0].copy(), parts[:, 33:37].copy().view(">u4")[:, 0].astype(np.int32)
        self._digests: np.ndarray | None = parts[:, 1:33].copy()
        self.numbers = np.full((len(samples), len(self.places)), -1, np.int32)
        self.numbers.reshape(-1)[here] = np.argsort(order)[inverse]

    def __len__(self) -> int:
        return len(self._first)

    def of(self, modality: str) -> Iterator[int]:
        """The numbers of a modality's contents."""
        return (number for number in range(len(self)) if self.modality(number) == modality)

    def modality(self, number: int) -> str:
        return self._modalities[self._kinds.item(number)]

    def subject(self, number: int) -> str:
        return self._subjects[self._owners.item(number)]

    def key(self, number: int) -> Key:
        digest = digest_of(self.value(number)) if self._digests is None else self._digests[number].tobytes()
        return self.subject(number), digest

    def let_go(self) -> None:
        """Of the digests, once every content was looked for: a key is seldom asked for after that."""
        self._digests = None

    def value(self, number: int) -> StoredInput:
        row, column = divmod(int(self._first[number]), len(self.places))
        value = value_at(self.samples[row], *self.places[column])
        assert value is not None  # it was there when it was numbered
        return value


class Shelf:
    """Features by number, as many held as there is room for; the others are spilled and read again for each batch.

    Which ones are held is settled as they come: passes over all of them would empty any other cache. room: bytes to
    hold at most, None for all. again: finds those that are neither held nor spilled.
    """

    def __init__(
        self, room: int | None, again: Callable[[set[int]], dict[int, np.ndarray]], spill: Spill | None = None
    ) -> None:
        self.room, self._again, self._spill = room, again, spill
        self._held: dict[int, np.ndarray] = {}
        self.held_bytes = 0

    def put(self, number: int, array: np.ndarray) -> bool:
        """Whether there was room, in memory or in the spill."""
        size = array.nbytes + OBJECT_BYTES
        if self.room is not None and self.held_bytes + size > self.room:
            return self._spill is not None and self._spill.put(number, array)
        self._held[number] = array
        self.held_bytes += size
        return True

    def __getitem__(self, number: int) -> np.ndarray:
        return self.some([number])[number]

    def some(self, numbers: Collection[int]) -> Mapping[int, np.ndarray]:
        """At least these, those that are not held read together."""
        lacking = {number for number in numbers if number not in self._held}
        if not lacking:
            return self._held
        found = {n: self._held[n] for n in numbers if n not in lacking}
        if self._spill is not None:
            found |= self._spill.some(lacking)
        lost = lacking - found.keys()
        return found | self._again(lost) if lost else found


class Row(Mapping[Place, np.ndarray]):
    """One sample's arrays by (slot, place), each looked up when it is asked for."""

    __slots__ = ("_contents", "_row", "_shelf")

    def __init__(self, shelf: Shelf, contents: Contents, row: int) -> None:
        self._shelf, self._contents, self._row = shelf, contents, row

    def __getitem__(self, place: Place) -> np.ndarray:
        number = self._contents.numbers.item(self._row, self._contents.columns[place])
        if number < 0:
            raise KeyError(place)
        return self._shelf[number]

    def __iter__(self) -> Iterator[Place]:
        numbers = self._contents.numbers[self._row].tolist()
        return (place for place, number in zip(self._contents.places, numbers, strict=True) if number >= 0)

    def __len__(self) -> int:
        return int(np.count_nonzero(self._contents.numbers[self._row] >= 0))

    def __contains__(self, place: object) -> bool:
        column = self._contents.columns.get(place)  # type: ignore[call-overload]
        return column is not None and self._contents.numbers.item(self._row, column) >= 0


class Seen(Sequence[StoredSample]):
    """Samples as a function makes them, one whenever it is asked for."""

    def __init__(self, samples: Sequence[StoredSample], make: Callable[[StoredSample], StoredSample]) -> None:
        self._samples, self._make = samples, make

    def __len__(self) -> int:
        return len(self._samples)

    def __iter__(self) -> Iterator[StoredSample]:
        return map(self._make, self._samples)

    def __getitem__(self, at: Any) -> Any:
        return Seen(self._samples[at], self._make) if isinstance(at, slice) else self._make(self._samples[at])


def value_at(sample: StoredSample, slot: str, place: int) -> StoredInput | None:
    """A sample's input, if it is there."""
    values = sample.inputs.get(slot, ())
    return values[place] if place < len(values) else None
