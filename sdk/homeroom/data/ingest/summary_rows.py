"""Rows of averages and sums that learning platforms, and people in Excel, write below the samples: no samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from homeroom.data.cells import is_filled
from homeroom.data.samples import PERSONS

OVERALL = frozenset([
    "overall average", "group average", "gesamtdurchschnitt", "moyenne générale", "promedio general",
    "media complessiva",
])  # fmt: skip
WORDS = frozenset([
    "average", "mean", "median", "total", "sum", "durchschnitt", "mittelwert", "summe", "gesamt", "moyenne",
    "somme", "promedio", "suma", "media", "totale", "somma", "média", "soma", "gemiddelde", "totaal",
])  # fmt: skip


@dataclass(frozen=True)
class Summary:
    """The cell by which a row looks like one. is_proved: it is no name of a person, nor an input."""

    cell: str
    is_proved: bool


def find_summary(columns: Sequence[str | None], cells: Sequence[Any], is_last: bool) -> Summary | None:
    """Whether a row is one of averages or sums, by its first filled cell; None where it is a sample.

    columns: the bundle's name for each column, None for those that are passed over. is_last: of the sheet.
    """
    at = next(index for index, cell in enumerate(cells) if is_filled(cell))
    column, cell = columns[at] if at < len(columns) else None, str(cells[at]).strip()
    word = " ".join(cell.split()).rstrip(":").casefold()
    if (word in OVERALL and (column is None or column in PERSONS)) or (word in WORDS and column in PERSONS):
        return Summary(cell, is_proved=True)
    is_input = column is not None and not column.startswith("label")  # a label may be any word
    has_numbers = any(character.isdigit() for cell in cells[at + 1 :] for character in str(cell))
    if is_last and has_numbers and word in OVERALL | WORDS and (is_input or column is None):
        return Summary(cell, is_proved=False)
    return None
