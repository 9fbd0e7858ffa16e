"""Sheets: rows of .csv, .tsv and .xlsx files, as office programs write them.

The separator is the one with which the first line names the most columns that the bundle knows.
"""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from homeroom.data.decoder.client import stream
from homeroom.data.ingest.intake import Intake
from homeroom.data.tasks.base import close_names
from homeroom.errors import InputError
from homeroom.system.files import open_below

SHEET_SUFFIXES = (".csv", ".tsv", ".xlsx", ".xlsm")
SEPARATORS = (",", ";", "\t")
CELL_LIMIT_CHARACTERS = 1 << 20
ROW_LIMIT_CHARACTERS = 16 << 20
TITLE_ROWS = 10  # that may stand above the names of the columns
ZIP_MAGIC, OLD_OFFICE_MAGIC = b"PK\x03\x04", b"\xd0\xcf\x11\xe0"

Row = dict[str, Any]  # column -> cell, without the empty ones


@dataclass(frozen=True)
class ColumnNames:
    """Names of columns that a bundle knows. given: what columns of other names are, as a person said."""

    names: Sequence[str]
    given: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def _by_folded(self) -> dict[str, str]:
        return {name.casefold(): name for name in reversed(self.names)} | {name: name for name in self.names}

    def find(self, name: str) -> str | None:
        """The bundle's name for a column, in any case of letters; None if it has none."""
        name = self.given.get(name, name)
        return self._by_folded.get(name) or self._by_folded.get(name.casefold())

    def suggest(self, unknown: Sequence[str]) -> str:
        """What could be known by columns that are not known."""
        close = [f"{near} for {name}" for name in unknown for near in close_names(name, self.names)[:1]]
        return f"did you mean {', '.join(close)}? " if close else ""


def read_rows(path: Path, known: ColumnNames, intake: Intake) -> Iterator[tuple[Row, str]]:
    """Yields the rows of a sheet, and the place of each; rows that are wholly empty are passed over.

    Raises InputError where it is no sheet, or its columns are not named, or not known.
    """
    known = replace(known, given=intake.options.columns)
    lines = read_lines(path, known)
    names, title = _names_of(lines, path.name, known)
    if title:
        intake.note(f"{path.name}: lines above the names of the columns were passed over: {title}")
    columns = _columns_of(names, path.name, known, intake.options.ignore)
    for line, cells in lines:
        where = f"{path.name} line {line}"
        if not any(_filled(cell) for cell in cells):
            continue
        if any(_filled(cell) for cell in cells[len(columns) :]):
            with intake.row(where, {str(number): cell for number, cell in enumerate(cells)}):
                raise InputError(f"has more cells than the {len(columns)} columns", where=where)
            continue
        yield {name: cell for name, cell in zip(columns, cells, strict=False) if name and _filled(cell)}, where


def read_lines(path: Path, known: ColumnNames) -> Iterator[tuple[int, list[Any]]]:
    """Yields the number and the cells of each line of a sheet, read in the decoder."""
    if path.suffix.lower() in (".xlsx", ".xlsm"):
        from homeroom.data.ingest.excel import read_excel

        yield from stream(read_excel, str(path), where=path.name)
    else:
        yield from stream(read_text, str(path), known, where=path.name)


def column_name(cell: Any) -> str:
    """A column's name, in one line, as forms write it in several."""
    return "" if cell is None else " ".join(str(cell).split())


def _filled(cell: Any) -> bool:
    return cell is not None and cell != "" and not (isinstance(cell, str) and not cell.strip())


