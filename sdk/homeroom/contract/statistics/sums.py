"""Sums over samples as exact integers: they are the same in any order and partition, and a part is taken away exactly.

A sample has one vector a block, of norm at most 1 on a grid of 2^-10, so that every sum is an int64. A cell is one sum:
it merges by its name, which holds the block's `statistics_id` and the label's name. A cell of zeros does not exist, so
that what was taken away leaves no trace.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Literal, get_args

import numpy as np

from homeroom.errors import UpdateError

GRID_BITS = 10  # of vectors and numbers; products are on 2 * GRID_BITS
NUMBER_LIMIT = 8  # to which numbers are cut, in units of the task's scale
SAMPLE_LIMIT = 1 << 31  # in one total: every sum then stays below 2^57, and below 2^53 in batches of SUM_ROWS
CHANGE_LIMIT = 1 << 60  # of any value, so that two of them add up within int64
CELL_LIMIT_VALUES = 1 << 20
ONE = 1 << GRID_BITS

CellKind = Literal["count", "moment", "number", "product", "vector"]
CELL_KINDS: tuple[CellKind, ...] = get_args(CellKind)


@dataclass(frozen=True, order=True, slots=True)
class Cell:
    """The name of one sum over the samples that have a label of the task.

    row: the label's name; empty for sums over all of them
    blocks: `statistics_id`s, rising; two of a count or a moment, else one

    count: [1], the samples that have both blocks. vector: [d], the sum of their vectors. moment: [a * b], the sum of
    outer products; of a block with itself the upper triangle [d (d + 1) / 2] row by row. number: [2], sums of y and of
    y squared. product: [d], the sum of y times the vector.
    """

    task: str
    kind: CellKind
    row: str
    blocks: tuple[str, ...]

    def __str__(self) -> str:
        of = f" of {self.row}" if self.row else ""
        return f"{self.task}: {self.kind}{of}, block {' and '.join(block[:8] for block in self.blocks)}"


@dataclass(frozen=True)
class Statistics:
    """Sums by cell, int64 and not all zero: a total, or a change of one, whose values may be negative."""

    cells: Mapping[Cell, np.ndarray]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Statistics) or self.cells.keys() != other.cells.keys():
            return False
        return all(np.array_equal(values, other.cells[cell]) for cell, values in self.cells.items())

    __hash__ = None  # type: ignore[assignment]

    def __iter__(self) -> Iterator[tuple[Cell, np.ndarray]]:
        return iter(sorted(self.cells.items(), key=lambda item: item[0]))

    def of_task(self, task: str) -> Statistics:
        """The cells of one task."""
        return Statistics({cell: values for cell, values in self.cells.items() if cell.task == task})

    def rows(self, task: str) -> list[str]:
        """The names of a task's rows that have samples."""
        return sorted({cell.row for cell in self.cells if cell.task == task and cell.kind == "count"})

    def count(self, task: str, row: str, first: str, second: str) -> int:
        """The samples of a row that have both blocks."""
        pair = (first, second) if first <= second else (second, first)
        found = self.cells.get(Cell(task, "count", row, pair))
        return 0 if found is None else int(found[0])


NOTHING = Statistics({})


def add(first: Statistics, second: Statistics) -> Statistics:
    """The exact sum; UpdateError where a value could leave int64, or a cell has two lengths."""
    return _combined(first, second, 1)


def difference(total: Statistics, part: Statistics) -> Statistics:
    """The change that leads from `part` to `total`: what a device sends. Errors as `add`."""
    return _combined(total, part, -1)


def subtract(total: Statistics, part: Statistics) -> Statistics:
    """The total as if the part's samples had never been in it; UpdateError if they cannot all have been."""
    rest = difference(total, part)
    try:
        check_total(rest)
    except UpdateError as problem:
        what = f"takes away samples that were never in it: {problem.what}"
        raise UpdateError(what, code="malformed", where=problem.where) from None
    return rest


