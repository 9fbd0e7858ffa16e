"""Excel workbooks (.xlsx): the cells of the one sheet that holds any, by openpyxl (extra `sheets`)."""

from __future__ import annotations

import datetime
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from homeroom.errors import InputError, MissingExtraError
from homeroom.system.files import open_below

Cell = bool | int | float | str | None
WHOLE_LIMIT = 2**53  # beyond it a float is no exact number
UNPACKED_LIMIT_BYTES = 256 << 20


def read_excel(file_path: str) -> Iterator[tuple[int, list[Cell]]]:
    """Yields the number and the cells of each row; runs in the decoder. A formula is its value as last computed.

    Raises InputError where it is no workbook, several of its sheets hold cells, or a formula was never computed.
    """
    path = Path(file_path)
    try:
        import openpyxl
    except ModuleNotFoundError:
        raise MissingExtraError(
            "Excel files are read with the extra `sheets`",
            where=path.name,
            remedy="pip install 'homeroom[sheets]', or save it as CSV UTF-8",
        ) from None
    try:
        with open_below(path.parent, path.name) as file:
            _check_size(zipfile.ZipFile(file), path.name)
            values = openpyxl.load_workbook(file, read_only=True, data_only=True)
            formulas = openpyxl.load_workbook(file, read_only=True, data_only=False)
            filled = [sheet for sheet in values.worksheets if any(any(row) for row in sheet.values)]
            if len(filled) > 1:
                names = ", ".join(sheet.title for sheet in filled)
                remedy = "save the one that is meant as a file of its own"
                raise InputError(f"has several sheets: {names}", where=path.name, remedy=remedy)
            for sheet in filled:
                pairs = zip(sheet.values, formulas[sheet.title].values, strict=True)
                for number, (cells, sources) in enumerate(pairs, 1):
                    yield number, [_cell(*pair, path.name, number) for pair in zip(cells, sources, strict=True)]
    except OSError as problem:
        raise InputError(f"cannot be read: {problem.strerror or problem}", where=str(path)) from None
    except InputError:
        raise
    except Exception as problem:  # openpyxl passes on whatever its parsers raise
        what = f"is not a workbook that can be read: {type(problem).__name__}"
        raise InputError(what, where=path.name, remedy="save it as CSV UTF-8") from None


def _check_size(archive: zipfile.ZipFile, name: str) -> None:
    if sum(part.file_size for part in archive.infolist()) > UNPACKED_LIMIT_BYTES:
        what = f"holds more than {UNPACKED_LIMIT_BYTES >> 20} MB"
        raise InputError(what, where=name, remedy="save it as CSV UTF-8, in parts")


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
