"""Statistics in secure rounds: the segments of numbers that are announced and summed, and the terms of a round.

A segment is the numbers of a row in one pair of blocks, or the second moments of a pair. Which rows of a task are
summed by name is settled by the first sum of a total that holds the task, and stays so until another total begins: a
sample is taken out of the row that it was put into.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from itertools import combinations_with_replacement
from typing import Annotated, NamedTuple

import msgspec
import numpy as np

from homeroom.contract.manifest import Manifest, Task
from homeroom.contract.statistics.limits import rows_of, widths_of
from homeroom.contract.statistics.messages import SEQUENCE_LIMIT, Text
from homeroom.contract.statistics.pooling import OTHERS, SHARED_KINDS, Pair, Pooling
from homeroom.contract.statistics.section import Hash
from homeroom.contract.statistics.sums import Cell, Statistics

Number = Annotated[int, msgspec.Meta(ge=0, le=SEQUENCE_LIMIT)]


class SharedRows(msgspec.Struct, frozen=True, array_like=True):
    """`Pooling` in a message: rows by name, and pairs of blocks, both rising."""

    named: Annotated[tuple[Text, ...], msgspec.Meta(max_length=1 << 16)]
    pairs: Annotated[tuple[tuple[Hash, Hash], ...], msgspec.Meta(max_length=1 << 12)]

    @property
    def pooling(self) -> Pooling:
        """As `pooling.pool` wants it."""
        return Pooling(frozenset(self.named), frozenset(self.pairs))


def shared_rows(pooling: Pooling) -> SharedRows:
    """A pooling as it stands in messages."""
    return SharedRows(tuple(sorted(pooling.named)), tuple(sorted(pooling.pairs)))


class StatisticsTerms(msgspec.Struct, frozen=True, kw_only=True):
    """What devices agree on before they mask statistics; the round's notice names its identity.

    total: number of the total that the sum goes into; a new one begins empty.
    sums: how many sums were made before, in all totals.
    shared: by task, what a sum of this total has settled.
    """

    total: Annotated[int, msgspec.Meta(ge=1, le=SEQUENCE_LIMIT)] = 1
    sums: Number = 0
    shared: dict[Text, SharedRows] = {}

    @property
    def poolings(self) -> dict[str, Pooling]:
        """What is settled, by task."""
        return {task: rows.pooling for task, rows in self.shared.items()}


class StatisticsSegment(NamedTuple):
    """Numbers that are summed together; row "" of a task with rows: its second moments; without rows: all."""

    task: str
    row: str
    first: str
    last: str

    @property
    def name(self) -> str:
        """Under which it stands in the sum's layout."""
        return msgspec.json.encode(self).decode()

    @property
    def pair(self) -> Pair:
        """Its blocks."""
        return self.first, self.last


class StatisticsSegments:
    """The segments of a bundle and the cells in each, in order."""

    def __init__(self, manifest: Manifest) -> None:
        self.tasks = {task.name: task for task in manifest.tasks if task.kind in SHARED_KINDS}
        self._section, self._widths = manifest.statistics, widths_of(manifest)

    @cached_property
    def pairs(self) -> dict[str, list[Pair]]:
        """The pairs of blocks that samples of a task may have, by task."""
        found, section = {}, self._section
        for name, task in self.tasks.items():
            ids = sorted(block.statistics_id for block in (section.read_by(name, task.reads) if section else ()))
            found[name] = list(combinations_with_replacement(ids, 2))
        return found

    def of_task(self, task: Task, pooling: Pooling | None) -> list[StatisticsSegment]:
        """The segments of a task: of all its rows, or as a total has settled them."""
        rows = rows_of(task) - {OTHERS} if pooling is None else {*pooling.named, *({OTHERS} & rows_of(task))}
        pairs = self.pairs[task.name] if pooling is None else sorted(pooling.pairs)
        return [StatisticsSegment(task.name, row, *pair) for row in sorted({*rows, ""}) for pair in pairs]

    def of_poolings(self, poolings: Mapping[str, Pooling]) -> list[StatisticsSegment]:
        """The segments of tasks whose rows are settled."""
        return [one for name in sorted(poolings) for one in self.of_task(self.tasks[name], poolings[name])]

    def cells(self, segment: StatisticsSegment) -> dict[Cell, int]:
        """The cells of a segment and how many values each has."""
        task, row, first, last = segment
        whole, same = rows_of(self.tasks[task]) == {""}, first == last
        length, found = self._widths[first], dict[Cell, int]()
        if whole or row:
            found[Cell(task, "count", row, segment.pair)] = 1
            if same:
                found[Cell(task, "vector", row, (first,))] = length
        if not row:
            size = length * (length + 1) // 2 if same else length * self._widths[last]
            found[Cell(task, "moment", "", segment.pair)] = size
        if whole and same:
            found |= {Cell(task, "number", "", (first,)): 2, Cell(task, "product", "", (first,)): length}
        return found

    def size(self, segment: StatisticsSegment) -> int:
        """Values of a segment."""
        return sum(self.cells(segment).values())

    def values(self, segment: StatisticsSegment, sums: Statistics) -> np.ndarray:
        """The values of a segment in these sums, int64 [size]; zeros where it has none."""
        parts = [sums.cells.get(cell, np.zeros(size, np.int64)) for cell, size in self.cells(segment).items()]
        return np.concatenate(parts)

    def statistics(self, values: Mapping[StatisticsSegment, np.ndarray]) -> Statistics:
        """The sums that these segments hold. values: int64 [size] by segment."""
        cells: dict[Cell, np.ndarray] = {}
        for segment, array in values.items():
            sizes = self.cells(segment)
            cells |= dict(zip(sizes, np.split(array, np.cumsum(list(sizes.values()))[:-1]), strict=True))
        return Statistics({cell: one for cell, one in cells.items() if one.any()})

    def changed(self, segments: Iterable[StatisticsSegment], before: Statistics, after: Statistics) -> set[str]:
        """Names of the segments whose values are others."""
        return {s.name for s in segments if not np.array_equal(self.values(s, before), self.values(s, after))}


def segment_of(name: str) -> StatisticsSegment:
    """The segment of a name."""
    return StatisticsSegment(*msgspec.json.decode(name, type=tuple[str, str, str, str]))
