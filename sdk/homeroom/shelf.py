"""Features of many inputs, as many in memory as there is room for; the others are read again for each batch; numpy."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, Generic, TypeVar

import numpy as np

Key = TypeVar("Key", bound=Hashable)


class Shelf(Generic[Key]):
    """Arrays by key. Which ones are held is settled as they come: passes over all of them would empty any other cache.

    room: bytes to hold at most, None for all. again: reads one that is not held.
    """

    def __init__(self, room: int | None, again: Callable[[Key], np.ndarray]) -> None:
        self.room, self._again = room, again
        self._held: dict[Key, np.ndarray] = {}
        self._tokens: dict[Key, int] = {}
        self.held_bytes = 0

    def put(self, key: Key, array: np.ndarray, tokens: int) -> None:
        self._tokens[key] = tokens
        if self.room is None or self.held_bytes + array.nbytes <= self.room:
            self._held[key] = array
            self.held_bytes += array.nbytes

    def __contains__(self, key: Key) -> bool:
        return key in self._tokens

    def __getitem__(self, key: Key) -> np.ndarray:
        found = self._held.get(key)
        return self._again(key) if found is None else found

    def tokens(self, key: Key) -> int:
        """How many there are of one, held or not."""
        return self._tokens[key]

    def row(self, places: Mapping[tuple[str, int], Key]) -> Mapping[tuple[str, int], np.ndarray]:
        """The arrays of one example by (slot, place)."""
        if all(key in self._held for key in places.values()):
            return {place: self._held[key] for place, key in places.items()}
        return Row(self, dict(places))


class Row(Mapping[tuple[str, int], np.ndarray]):
    """One example's arrays, each looked up when it is asked for."""

    __slots__ = ("_places", "_shelf")

    def __init__(self, shelf: Shelf[Any], places: dict[tuple[str, int], Any]) -> None:
        self._shelf, self._places = shelf, places

    def __getitem__(self, place: tuple[str, int]) -> np.ndarray:
        return self._shelf[self._places[place]]

    def __iter__(self) -> Iterator[tuple[str, int]]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, place: object) -> bool:
        return place in self._places
