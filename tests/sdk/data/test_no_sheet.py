"""Files that are called a sheet and are none, and formulas: those that were computed are numbers."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest
import tiny

from homeroom.data.ingest import Intake, ReadOptions, read
from homeroom.errors import InputError


def rows_of(path: Path) -> list[Any]:
    return list(read([path], tiny.draft(), Intake(ReadOptions())))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"PK\x03\x04" + bytes(60), "is an Excel or Office file"),
        (b"\xd0\xcf\x11\xe0" + bytes(60), "is an Excel or Office file"),
        (b"\n\n , ,\n", "needs a first line that names each column"),
        (b"", "needs a first line that names each column"),
        (b"one,two\n1,2\n", "names no column of the bundle"),
    ],
)
def test_what_is_no_sheet_says_why(content: bytes, why: str, tmp_path: Path) -> None:
    (tmp_path / "lesson.csv").write_bytes(content)
    with pytest.raises(InputError, match=why):
        rows_of(tmp_path / "lesson.csv")


def test_a_formula_that_was_computed_is_its_value(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book, path = openpyxl.Workbook(), tmp_path / "lesson.xlsx"
    book.active.append(["facts.legs", "facts.kilograms", "label.category"])
    book.active.append(["=2+2", 4.5, "cat"])
    book.save(path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in parts if name.endswith("sheet1.xml"))
    assert b"<f>2+2</f><v></v>" in parts[name] or b"<f>2+2</f><v />" in parts[name]
    parts[name] = parts[name].replace(b"<v></v>", b"<v>4</v>").replace(b"<v />", b"<v>4</v>")
    with zipfile.ZipFile(path, "w") as archive:
        for part, data in parts.items():
            archive.writestr(part, data)
    (sample,) = rows_of(path)
    assert sample.inputs["facts"] == [{"legs": 4.0, "kilograms": 4.5}]
