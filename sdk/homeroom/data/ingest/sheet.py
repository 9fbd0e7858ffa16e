"""Sheets: rows of .csv, .tsv and .xlsx files, as office programs write them.

The separator is the one with which the first line names the most columns that the bundle knows.
"""

from __future__ import annotations

import codecs
import csv
import io
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from homeroom.data.cells import is_filled
from homeroom.data.decoder.client import run, stream
from homeroom.data.ingest.intake import Intake
from homeroom.data.ingest.summary_rows import Summary, find_summary
from homeroom.data.preprocess.file_kind import OLD_OFFICE_MAGIC, ZIP_MAGIC
from homeroom.data.samples import DEFAULT_SUBJECT
from homeroom.data.tasks.base import close_names
from homeroom.errors import InputError
from homeroom.system.files import open_below
from homeroom.system.printable import counted

if TYPE_CHECKING:
    from homeroom.data.ingest.excel import Workbook

SHEET_SUFFIXES = (".csv", ".tsv", ".xlsx", ".xlsm")
SEPARATORS = (",", ";", "\t")
CELL_LIMIT_CHARACTERS = 1 << 20
ROW_LIMIT_CHARACTERS = 16 << 20
TITLE_ROWS = 10  # that may stand above the names of the columns
UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")

UNNAMED = "column "  # and its number, in place of the name of a column without one
BY_NAME = "name it as the bundle does"
WHY_COLUMN = "why"  # of a sheet of rows that were not taken

Row = dict[str, Any]  # column -> cell, without the empty ones
Line = tuple[int, list[Any]]  # number, cells
NO_ROW: tuple[int, list[Any], bool] = (0, [], False)


@dataclass(frozen=True)
class Header:
    """The names of a sheet's columns, those without one by their number; its line, and what stands above it."""

    names: list[str]
    line: int
    above: str


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
    if (book := workbook_of(path)) is not None and book.hidden:
        intake.note(f"{path.name}: {counted(book.hidden, 'hidden row')} read too")
    if book is not None and book.hidden_columns:
        intake.note(f"{path.name}: hidden columns were read too: {', '.join(book.hidden_columns)}")
    header, lines = _read_header(read_lines(path, known, book), path.name, known, intake)
    names = header.names
    if header.above:
        intake.note(f"{path.name}: lines above the names of the columns were passed over: {header.above}")
    if below := [cells for first, cells in (book.merged if book else ()) if first > header.line]:
        what = f"cells are merged, so that only the first has a value: {', '.join(below[:5])}"
        raise InputError(what, where=path.name, remedy="unmerge them, and fill in each row")
    intake.columns.update(names)
    columns, nobodys, fewest = _columns_of(names, path.name, known, intake), 0, 0
    intake.header = tuple(filter(None, columns))
    for (line, cells, is_apart), following in itertools.pairwise(itertools.chain(_filled(lines), [NO_ROW])):
        where = f"{path.name} line {line}"
        if summary := find_summary(columns, cells, is_last=following is NO_ROW):
            _leave_out(summary, where, dict(zip(names, cells, strict=False)), intake)
            continue
        number = sum(map(is_filled, cells))
        if number == 1 < fewest and is_apart and (following is NO_ROW or following[2]):
            with intake.row(where, dict(zip(names, cells, strict=False))):
                note = next(cell for cell in cells if is_filled(cell))
                remedy = "delete it; if it is a sample, put it right below the others"
                raise InputError(f"{str(note)[:40]!r} alone below an empty row looks like a note", remedy=remedy)
            continue
        fewest = min(fewest or number, number)
        if any(is_filled(cell) for cell in cells[len(columns) :]):
            with intake.row(where, dict(itertools.zip_longest(names, cells[: len(names)], fillvalue=""))):
                raise InputError(f"has more cells than the {len(columns)} columns", where=where)
            continue
        row = _row_of(names, columns, cells, where, intake)
        nobodys += "subject" in columns and "subject" not in row
        yield row, where
    if nobodys:
        intake.note(f"{path.name}: {counted(nobodys, 'row')} without a subject held as {DEFAULT_SUBJECT}")


