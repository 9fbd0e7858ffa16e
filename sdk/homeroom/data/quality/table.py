"""Quality gate of table rows: a number outside its column's usual range, such as 45 for 0.45.

The model clips it, and would take it for the largest value that it knows.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from homeroom.contract.manifest import Column, TablePreprocess
from homeroom.data.quality.finding import QualityFinding
from homeroom.data.samples import Row


def assess(preprocess: TablePreprocess, row: Row) -> QualityFinding | None:
    """Returns why a row is poor, or None."""
    cells = unusual_cells(preprocess, row)
    return QualityFinding(", ".join(cells.values()), empty=True) if cells else None


def unusual_cells(preprocess: TablePreprocess, row: Mapping[str, object]) -> dict[str, str]:
    """Sentences by column, for each number outside its column's usual range."""
    return {
        column.name: _sentence(column, cell)
        for column in preprocess.columns
        if not column.categories and isinstance(cell := row.get(column.name), int | float)
        if not column.usual[0] <= cell <= column.usual[1]
    }


def _sentence(column: Column, cell: float) -> str:
    unit = "" if column.unit is msgspec.UNSET else f" {column.unit}"
    least, largest = column.usual
    return f"{column.name} is {cell:g}{unit}, usual are {least:g} to {largest:g}{unit}"
