"""Which of many holds its place the least: the idlest of the holder that has most, in constant time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)


class EvictionOrder(Generic[Item]):
    """Items that may be evicted, by who holds them.

    waits: whether an item may be evicted still; one that may not falls out until it is added anew.
    """

    def __init__(self, waits: Callable[[Item], bool]) -> None:
        self._waits = waits
        self._holder_of = dict[Item, str]()
        self._items = dict[str, OrderedDict[Item, None]]()  # of a holder, the idlest first
        self._holders = dict[int, OrderedDict[str, None]]()  # by how many items they have

    def __contains__(self, item: Item) -> bool:
        return item in self._holder_of

    def add(self, item: Item, holder: str) -> None:
        """Add an item, or add it anew: it is idle from now on."""
        self.discard(item)
        items = self._items.setdefault(holder, OrderedDict())
        self._count(holder, len(items), len(items) + 1)
        self._holder_of[item] = holder
        items[item] = None

    def discard(self, item: Item) -> None:
        """Take an item out, if it is there."""
        if (holder := self._holder_of.pop(item, None)) is not None:
            items = self._items[holder]
            self._count(holder, len(items), len(items) - 1)
            del items[item]
            if not items:
                del self._items[holder]

    def first(self) -> Item | None:
        """The item to evict; None where none waits."""
        while self._holders:
            holder = next(iter(self._holders[max(self._holders)]))
            item = next(iter(self._items[holder]))
            if self._waits(item):
                return item
            self.discard(item)
        return None

    def _count(self, holder: str, before: int, after: int) -> None:
        if before:
            del self._holders[before][holder]
            if not self._holders[before]:
                del self._holders[before]
        if after:
            self._holders.setdefault(after, OrderedDict())[holder] = None
