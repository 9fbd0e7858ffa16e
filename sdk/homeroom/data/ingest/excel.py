"""Excel workbooks (.xlsx): the cells of the one sheet that holds any, by openpyxl (extra `sheets`)."""

from __future__ import annotations

import datetime
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from xml.etree import ElementTree

from homeroom.data.preprocess.file_kind import OLD_OFFICE_MAGIC
from homeroom.errors import InputError, MissingExtraError
from homeroom.system.files import open_below
from homeroom.system.installation import how_to_install

Cell = bool | int | float | str | None
WHOLE_LIMIT = 2**53  # beyond it a float is no exact number
UNPACKED_LIMIT_BYTES = 256 << 20
LITERAL = re.compile(r'"[^"]*"|\\.')  # of a number format: shown as it stands
EMPTY_ROWS_LIMIT, COLUMNS_LIMIT = 10_000, 1_000
SHEET_PART = re.compile(r"xl/worksheets/[^/]+\.xml")
TRUE = ("1", "true")
SIGN = r'(?:"[^"]*"|\\.|-)'
AS_SEEN = re.compile(f"({SIGN}*)(0+(?:{SIGN}+0+)*)")  # a number format: 007, p-007, 12-345
CONTENT = {"v", "f", "is"}  # what a cell that is not empty holds


@dataclass
class Workbook:
    """What openpyxl does not tell of a workbook that it reads row by row.

    last: the last row that holds cells, from 1. hidden: how many rows with cells are hidden, as by a filter.
    merged: (first row, range) of the cells that were merged. hidden_columns: letters of those that hold cells.
    """

    last: int
    hidden: int
    merged: list[tuple[int, str]]
    hidden_columns: list[str]


def look_into(file_path: str) -> Workbook:
    """Looks through the sheets of a workbook; runs in the decoder.

    Raises InputError where it is none, or has a cell so far off that the empty ones before it would fill the memory.
    """
    path, book = Path(file_path), Workbook(0, 0, [], [])
    with _opened(path) as file:
        if file.read(len(OLD_OFFICE_MAGIC)) == OLD_OFFICE_MAGIC:
            what = "is protected with a password, or of Excel before 2007"
            raise InputError(what, where=path.name, remedy="save it as .xlsx without a password, or as CSV UTF-8")
    with _opened(path) as file, zipfile.ZipFile(file) as archive:
        if sum(part.file_size for part in archive.infolist()) > UNPACKED_LIMIT_BYTES:
            what = f"holds more than {UNPACKED_LIMIT_BYTES >> 20} MB"
            raise InputError(what, where=path.name, remedy="save it as CSV UTF-8, in parts")
        for name in filter(SHEET_PART.fullmatch, archive.namelist()):
            with archive.open(name) as part:
                _look_into_sheet(part, path.name, book)
    return book


def _look_into_sheet(part: IO[bytes], name: str, book: Workbook) -> None:
    number, last, merged = 0, 0, list[tuple[int, str]]()
    hidden, used = list[range](), set[int]()
    for _, element in ElementTree.iterparse(part):
        tag = element.tag.rpartition("}")[2]
        if tag == "mergeCell":
            merged.append((int(re.findall(r"\d+", element.get("ref", ""))[0]), element.get("ref", "")))
        if tag == "col" and element.get("hidden") in TRUE:
            hidden.append(range(int(element.get("min", 0)), int(element.get("max", 0)) + 1))
        if tag != "row":
            continue
        number = int(float(element.get("r", number + 1)))
        filled = [cell for cell in element if any(child.tag.rpartition("}")[2] in CONTENT for child in cell)]
        if filled:
            if number - last > EMPTY_ROWS_LIMIT or _column_of(filled[-1].get("r", "")) > COLUMNS_LIMIT:
                what = f"has a cell beyond {EMPTY_ROWS_LIMIT:,} empty rows, or {COLUMNS_LIMIT:,} columns"
                raise InputError(what, where=f"{name} line {number}", remedy="delete it, or save it as CSV UTF-8")
            last = number
            used |= {_column_of(cell.get("r", "")) for cell in filled}
            book.hidden += element.get("hidden") in TRUE
        element.clear()
    if last:
        book.last, book.merged = max(book.last, last), [*book.merged, *merged]
        columns = sorted(column for column in used if any(column in span for span in hidden))
        book.hidden_columns += map(_letters_of, columns)


def _column_of(reference: str) -> int:
    """The column of a reference such as AB12, from 1; 0 where there is none."""
    number = 0
    for letter in re.match(r"[A-Za-z]*", reference)[0].upper():  # type: ignore[index]  # it matches always
        number = 26 * number + ord(letter) - 64
    return number


def _letters_of(column: int) -> str:
    """The letters of a column from 1 on, such as AB of 28."""
    above, letter = divmod(column - 1, 26)
    return (_letters_of(above) if above else "") + chr(65 + letter)