def _filled(lines: Iterator[Line]) -> Iterator[tuple[int, list[Any], bool]]:
    """The lines that hold anything, and whether an empty one stands above each."""
    is_apart = False
    for line, cells in lines:
        if any(map(is_filled, cells)):
            yield line, cells, is_apart
        is_apart = not any(map(is_filled, cells))


def _leave_out(summary: Summary, where: str, row: Row, intake: Intake) -> None:
    """Says that a row of averages or sums is passed over; where it could be a sample, that is a problem of the row."""
    if summary.is_proved:
        intake.note(f"{where}: a row of averages or sums was passed over: {summary.cell}")
        return
    with intake.row(where, row):
        remedy = "delete it; if it is a sample, put it above another row"
        raise InputError(f"{summary.cell!r} looks like a row of averages or sums", where=where, remedy=remedy)


def _row_of(
    names: Sequence[str], columns: Sequence[str | None], cells: Sequence[Any], where: str, intake: Intake
) -> Row:
    row: Row = {}
    for name, column, cell in zip(names, columns, cells, strict=False):
        if column and is_filled(cell):
            row[column] = cell
        elif name.startswith(UNNAMED) and name not in intake.options.ignore and is_filled(cell):
            what = f"a cell stands in {name}, which has no name"
            remedy = intake.advise("name it", f"--ignore {name!r}")
            raise InputError(what, where=where, remedy=remedy)
    return row


def is_workbook(path: Path) -> bool:
    """Whether a sheet's cells have types of their own."""
    return path.suffix.lower() in (".xlsx", ".xlsm")


def workbook_of(path: Path) -> Workbook | None:
    """What a workbook holds; None of another kind of sheet."""
    if not is_workbook(path):
        return None
    from homeroom.data.ingest.excel import look_into

    return run(look_into, path, where=path.name)


def read_lines(path: Path, known: ColumnNames, book: Workbook | None) -> Iterator[Line]:
    """Yields the number and the cells of each line of a sheet, read in the decoder. book: as of `workbook_of`."""
    if book is not None:
        from homeroom.data.ingest.excel import read_excel

        yield from stream(read_excel, path, book.last, where=path.name)
    else:
        yield from stream(read_text, path, known, where=path.name)


def column_name(cell: Any) -> str:
    """A column's name, in one line, as forms write it in several."""
    return "" if cell is None else " ".join(str(cell).split())


def read_text(file_path: str, known: ColumnNames) -> Iterator[tuple[int, list[str]]]:
    """Yields the number and the cells of each row; runs in the decoder. Raises InputError where it is no sheet."""
    path, first_line = Path(file_path), 1  # of the row that is read
    csv.field_size_limit(CELL_LIMIT_CHARACTERS)
    try:
        with io.TextIOWrapper(open_below(path.parent, path.name), encoding=_encoding_of(path), newline="") as file:
            lines = _bounded_lines(file, path.name)
            first = next(lines, "")
            stated = first.strip().strip('"')
            if stated.casefold().startswith("sep=") and len(stated) == 5:
                separator, ahead = stated[4], []
            else:
                separator, ahead = _separator_of(first, path, known), [first]
            skipped = 1 - len(ahead)
            rows = csv.reader(itertools.chain(ahead, lines), delimiter=separator, strict=True)
            for cells in rows:
                yield rows.line_num + skipped, cells
                first_line = rows.line_num + skipped + 1
    except UnicodeDecodeError:
        raise InputError("is not UTF-8 text", where=path.name, remedy="save it as CSV UTF-8") from None
    except csv.Error as problem:
        what = f"is not valid CSV, from line {first_line} on: {problem}"
        remedy = 'look for a quote (") that is opened and not closed; a quote inside a cell is written twice ("")'
        raise InputError(what, where=path.name, remedy=remedy) from None
    except OSError as problem:
        raise InputError(f"cannot be read: {problem.strerror}", where=str(path)) from None


