"""Pooling: which rows of a task are shared by name, and which only together in one row that has no name.

A row that too few fed is not left out alone: its samples stay in the second moments, and a row that is missing could be
computed from other tasks. So the rows that are not shared by name are added up in the row OTHERS; where too few fed
that, the smallest other row is added to it, until enough have. A block, or a pair of blocks, that too few samples have
is left out whole. The result is again what some samples' sums are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from homeroom.contract.statistics.sums import Cell, Statistics, square, width_of_triangle

OTHERS = "\x00"  # no label is this
POOLED_KINDS = frozenset({"classification", "ordinal"})  # each sample is in one row
WHOLE_KINDS = frozenset({"regression", "choice", "matching"})  # all rows are shared, or none
SHARED_KINDS = POOLED_KINDS | WHOLE_KINDS
RIGHT_ROW = "true"  # of choice and matching: the moments are of its samples

Pair = tuple[str, str]  # of `statistics_id`s, rising; a block with itself too


class Judge(Protocol):
    """Who says what of one task may be shared. pairs: of blocks that are shared."""

    def pair(self, pair: Pair) -> bool:
        """Whether the second moments of a pair of blocks may be."""
        ...

    def single(self, row: str, pairs: frozenset[Pair]) -> bool:
        """Whether a row may be, by its name."""
        ...

    def together(self, rows: frozenset[str], pairs: frozenset[Pair]) -> bool:
        """Whether these rows may be, added up."""
        ...


@dataclass(frozen=True)
class Pooling:
    """What is shared of one task. named: rows by name. pairs: of blocks, a block with itself where it is shared."""

    named: frozenset[str]
    pairs: frozenset[Pair]

    def cell(self, cell: Cell) -> Cell | None:
        """The cell in whose sum this one is shared; None where it is left out."""
        pair = (cell.blocks[0], cell.blocks[-1])
        if pair not in self.pairs:
            return None
        named = cell.kind == "moment" or cell.row in self.named
        return cell if named else Cell(cell.task, cell.kind, OTHERS, cell.blocks)


NOT_SHARED = Pooling(frozenset(), frozenset())


def pairs_of(statistics: Statistics, task: str) -> set[Pair]:
    """The pairs of blocks that samples of a task have."""
    return {(c.blocks[0], c.blocks[1]) for c in statistics.cells if c.task == task and c.kind == "count"}


def plan(kind: str, sizes: Mapping[str, int], pairs: Iterable[Pair], judge: Judge) -> Pooling:
    """What can be shared of a task; nothing where too few fed it.

    kind: of the task. sizes: samples by row.
    """
    pairs = set(pairs)
    blocks = {first for first, last in pairs if first == last and judge.pair((first, last))}
    kept = frozenset(pair for pair in pairs if blocks.issuperset(pair) and judge.pair(pair))
    single = {row for row in sizes if row != OTHERS and judge.single(row, kept)} if kept else set()
    pool = set(sizes) - single
    if kind in WHOLE_KINDS and pool:
        return NOT_SHARED
    while pool and single and not judge.together(frozenset(pool), kept):
        smallest = min(single, key=lambda row: (sizes[row], row))
        single.remove(smallest)
        pool.add(smallest)
    return Pooling(frozenset(single), kept) if single else NOT_SHARED


def pool(statistics: Statistics, poolings: Mapping[str, Pooling]) -> Statistics:
    """The sums as they are shared. poolings: by task; a task without one is left out."""
    cells: dict[Cell, np.ndarray] = {}
    for cell, values in statistics.cells.items():
        shared = poolings[cell.task].cell(cell) if cell.task in poolings else None
        if shared is not None:
            cells[shared] = cells[shared] + values if shared in cells else values
    return Statistics({cell: values for cell, values in cells.items() if values.any()})


def poolings_of(shared: Statistics) -> dict[str, Pooling]:
    """By task what of it is shared in these sums, so that a part of them can be pooled alike."""
    tasks = {cell.task for cell in shared.cells}
    return {task: Pooling(frozenset(shared.rows(task)) - {OTHERS}, frozenset(pairs_of(shared, task))) for task in tasks}


def rows_of_moments(kind: str, rows: Iterable[str]) -> list[str]:
    """The rows whose samples the second moments of a task of this kind are summed over."""
    return [row for row in rows if kind not in ("choice", "matching") or row == RIGHT_ROW]


def positive(statistics: Statistics, task: str, kind: str) -> bool:
    """Whether second moments fit counts and sums, as every set of samples makes them.

    [[N, S], [S^T, Q]] is positive semi-definite, row by row: Q less the sum of S_r S_r^T / N_r is, for each block, and
    for each pair of blocks that the same samples have.
    """
    rows, pairs = rows_of_moments(kind, statistics.rows(task)), pairs_of(statistics, task)
    for first, last in sorted(pairs):
        same = all(
            statistics.count(task, row, first, last) == statistics.count(task, row, block, block)
            for row in rows
            for block in (first, last)
        )
        if same and not _is_positive(statistics, task, rows, (first,) if first == last else (first, last)):
            return False
    return True


def _is_positive(statistics: Statistics, task: str, rows: Iterable[str], blocks: tuple[str, ...]) -> bool:
    cells = statistics.cells
    vectors = [cells.get(Cell(task, "vector", row, (block,))) for row in rows for block in blocks]
    moments = {block: cells.get(Cell(task, "moment", "", (block, block))) for block in blocks}
    triangles = {block: triangle for block, triangle in moments.items() if triangle is not None}
    widths = {block: width_of_triangle(len(triangle)) for block, triangle in triangles.items()}
    if len(widths) < len(blocks):  # moments of zeros: only of vectors of zeros
        return all(vector is None for vector in vectors)
    size = sum(widths.values())
    rest = np.zeros((size, size))
    starts = dict(zip(blocks, (0, widths[blocks[0]]), strict=False))
    for block, start in starts.items():
        rest[start : start + widths[block], start : start + widths[block]] = square(triangles[block])
    if len(blocks) == 2 and (cross := cells.get(Cell(task, "moment", "", blocks))) is not None:
        if len(cross) != widths[blocks[0]] * widths[blocks[1]]:
            return False
        rest[: widths[blocks[0]], widths[blocks[0]] :] = cross.reshape(widths[blocks[0]], -1)
        rest[widths[blocks[0]] :, : widths[blocks[0]]] = rest[: widths[blocks[0]], widths[blocks[0]] :].T
    scale = max(1.0, float(np.trace(rest)))
    for row in rows:
        total = np.zeros(size)
        for block, start in starts.items():
            if (vector := cells.get(Cell(task, "vector", row, (block,)))) is not None:
                if len(vector) != widths[block]:
                    return False
                total[start : start + widths[block]] = vector
        if count := statistics.count(task, row, blocks[0], blocks[0]):
            rest -= np.outer(total, total) / count
        elif total.any():
            return False
    return bool(np.linalg.eigvalsh(rest).min(initial=0) >= -1e-9 * scale)
