"""Sheets as people have them: separators, numbers, missing cells, days; all problems at once, and the receipt."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
import tiny
from hypothesis import example, given
from hypothesis import strategies as st

from homeroom import Device
from homeroom.cli.main import main
from homeroom.data.cells import Range, decimal_of, parse_day, parse_number
from homeroom.data.ingest import Intake, ReadOptions, read
from homeroom.errors import InputError

USUAL = Range(-30.0, 50.0)
CAT = {"legs": 4.0, "kilograms": 4.5}


def rows_of(path: Path, **options: Any) -> tuple[list[Any], Intake]:
    intake = Intake(ReadOptions(**options), adding=True)
    return list(read([path], tiny.draft(), intake)), intake


def sheet(folder: Path, text: str | bytes, name: str = "lesson.csv") -> Path:
    (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return folder / name


@pytest.mark.parametrize(
    "text",
    [
        "facts.legs,facts.kilograms,label.category\n4,4.5,cat\n",
        "facts.legs;facts.kilograms;label.category\n4;4,5;cat\n",
        "sep=;\r\nfacts.legs;facts.kilograms;label.category\r\n4;4.5;Cat\r\n",
        "facts.legs\tfacts.kilograms\tlabel.category\n4\t4.5\t cat \n",
        "Facts.Legs,Facts.Kilograms,,LABEL.category\n4,4.5,,CAT\n,,,\n",
        "My lesson,,\nfacts.legs,facts.kilograms,label.category\n4,4.5,cat\n",
        "facts.legs;facts.kilograms;label.category\n4;4.5;cat\n".encode("utf-16"),
    ],
)
def test_one_lesson_in_many_spellings_is_one_lesson(text: str | bytes, tmp_path: Path) -> None:
    (sample,), _ = rows_of(sheet(tmp_path, text))
    assert sample.inputs["facts"] == [CAT]
    assert sample.labels == {"category": "cat"}


@pytest.mark.parametrize(
    ("cell", "decimal", "number"),
    [
        ("4.5", "", 4.5),
        ("4,5", "", 4.5),
        ("1.250,5", "", 1250.5),
        ("1,250.5", "", 1250.5),
        ("1 250,5", "", 1250.5),
        ("1'250.5", "", 1250.5),
        ("1.250.000", "", 1_250_000),
        ("0,125", "", 0.125),
        ("1.250", "point", 1.25),
        ("1.250", "comma", 1250),
        ("-3,5", "", -3.5),
        ("\u22123.5", "", -3.5),
        ("1,5E+03", "", 1500),
        ("7", "", 7),
        ("45%", "", 0.45),
    ],
)
def test_a_number_is_read_as_its_country_writes_it(cell: str, decimal: Any, number: float) -> None:
    usual = Range(-1.1, 2.1) if cell.endswith("%") else USUAL
    assert parse_number(cell, decimal, usual) == number


@pytest.mark.parametrize("cell", ["1.250", "1,250", "45%", "4_5", "0x10", "inf", "nan", "1,2.3.4", "", "4 kg", "1..5"])
def test_what_is_no_number_or_two_is_refused(cell: str) -> None:
    with pytest.raises(InputError):
        parse_number(cell, "", USUAL)


@given(st.floats(-1e9, 1e9).map(lambda number: round(number, 4)))
@example(0.125)
@example(-1234567.25)
def test_a_number_written_either_way_is_the_same(number: float) -> None:
    point = f"{number:,.4f}"
    comma = point.replace(",", " ").replace(".", ",")
    for cell in (point, comma):
        assert math.isclose(parse_number(cell, decimal_of([cell]), USUAL), number, abs_tol=1e-9)


def test_the_sheet_itself_tells_its_decimal_separator(tmp_path: Path) -> None:
    path = sheet(tmp_path, "word;facts.kilograms;label.weight\na cat;1,250;4\na dog;2,5;3,25\n")
    (cat, dog), _ = rows_of(path)
    assert (cat.inputs["facts"][0]["kilograms"], dog.labels["weight"]) == (1.25, 3.25)
    alone = sheet(tmp_path, "word;facts.kilograms\na cat;1,250\n")
    with pytest.raises(InputError, match=r"could be 1\.25 or 1250"):
        rows_of(alone)
    (cat,), _ = rows_of(alone, decimal="comma")
    assert cat.inputs["facts"][0]["kilograms"] == 1.25


@pytest.mark.parametrize(
    ("cell", "day"),
    [
        ("2027-07-31", "2027-07-31"),
        ("31.07.2027", "2027-07-31"),
        ("31/7/2027", "2027-07-31"),
        ("7/31/2027", "2027-07-31"),
        ("4.3.2027", "2027-03-04"),
        ("5/5/2027", "2027-05-05"),
    ],
)
def test_a_day_is_read_where_it_is_one(cell: str, day: str) -> None:
    assert parse_day(cell).isoformat() == day


@pytest.mark.parametrize("cell", ["03/04/2027", "32.1.2027", "1.1.27", "46234", "tomorrow", "2027/07/31x"])
def test_a_day_that_could_be_two_is_refused(cell: str) -> None:
    with pytest.raises(InputError, match="2027-07-31"):
        parse_day(cell)


def test_missing_cells_are_counted_and_said(tmp_path: Path) -> None:
    path = sheet(tmp_path, "word,facts.legs,label.category\na cat,n/a,cat\na dog,-,#N/A\n")
    samples, intake = rows_of(path)
    assert [one.labels for one in samples] == [{"category": "cat"}, {}]
    assert dict(intake.missing) == {"n/a": 1, "-": 1, "#N/A": 1}


def test_all_problems_are_named_at_once_and_good_rows_can_be_taken(
    tmp_path: Path, tiny_bundle: tiny.Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"the cat runs {i},cat" for i in range(60)]
    for i in range(0, 50, 2):
        rows[i] = f"the cat runs {i},catt"
    rows[51] = "the dog,dog,and more"
    path = sheet(tmp_path, "word,label.category\n" + "\n".join(rows) + "\n")
    add = ["device", "add", str(tmp_path / "device"), str(path), "--bundle", str(tiny_bundle.path)]
    with pytest.raises(SystemExit):
        main(add)
    said = capsys.readouterr().err
    assert "26 of 60 rows cannot be taken" in said
    assert said.count("no label 'catt' (did you mean cat?)") == 20
    assert "… and 6 more" in said
    assert "by column: labels.category 25, the row 1" in said
    bad = tmp_path / "bad.csv"
    assert main([*add, "--skip-bad", str(bad), "--json"]) == 0
    receipt = json.loads(capsys.readouterr().out)
    assert (receipt["added"], len(receipt["refused"])) == (34, 26)
    with bad.open(encoding="utf-8", newline="") as file:
        written = list(csv.DictReader(file))
    assert written[0]["word"] == "the cat runs 0"
    assert "no label 'catt'" in written[0]["why"]
    with pytest.raises(SystemExit):
        main([*add, "--skip-bad", str(bad)])  # never over a file that is there
    assert "is there already" in capsys.readouterr().err


def test_columns_are_mapped_or_passed_over_by_name(tmp_path: Path) -> None:
    text = '"Timestamp","Which animal?","Word"\n"2026/01/02","cat","a cat"\n'
    with pytest.raises(InputError, match=r"no columns 'Timestamp', 'Which animal\?'"):
        rows_of(sheet(tmp_path, text))
    (sample,), _ = rows_of(
        sheet(tmp_path, text), ignore=frozenset({"Timestamp"}), columns={"Which animal?": "label.category"}
    )
    assert (sample.inputs["word"], sample.labels) == (["a cat"], {"category": "cat"})


def test_the_receipt_names_what_was_and_was_not_taken(tmp_path: Path, tiny_bundle: tiny.Tiny) -> None:
    folder = tmp_path / "lesson"
    for name in ("cat", "catt"):
        (folder / name).mkdir(parents=True)
        (folder / name / "a.png").write_bytes(tiny.samples(1, seed=len(name))[0]["picture"])
    (folder / "plan.docx").write_bytes(b"PK")
    (folder / "cat" / "b.pdf").write_bytes(b"x")
    (folder / "cat" / "Thumbs.db").write_bytes(b"x")
    (folder / "cat" / "c.png").symlink_to(folder / "cat" / "a.png")
    with Device.open(tmp_path / "device", tiny_bundle.path, tiny_bundle.root, threads=1) as device:
        receipt = device.take_in(folder)
        assert (receipt.added, receipt.labelled["category"]) == (2, 1)
        assert sorted(receipt.unread) == ["cat/b.pdf", "cat/c.png", "plan.docx"]
        assert "save the text as .txt" in receipt.unread["cat/b.pdf"]
        assert receipt.notes == ["folder catt: no such label, did you mean cat?"]
        again = device.take_in(folder)
        assert (again.added, again.known) == (0, 2)
        long = sheet(tmp_path, "word\n" + "the cat " * 40 + "\n")
        assert device.take_in(long).longer == {"word": 1}


def test_a_sheet_beside_media_is_used(tmp_path: Path) -> None:
    png = tiny.samples(1, seed=1)[0]["picture"]
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(png)
    sheet(tmp_path, "picture,label.category\na.png,fish\n")
    (sample,), intake = rows_of(tmp_path)
    assert sample.labels == {"category": "fish"}
    assert intake.unread == {"b.png": "lesson.csv does not name it"}
    sheet(tmp_path, "file,label.category\na.png,cat\nb,dog\n", "Labels.csv")
    (tmp_path / "lesson.csv").unlink()
    samples, _ = rows_of(tmp_path)
    assert [one.labels["category"] for one in samples] == ["cat", "dog"]
    sheet(tmp_path, "file,label.category\na.png,cat\na.png,dog\n", "Labels.csv")
    with pytest.raises(InputError, match=r"names .a\.png. twice, first in Labels\.csv line 2"):
        rows_of(tmp_path)


def test_a_workbook_is_read_and_a_formula_without_a_value_refused(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in (["My lesson"], ["facts.legs", "facts.kilograms", "label.category", "retain_until"], [4, 4.5, "cat"]):
        book.active.append(row)
    book.active.append([])
    book.save(tmp_path / "lesson.xlsx")
    (sample,), intake = rows_of(tmp_path / "lesson.xlsx")
    assert (sample.inputs["facts"], sample.labels) == ([CAT], {"category": "cat"})
    assert "My lesson" in intake.notes[0]
    book.active.append([4, "=2+2", "dog"])
    book.save(tmp_path / "lesson.xlsx")
    with pytest.raises(InputError, match="never computed"):
        rows_of(tmp_path / "lesson.xlsx")
    book.create_sheet("Second").append(["word"])
    book.save(tmp_path / "lesson.xlsx")
    with pytest.raises(InputError, match="several sheets"):
        rows_of(tmp_path / "lesson.xlsx")


@pytest.mark.parametrize("name", ["Zoe\u0308", " Zo\u00eb ", "Zo\u200b\u00eb", "Zo\u00eb\n"])
def test_one_name_in_many_spellings_is_one_person(name: str, tmp_path: Path) -> None:
    line = json.dumps({"word": "a cat", "subject": name}, ensure_ascii=False)
    (sample,), _ = rows_of(sheet(tmp_path, line + "\n", "lesson.jsonl"))
    assert sample.subject == "Zo\u00eb"


def test_a_number_as_a_name_in_json_is_a_name(tmp_path: Path) -> None:
    (sample,), _ = rows_of(sheet(tmp_path, '{"word": "a cat", "subject": 7}\n', "lesson.jsonl"))
    assert sample.subject == "7"
    with pytest.raises(InputError, match="twice"):
        rows_of(sheet(tmp_path, '{"word": "a cat", "word": "a dog"}\n', "lesson.jsonl"))


def test_names_that_may_be_one_persons_are_said(
    tmp_path: Path, tiny_bundle: tiny.Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = str(tmp_path / "device")
    with Device.open(directory, tiny_bundle.path, tiny_bundle.root, threads=1) as device:
        device.take_in(sheet(tmp_path, "word,subject\na cat,P-1\na dog,p-2\na cow,7\n"))
        receipt = device.take_in(sheet(tmp_path, "word,subject\na fish,p-1 \na bird,7.0\n"))
        assert receipt.notes == ["7.0: also held: 7", "p-1: also held: P-1"]
        with pytest.raises(InputError, match=r"also held: p-2"):
            device.forget("P-2")
        device.forget(" p-2\u200b")
        assert "p-2" not in device.store.subjects()
    assert main(["device", "subjects", directory, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"7": 1, "7.0": 1, "P-1": 1, "p-1": 1}
    assert main(["device", "forget", directory, "p-1", "--yes"]) == 0
    assert "also held: P-1" in capsys.readouterr().out


def test_a_column_without_a_name_that_holds_cells_is_not_passed_over_in_silence(tmp_path: Path) -> None:
    path = sheet(tmp_path, "word,,label.category\nthe cat,important,cat\n")
    with pytest.raises(InputError, match="a cell stands in column 2, which has no name") as refused:
        rows_of(path)
    assert "--ignore 'column 2'" in refused.value.remedy
    assert len(rows_of(path, ignore=frozenset({"column 2"}))[0]) == 1
    ((sample,), _) = rows_of(path, columns={"column 2": "source"})
    assert sample.source == "important"


def test_the_names_are_the_line_that_knows_most_of_them(tmp_path: Path) -> None:
    """As where merged cells stand over groups of columns."""
    text = "Input,,word,Who\nword,facts.legs,label.category,subject\nthe cat,4,cat,A\n"
    (sample,), intake = rows_of(sheet(tmp_path, text))
    assert (sample.inputs["word"], sample.labels, sample.subject) == (["the cat"], {"category": "cat"}, "A")
    assert any("passed over: Input word Who" in note for note in intake.notes)


@pytest.mark.parametrize("options", [{"ignore": frozenset({"Date"})}, {"columns": {"Date": "source"}}])
def test_an_option_for_a_column_that_no_sheet_has_is_refused(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="names a column that no sheet has: 'Date'"):
        rows_of(sheet(tmp_path, "word,label.category\ncat,cat\n"), **options)


def test_a_slip_on_the_right_side_of_a_map_is_named(tmp_path: Path) -> None:
    path = sheet(tmp_path, "word,Which?\ncat,cat\n")
    with pytest.raises(InputError, match=r"--map names what the bundle does not have: 'label\.categry'") as refused:
        rows_of(path, columns={"Which?": "label.categry"})
    assert "label.category" in refused.value.remedy


def test_rows_that_were_not_taken_can_be_corrected_and_added(tiny_bundle: tiny.Tiny, tmp_path: Path) -> None:
    path, bad = sheet(tmp_path, "word,label.category\nthe cat,cat,one too many\nthe dog,dog\n"), tmp_path / "bad.csv"
    main(["device", "add", str(tmp_path / "d"), str(path), "--bundle", str(tiny_bundle.path), "--skip-bad", str(bad)])
    (row,) = csv.DictReader(bad.open(encoding="utf-8"))
    assert (row["word"], row["label.category"]) == ("the cat", "cat")
    assert "more cells than the 2 columns" in row["why"]
    main(["device", "add", str(tmp_path / "d"), str(bad)])
    with Device.open(tmp_path / "d") as device:
        assert device.status()["samples"] == 2


@pytest.mark.parametrize("column", [1, 2000])
def test_a_workbook_with_a_cell_far_off_is_refused_at_once(column: int, tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active.append(["word", "label.category"])
    book.active.cell(5 if column > 1 else 1_000_000, column, "far")
    book.save(tmp_path / "far.xlsx")
    with pytest.raises(InputError, match="has a cell beyond 10,000 empty rows, or 1,000 columns"):
        rows_of(tmp_path / "far.xlsx")


def test_a_workbook_that_is_formatted_to_its_last_row_is_read_as_far_as_its_cells(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in (["word", "label.category"], ["the cat", "cat"], ["the dog", "dog"]):
        book.active.append(row)
    book.active.row_dimensions[1_048_576].height = 20
    book.active.row_dimensions[3].hidden = True
    book.save(tmp_path / "lesson.xlsx")
    samples, intake = rows_of(tmp_path / "lesson.xlsx")
    assert len(samples) == 2
    assert intake.notes == ["lesson.xlsx: 1 hidden row read too"]


def test_merged_cells_are_passed_over_above_the_names_alone(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in (["Our lesson"], ["word", "label.category", "subject"], ["cat", "cat", "Anna"], ["dog", "dog"]):
        book.active.append(row)
    book.active.merge_cells("A1:C1")
    book.save(tmp_path / "lesson.xlsx")
    samples, intake = rows_of(tmp_path / "lesson.xlsx")
    assert [sample.subject for sample in samples] == ["Anna", "classroom"]
    assert "lesson.xlsx: 1 row without a subject held as classroom" in intake.notes
    book.active.merge_cells("C3:C4")
    book.save(tmp_path / "lesson.xlsx")
    with pytest.raises(InputError, match="cells are merged, so that only the first has a value: C3:C4"):
        rows_of(tmp_path / "lesson.xlsx")


def test_half_a_surrogate_pair_is_one_problem_of_its_line(tmp_path: Path) -> None:
    rows = '{"word": "\\ud800"}\n{"word": "cat"}\n{"word": "\\ud83d\\ude00", "labels": {"category": "no"}}\n'
    with pytest.raises(InputError, match="2 of 3 rows") as refused:
        rows_of(sheet(tmp_path, rows, "lesson.jsonl"))
    assert "lesson.jsonl line 1: is not valid JSON: half of a surrogate pair" in str(refused.value)


def test_a_sample_that_would_be_removed_at_once_is_refused(tiny_bundle: tiny.Tiny, tmp_path: Path) -> None:
    path = sheet(tmp_path, "word,label.category,retain_until\nthe cat,cat,2020-01-01\nthe dog,dog,2999-01-01\n")
    with (
        Device.open(tmp_path / "d", tiny_bundle.path) as device,
        pytest.raises(InputError, match=r"line 2 retain_until: 2020-01-01 has passed"),
    ):
        device.add(path)


@pytest.mark.parametrize("cell", ["n/a", "-", "NULL"])
def test_nobody_is_called_as_a_missing_cell_is_written(cell: str, tmp_path: Path) -> None:
    (sample,), intake = rows_of(sheet(tmp_path, f"word,label.category,subject\ncat,cat,{cell}\n"))
    assert sample.subject == "classroom"
    assert intake.missing == {cell: 1}


SUMMARY = "First name;subject;facts.legs;label.weight\n"


@pytest.mark.parametrize(
    "row",
    ["Overall average;;4,5;7,35", "Gesamtdurchschnitt;;4,5;7,35", ";Total:;8;14,7", ";Durchschnitt;4,5;7,35"],
)
@pytest.mark.parametrize("last", [True, False])
def test_a_row_of_averages_is_no_sample_and_that_is_said(row: str, last: bool, tmp_path: Path) -> None:
    rows = ["Ada;p-1;4;8,5", "Bo;p-2;2;6,2"]
    rows.insert(2 if last else 1, row)
    path = sheet(tmp_path, SUMMARY + "\n".join(rows) + "\n")
    samples, intake = rows_of(path, ignore=frozenset({"First name"}))
    assert [sample.subject for sample in samples] == ["p-1", "p-2"]
    assert any("a row of averages or sums was passed over" in note and f"line {4 if last else 3}" in note
               for note in intake.notes)  # fmt: skip


@pytest.mark.parametrize("head", ["word,facts.legs", "id,facts.legs"])
def test_a_last_row_that_may_be_a_sum_is_asked_about(head: str, tmp_path: Path) -> None:
    ignore = frozenset({"id"} if head.startswith("id") else ())
    with pytest.raises(InputError, match=r"'Total' looks like a row of averages or sums") as problem:
        rows_of(sheet(tmp_path, f"{head}\na cat,4\nTotal,4\n"), ignore=ignore)
    assert "put it above another row" in problem.value.remedy
    samples, _ = rows_of(sheet(tmp_path, f"{head}\nTotal,4\na cat,4\n"), ignore=ignore)
    assert len(samples) == 2


def test_words_that_sum_up_are_samples_where_nothing_speaks_against_it(tmp_path: Path) -> None:
    for text in ("word,label.category\na dog,dog\naverage,cat\n", "word,facts.legs\nthe total of it,4\n"):
        samples, intake = rows_of(sheet(tmp_path, text))
        assert samples[-1].inputs["word"][0] in ("average", "the total of it")
        assert not intake.notes


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_is_known_without_its_mark(encoding: str, tmp_path: Path) -> None:
    (sample,), _ = rows_of(sheet(tmp_path, "word,label.category\nel ratón,cat\n".encode(encoding)))
    assert sample.inputs["word"] == ["el ratón"]


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("a.csv", b"\xef\xbb\xbf<html><table>", "is a web page, although it is called a sheet"),
        ("a.csv", b"PK\x03\x04", "is an Excel or Office file"),
        ("a.xlsx", b"\xd0\xcf\x11\xe0" + bytes(600), "is protected with a password"),
    ],
)
def test_a_file_that_is_no_sheet_is_named_by_its_bytes(name: str, data: bytes, says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says) as problem:
        rows_of(sheet(tmp_path, data, name))
    assert "CSV UTF-8" in problem.value.remedy


def test_a_formula_that_failed_is_no_text(tmp_path: Path) -> None:
    (sample,), intake = rows_of(sheet(tmp_path, "word,facts.legs\n#BEZUG!,4\n"))
    assert "word" not in sample.inputs
    assert intake.missing == {"#BEZUG!": 1}
    (sample,), _ = rows_of(sheet(tmp_path, "word\nnone\n"))
    assert sample.inputs["word"] == ["none"], "a text may be such a word"


@pytest.mark.parametrize("name", ["1.23457E+11", "1,23457E+11", "2E+15"])
def test_a_number_that_a_spreadsheet_shortened_names_nobody(name: str, tmp_path: Path) -> None:
    for column in ("subject", "author"):
        with pytest.raises(InputError, match="several people may have it") as problem:
            rows_of(sheet(tmp_path, f'word,{column}\na cat,"{name}"\n'))
        assert problem.value.where.endswith(column)
    (sample,), _ = rows_of(sheet(tmp_path, "word,subject\na cat,3E\n"))
    assert sample.subject == "3E"