def merge(parts: Iterable[Statistics]) -> Statistics:
    """The sum of any number of parts, the same in any order. Errors as `add`."""
    return reduce(add, parts, NOTHING)


def _combined(first: Statistics, second: Statistics, sign: int) -> Statistics:
    cells = dict(first.cells)
    for cell, values in second.cells.items():
        before = cells.get(cell)
        if before is not None and len(before) != len(values):
            what = f"{len(values)} values do not fit {len(before)}"
            raise UpdateError(what, code="wrong_shape", where=str(cell))
        result = sign * values if before is None else before + sign * values
        if np.abs(result).max(initial=0) > CHANGE_LIMIT or np.abs(values).max(initial=0) > CHANGE_LIMIT:
            raise UpdateError("the sum passes its limit", code="too_large", where=str(cell))
        if result.any():
            cells[cell] = result
        else:
            cells.pop(cell, None)
    return Statistics(cells)


def check_total(total: Statistics) -> None:
    """Checks what any samples' sums keep: counts, lengths and the bounds of norm-1 vectors; UpdateError else."""
    for cell, values in total:
        if cell.kind == "count":
            _check_count(total, cell, int(values[0]))
        else:
            _check_bound(total, cell, values)


def _check_count(total: Statistics, cell: Cell, count: int) -> None:
    if not 0 <= count <= SAMPLE_LIMIT:
        raise UpdateError(f"{count:,} samples are not 0 to {SAMPLE_LIMIT:,}", code="malformed", where=str(cell))
    if any(count > total.count(cell.task, cell.row, block, block) for block in cell.blocks):
        raise UpdateError("more samples have both blocks than one", code="malformed", where=str(cell))


def _check_bound(total: Statistics, cell: Cell, values: np.ndarray) -> None:
    """Refuses a sum that its count of samples cannot reach; compared as floats, with room for their rounding."""
    first, last = cell.blocks[0], cell.blocks[-1]
    rows = [cell.row] if cell.row or not (named := total.rows(cell.task)) or "" in named else named
    most = sum(total.count(cell.task, row, first, last) for row in rows)
    if cell.kind == "number":
        reached = max(abs(float(values[0])) / (NUMBER_LIMIT * ONE), float(values[1]) / (NUMBER_LIMIT * ONE) ** 2)
        reached = np.inf if values[1] < 0 else reached
    elif cell.kind == "moment" and first == last:
        squares = values[diagonal(len(values))].astype(np.float64)
        reached = np.inf if squares.min() < 0 else float(squares.sum()) / ONE**2
    else:
        unit = {"vector": ONE, "moment": ONE**2, "product": NUMBER_LIMIT * ONE**2}[cell.kind]
        reached = float(np.linalg.norm(values.astype(np.float64))) / unit
    if reached > most * (1 + 1e-9):
        what = f"no {most:,} samples can have a sum of {reached:,.3f}"
        raise UpdateError(what, code="too_large", where=str(cell))


def width_of_triangle(length: int) -> int:
    """The d of an upper triangle of d (d + 1) / 2 values; UpdateError where there is none."""
    width = int((8 * length + 1) ** 0.5 - 1) // 2
    if width * (width + 1) // 2 != length:
        raise UpdateError(f"{length} values are no triangle", code="wrong_shape")
    return width


def square(triangle: np.ndarray) -> np.ndarray:
    """The symmetric float64 [d, d] of its upper triangle row by row; UpdateError where it is none."""
    width = width_of_triangle(len(triangle))
    full = np.zeros((width, width))
    full[np.triu_indices(width)] = triangle
    return full + np.triu(full, 1).T


def diagonal(length: int) -> np.ndarray:
    """Where the diagonal stands in an upper triangle of so many values, row by row."""
    width = width_of_triangle(length)
    return np.cumsum([0, *range(width, 1, -1)])