def _encoding_of(path: Path) -> str:
    with open_below(path.parent, path.name) as file:
        start = file.read(8).removeprefix(codecs.BOM_UTF8)
    if start.startswith((ZIP_MAGIC, OLD_OFFICE_MAGIC)):
        remedy = "save it as CSV UTF-8, or give it its own ending: .xlsx"
        raise InputError("is an Excel or Office file, although it is called a text", where=path.name, remedy=remedy)
    if start.lstrip()[:1] == b"<":
        remedy = "open it in a spreadsheet program, and save it as CSV UTF-8"
        raise InputError("is a web page, although it is called a sheet", where=path.name, remedy=remedy)
    if start.startswith(UTF_16_MARKS):
        return "utf-16"
    return {b"\0": "utf-16-be"}.get(start[:1]) or {b"\0": "utf-16-le"}.get(start[1:2], "utf-8-sig")


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


def _read_header(lines: Iterator[Line], file: str, known: ColumnNames, intake: Intake) -> tuple[Header, Iterator[Line]]:
    """The names of the columns: the line with the most known ones, of the first lines; and the lines below."""
    first = list(itertools.islice(lines, TITLE_ROWS))
    texts = [[column_name(cell) for cell in cells] for _, cells in first]
    counts = [sum(known.find(name) is not None for name in names if name) for names in texts]
    if not any(map(any, texts)):
        raise InputError("needs a first line that names each column, once", where=file)
    at = counts.index(max(counts))
    if not counts[at]:
        named = [name for name in next(filter(any, texts)) if name]
        remedy = known.suggest(named) + intake.advise(BY_NAME, '--map "Which animal?=label.category"')
        raise InputError(f"names no column of the bundle: {', '.join(named)}", where=file, remedy=remedy)
    names = [name or f"{UNNAMED}{number}" for number, name in enumerate(texts[at], 1)]
    above = " / ".join(" ".join(filter(None, row)) for row in texts[:at] if any(row))
    return Header(names, first[at][0], above), itertools.chain(first[at + 1 :], lines)


def _columns_of(names: Sequence[str], file: str, known: ColumnNames, intake: Intake) -> list[str | None]:
    """The bundle's name for each column; None for those that are ignored, and for a column without a name."""
    why = names[-1] == WHY_COLUMN and known.find(WHY_COLUMN) is None
    ignored = {*intake.options.ignore, *(names[-1:] if why else ())}
    if WHY_COLUMN in ignored - intake.options.ignore:
        intake.note(f"{file}: the column {WHY_COLUMN!r} was passed over, of a sheet of rows that were not taken")
    wrong = [name for name in known.given.values() if known.find(name) is None]
    if wrong:
        what = f"--map names what the bundle does not have: {', '.join(map(repr, wrong))}"
        raise InputError(what, where=file, remedy=known.suggest(wrong).strip() or "see `homeroom bundle inspect`")
    unknown = [
        name for name in names if name not in ignored and not name.startswith(UNNAMED) and known.find(name) is None
    ]
    if unknown:
        listed = ",".join(f'"{name}"' if "," in name else name for name in unknown)
        what = f"the bundle has no {'column' if len(unknown) == 1 else 'columns'} {', '.join(map(repr, unknown))}"
        remedy = known.suggest(unknown) + intake.advise(f"{BY_NAME}, or delete it", f"--ignore {listed!r}")
        raise InputError(what, where=file, remedy=remedy)
    columns = [None if name in ignored else known.find(name) for name in names]
    twice = [name for name, number in Counter(filter(None, columns)).items() if number > 1]
    if twice:
        raise InputError(f"names a column twice: {', '.join(twice)}", where=file, remedy="name each column once")
    return columns
