"""Files that are called a sheet and are none, and formulas: those that were computed are numbers."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
import tiny

from homeroom.contract.manifest import Manifest
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


def texts_only() -> Manifest:
    """A manifest with one text and nothing else, so that a folder's texts are not asked about."""
    base = tiny.draft()
    slots = tuple(slot for slot in base.slots if slot.name == "word")
    tasks = tuple(msgspec.structs.replace(task, reads=("word",)) for task in base.tasks if task.name == "category")
    return msgspec.structs.replace(base, slots=slots, tasks=tasks)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_text_of_a_folder_is_read_as_an_editor_saves_it(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("el ratón\r\n".encode(encoding))
    (sample,) = read([tmp_path], texts_only())
    assert sample.inputs["word"] == ["el ratón"]


def test_a_text_of_another_encoding_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("el ratón".encode("cp1252"))
    with pytest.raises(InputError, match="is not UTF-8 text") as problem:
        list(read([tmp_path], texts_only()))
    assert problem.value.remedy == "save it as UTF-8"
