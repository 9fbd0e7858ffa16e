"""Cells of a workbook are what a person sees there: percentages as in the same sheet saved as CSV, names as text."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest
import tiny

from homeroom.data.ingest import Intake, read, read_samples
from homeroom.errors import InputError

openpyxl = pytest.importorskip("openpyxl")


def workbook(folder: Path, *cells: tuple[Any, str], column: str = "label.weight") -> Path:
    """A workbook with a cell a row: its value and its number format."""
    book = openpyxl.Workbook()
    book.active.append(["word", column])
    for row, (value, number_format) in enumerate(cells, 2):
        book.active.append([f"word {row}", value])
        book.active.cell(row, 2).number_format = number_format
    book.save(folder / "lesson.xlsx")
    return folder / "lesson.xlsx"


def weights(path: Path) -> list[Any]:
    return [sample.labels["weight"] for sample in read_samples(path, tiny.draft())]


def test_a_percentage_that_is_usual_as_a_share_alone_is_one(tmp_path: Path) -> None:
    cells = [(0.7, "0%"), (0.6125, "0.00%"), (12.5, "0.0"), (45, '0"%"'), (45, "0\\%")]
    assert weights(workbook(tmp_path, *cells)) == pytest.approx([0.7, 0.6125, 12.5, 45, 45])


@pytest.mark.parametrize("value", [0.125, 0.45, 0.01125])
def test_a_percentage_that_is_usual_as_both_is_asked_about(value: float, tmp_path: Path) -> None:
    path = workbook(tmp_path, (value, "0.0%"), ("12,5", "@"))
    with pytest.raises(InputError, match="could be") as problem:
        weights(path)
    assert f"{value:g} or {100 * value:g}" in problem.value.what


def test_a_percentage_proves_no_decimal_point(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'1\.250' could be"):
        weights(workbook(tmp_path, (0.6125, "0.00%"), ("1.250", "@")))


def test_as_a_text_it_is_what_is_seen(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    book.active.append(["word", "label.category"])
    book.active.append([0.45, "cat"])
    book.active["A2"].number_format = "0%"
    book.save(tmp_path / "lesson.xlsx")
    (sample,) = read_samples(tmp_path / "lesson.xlsx", tiny.draft())
    assert sample.inputs["word"] == ["45%"]


@pytest.mark.parametrize(("cell", "words"), [(datetime.date(2026, 1, 7), "is a day"), (True, "is a yes or no")])
def test_a_name_of_which_a_spreadsheet_made_another_type_is_refused(cell: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words) as refused:
        list(read_samples(workbook(tmp_path, (cell, "yyyy-mm-dd"), column="subject"), tiny.draft()))
    assert "as text" in (refused.value.remedy or "")


def test_a_number_that_is_shown_with_leading_zeros_is_that_name_and_still_a_number(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    book.active.append(["subject", "word", "label.weight"])
    book.active.append([7, "a cat", 7])
    book.active["A2"].number_format = book.active["C2"].number_format = "000"
    book.save(tmp_path / "lesson.xlsx")
    (sample,) = read_samples(tmp_path / "lesson.xlsx", tiny.draft())
    assert (sample.subject, sample.labels["weight"]) == ("007", 7.0)


@pytest.mark.parametrize(
    ("value", "number_format", "seen"),
    [
        (7, '"p-"000', "p-007"),
        (7, '"p-"0', "p-7"),
        (12345, r"\p\-00-000", "p-12-345"),
        (1234567, '00-0"a0"00', "1234-5a067"),
        (7, '"EUR "0', "7"),
        (7, "0", "7"),
        (7, "General", "7"),
    ],
)
def test_a_name_of_a_number_and_its_format_is_read_as_it_is_seen(
    value: int, number_format: str, seen: str, tmp_path: Path
) -> None:
    (sample,) = read_samples(workbook(tmp_path, (value, number_format), column="subject"), tiny.draft())
    assert sample.subject == seen


@pytest.mark.parametrize(("hidden", "said"), [(["B"], "B"), (["B", "C"], "B, C"), (["Z"], ""), ([], "")])
def test_a_hidden_column_that_was_read_is_named(hidden: list[str], said: str, tmp_path: Path) -> None:
    path = workbook(tmp_path, (12, "0"))
    book = openpyxl.load_workbook(path)
    book.active["C1"], book.active["C2"] = "label.category", "cat"
    for letter in hidden:
        book.active.column_dimensions[letter].hidden = True
    book.save(path)
    intake = Intake()
    assert len(list(read([path], tiny.draft(), intake))) == 1
    assert [note for note in intake.notes if "hidden" in note] == [
        f"lesson.xlsx: hidden columns were read too: {said}"
    ] * bool(said)
