"""What could be read in two ways is asked about, wherever it stands: numbers as text, notes below a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny

from homeroom import Sample
from homeroom.data.ingest import Intake, ReadOptions, read
from homeroom.data.tasks import kind_of
from homeroom.data.validation import resolve
from homeroom.errors import InputError


def read_text(folder: Path, text: str) -> list[Any]:
    (folder / "lesson.csv").write_text(text)
    return list(read([folder / "lesson.csv"], tiny.draft(), Intake(ReadOptions(), adding=True)))


@pytest.mark.parametrize(("cell", "number"), [("2,5", 2.5), ("1.250,5", 1250.5), (1.25, 1.25), ("12.5", 12.5), (3, 3)])
def test_a_number_as_text_is_read_as_in_a_sheet(cell: object, number: float) -> None:
    (facts,) = resolve(Sample(facts={"kilograms": cell}), tiny.draft()).inputs["facts"]
    assert facts == {"kilograms": number}


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        ("1.250", r"kilograms: '1\.250' could be 1\.25 or 1250"),
        ("-1.250", r"could be -1\.25 or -1250 \(write -1\.25 or -1250"),
        ("123.456", r"could be 123\.456 or 123456"),
        ("1_000", "is not a number"),
        (True, "is not a number"),
    ],
)
def test_a_text_that_is_two_numbers_or_none_is_refused(cell: object, says: str) -> None:
    with pytest.raises(InputError, match=says):
        resolve(Sample(facts={"kilograms": cell}), tiny.draft())


def test_a_number_on_the_page_that_could_be_two_is_asked_about() -> None:
    task = next(task for task in tiny.draft().tasks if task.kind == "regression")
    assert kind_of(task).parse("4,5") == 4.5
    with pytest.raises(InputError, match=r"could be 1\.25 or 1250"):
        kind_of(task).parse("1.250")


def test_a_line_alone_below_the_table_is_no_sample(tmp_path: Path) -> None:
    table = "word,label.category\na cat,cat\na dog,dog\n"
    with pytest.raises(InputError, match=r"line 5: 'Stand: 3\. Mai' alone below an empty row looks like a note"):
        read_text(tmp_path, table + "\nStand: 3. Mai\n")
    assert len(read_text(tmp_path, table + "a bird\n")) == 3, "a sample without a label"
    assert len(read_text(tmp_path, table + "\na bird,bird\n")) == 3
    assert len(read_text(tmp_path, table + "\na bird\na fish\n")) == 4, "a block of two is no note"
    assert len(read_text(tmp_path, "word,label.category\n\na bird\n\na cat\n")) == 2, "where no row has more"


def test_a_quote_that_is_never_closed_is_found(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"not valid CSV, from line 3 on: .*look for a quote"):
        read_text(tmp_path, 'word,label.category\na cat,cat\n"a dog,dog\na bird,bird\n')


def test_a_workbook_of_charts_alone_says_what_to_save(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.create_chartsheet("Chart")
    book.remove(book["Sheet"])
    book.save(tmp_path / "chart.xlsx")
    with pytest.raises(InputError, match=r"a sheet that is a chart \(save the sheet with the samples as CSV"):
        list(read([tmp_path / "chart.xlsx"], tiny.draft(), Intake(ReadOptions(), adding=True)))