def read_excel(file_path: str, last: int) -> Iterator[tuple[int, list[Cell]]]:
    """Yields the number and the cells of each row; runs in the decoder. A formula is its value as last computed.

    Raises InputError where it is no workbook, several of its sheets hold cells, or a formula was never computed.

    last: the last row that is read, as `look_into` told.
    """
    path = Path(file_path)
    try:
        import openpyxl
    except ModuleNotFoundError:
        raise MissingExtraError(
            "Excel files are read with the extra `sheets`",
            where=path.name,
            remedy=f"{how_to_install('sheets')}, or save it as CSV UTF-8",
        ) from None
    with _opened(path) as file:
        values = openpyxl.load_workbook(file, read_only=True, data_only=True)
        formulas = openpyxl.load_workbook(file, read_only=True, data_only=False)
        filled = [sheet for sheet in values.worksheets if any(map(any, _rows(sheet, last)))]
        if len(filled) > 1:
            names = ", ".join(f"{s.title} (hidden)" if s.sheet_state != "visible" else s.title for s in filled)
            remedy = "save the one that is meant as a file of its own"
            raise InputError(f"has several sheets: {names}", where=path.name, remedy=remedy)
        for sheet in filled:
            pairs = zip(_rows(sheet, last, _shown), _rows(formulas[sheet.title], last), strict=True)
            for number, (cells, sources) in enumerate(pairs, 1):
                yield number, [_cell(*pair, path.name, number) for pair in zip(cells, sources, strict=True)]


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """A workbook's file; whatever is wrong with it is raised as an InputError."""
    try:
        with open_below(path.parent, path.name) as file:
            yield file
    except OSError as problem:
        raise InputError(f"cannot be read: {problem.strerror or problem}", where=str(path)) from None
    except InputError:
        raise
    except Exception as problem:  # openpyxl passes on whatever its parsers raise
        what = f"is not a workbook that can be read: {type(problem).__name__}"
        if _has_charts(path):
            what = "cannot be read because of a sheet that is a chart"
        remedy = "save the sheet with the samples as CSV UTF-8"
        raise InputError(what, where=path.name, remedy=remedy) from None


def _has_charts(path: Path) -> bool:
    try:
        with open_below(path.parent, path.name) as file, zipfile.ZipFile(file) as archive:
            return any(name.startswith("xl/chartsheets/") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def _rows(sheet: Any, last: int, read: Callable[[Any], Any] = lambda cell: cell.value) -> Iterator[tuple[Any, ...]]:
    """The rows of a sheet up to the last that holds cells, each as far as its own cells go."""
    sheet.reset_dimensions()
    for row in sheet.iter_rows(max_row=max(last, 1)):
        yield tuple(map(read, row))


def _shown(cell: Any) -> Any:
    """The value of a cell as a person sees it, where its format adds to it: 007 or p-7 of 7, and 45% of 0.45.

    With three digits behind the point another is written, since 1.125 could be a thousand in a sheet with commas.
    """
    value, number_format = cell.value, getattr(cell, "number_format", None) or ""
    if type(value) is int and value >= 0 and (parts := AS_SEEN.fullmatch(number_format)):
        before, places = _signs(parts[1]), parts[2]
        return _as_seen(value, before, places) if len(places) > 1 or _names(before) else value
    shown = LITERAL.sub("", number_format)
    if "%" not in shown or isinstance(value, bool) or not isinstance(value, int | float):
        return value
    whole, point, part = f"{value * 100:.12f}".rstrip("0").rstrip(".").partition(".")
    return f"{whole}{point}{part}{'0' * (len(part) == 3)}%"


def _as_seen(value: int, before: str, places: str) -> str:
    """A number with what its format writes before it and between its digits; the first place takes what is left."""
    first, *rest = re.findall(f"{SIGN}+|0+", places)
    digits, written = str(value).zfill(len(first) + sum(map(len, rest[1::2]))), ""
    for sign, zeros in zip(rest[-2::-2], rest[::-2], strict=True):
        digits, written = digits[: -len(zeros)], _signs(sign) + digits[-len(zeros) :] + written
    return before + digits + written


def _signs(literals: str) -> str:
    """What literals of a number format show."""
    return re.sub(r'"([^"]*)"|\\(.)', lambda one: one[1] if one[2] is None else one[2], literals)


def _names(before: str) -> bool:
    """Whether what a format writes before a number makes a name of it, as p- does; EUR and a blank do not."""
    return any(map(str.isalpha, before)) and not before[-1].isspace()


def _cell(value: Any, source: Any, name: str, number: int) -> Cell:
    if value is None and isinstance(source, str) and source.startswith("="):
        raise InputError(
            f"the formula {source} was never computed", where=f"{name} line {number}", remedy="save it once in Excel"
        )
    if isinstance(value, datetime.datetime):
        return value.date().isoformat() if value.time() == datetime.time() else value.isoformat(" ")
    if isinstance(value, float) and value.is_integer() and abs(value) < WHOLE_LIMIT:
        return int(value)
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