def read_text(file_path: str, known: ColumnNames) -> Iterator[tuple[int, list[str]]]:
    """Yields the number and the cells of each row; runs in the decoder. Raises InputError where it is no sheet."""
    path = Path(file_path)
    csv.field_size_limit(CELL_LIMIT_CHARACTERS)
    try:
        with io.TextIOWrapper(open_below(path.parent, path.name), encoding=_encoding_of(path), newline="") as file:
            lines = _bounded_lines(file, path.name)
            first = next(lines, "")
            if first.strip().casefold().startswith("sep=") and len(first.strip()) == 5:
                separator, ahead = first.strip()[4], []
            else:
                separator, ahead = _separator_of(first, path, known), [first]
            skipped = 1 - len(ahead)
            rows = csv.reader(itertools.chain(ahead, lines), delimiter=separator, strict=True)
            for cells in rows:
                yield rows.line_num + skipped, cells
    except UnicodeDecodeError:
        raise InputError("is not UTF-8 text", where=path.name, remedy="save it as CSV UTF-8") from None
    except csv.Error as problem:
        raise InputError(f"is not valid CSV: {problem}", where=path.name) from None
    except OSError as problem:
        raise InputError(f"cannot be read: {problem.strerror}", where=str(path)) from None


def _encoding_of(path: Path) -> str:
    with open_below(path.parent, path.name) as file:
        start = file.read(4)
    if start in (ZIP_MAGIC, OLD_OFFICE_MAGIC):
        remedy = "save it as CSV UTF-8, or give it its own ending: .xlsx"
        raise InputError("is an Excel or Office file, although it is called a text", where=path.name, remedy=remedy)
    return "utf-16" if start[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"


def _separator_of(line: str, path: Path, known: ColumnNames) -> str:
    """The separator with which the line names the most known columns, else the most columns."""

    def score(separator: str) -> tuple[int, int]:
        names = next(csv.reader([line], delimiter=separator), [])
        return sum(known.find(name.strip()) is not None for name in names), len(names)

    if path.suffix.lower() == ".tsv":
        return "\t"
    return max(SEPARATORS, key=score)


def _bounded_lines(file: io.TextIOWrapper, name: str) -> Iterator[str]:
    while line := file.readline(ROW_LIMIT_CHARACTERS + 1):
        if len(line) > ROW_LIMIT_CHARACTERS:
            raise InputError(f"has a line of more than {ROW_LIMIT_CHARACTERS:,} characters", where=name)
        yield line


def _names_of(lines: Iterator[tuple[int, Sequence[Any]]], file: str, known: ColumnNames) -> tuple[list[str], str]:
    """The names of the columns: the first line that has a known one, else the first; and what stands above it."""
    above: list[list[str]] = []
    for _, cells in itertools.islice(lines, TITLE_ROWS):
        names = [column_name(cell) for cell in cells]
        if any(known.find(name) for name in names if name):
            return names, " / ".join(" ".join(filter(None, row)) for row in above if any(row))
        above.append(names)
    first = next((row for row in above if any(row)), None)
    if first is None:
        raise InputError("needs a first line that names each column, once", where=file)
    what = f"names no column of the bundle: {', '.join(filter(None, first))}"
    remedy = known.suggest(first) + 'else say what they are: --map "Which animal?=label.category"'
    raise InputError(what, where=file, remedy=remedy)


def _columns_of(names: Sequence[str], file: str, known: ColumnNames, ignore: Collection[str]) -> list[str | None]:
    """The bundle's name for each column; None for those that are ignored, and for a column without a name."""
    unknown = [name for name in names if name and name not in ignore and known.find(name) is None]
    if unknown:
        listed = ",".join(f'"{name}"' if "," in name else name for name in unknown)
        what = f"the bundle has no {'column' if len(unknown) == 1 else 'columns'} {', '.join(map(repr, unknown))}"
        remedy = f"{known.suggest(unknown)}say what it is with --map, or pass it over: --ignore {listed!r}"
        raise InputError(what, where=file, remedy=remedy)
    columns = [None if not name or name in ignore else known.find(name) for name in names]
    named = [name for name in columns if name]
    if len(set(named)) != len(named):
        raise InputError("needs a first line that names each column, once", where=file)
    return columns
