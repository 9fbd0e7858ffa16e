"""Exports of forms, learning platforms and Excel of the field benchmark, as they look."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from field_kind import Kind, and_said, right_if
from field_sheets import facts, labels, sheet

GOOGLE_FORM = (
    '"Timestamp","Email Address","What do you see?\n(in a few words)","Which animal, cat or dog?"\n'
    '"2026/01/02 10:00:00 AM GMT+1","ada@school.example","the small cat","cat"\n'
)
GOOGLE_FORM_MAP = (
    "What do you see? (in a few words)=word",
    "Which animal, cat or dog?=label.category",
    "Email Address=subject",
)
QUIZ = (
    '"First name","Last name",State,"Started on","Time taken",Grade/10.00,"Response 1"\n'
    'Ada,L,Finished,"1 January 2026 10:00 AM","5 mins 3 secs","8,50","the small cat"\n'
)
QUIZ_MAP = ("Response 1=word", "Grade/10.00=label.weight")


def mapped(pairs: Sequence[str], ignore: str) -> tuple[str, ...]:
    return (*(word for pair in pairs for word in ("--map", pair)), "--ignore", ignore)


def forms() -> list[Kind]:
    """Exports of forms and learning platforms, as they look."""
    animal, grade = labels({"category": "cat"}), labels({"weight": 8.5})
    form, quiz = (
        mapped(GOOGLE_FORM_MAP, "Timestamp"),
        mapped(QUIZ_MAP, "First name,Last name,State,Started on,Time taken"),
    )
    again = ("add", "DIR", "GIVEN")
    summed = QUIZ + '"Overall average",,,,,"7,35",\n'
    return [
        sheet("Google Forms' export", GOOGLE_FORM, "refused, naming --map", None, "map", group="file"),
        sheet("Google Forms' export, questions of several lines, mapped", GOOGLE_FORM, "the answers", animal, group="file", options=form),
        and_said(sheet("the next export of a form, without options", GOOGLE_FORM, "as it was mapped, and said", animal, group="file", options=form, then=(again,)), "remembers"),
        sheet("Moodle's export with decimal commas, mapped", QUIZ, "the grade as a number", grade, group="file", options=quiz),
        and_said(sheet("Moodle's row of averages below the grades", summed, "passed over, and said", grade, group="file", options=quiz), "Overall average"),
        sheet("a sum under a column of numbers", "word,facts.legs\na cat,4\na dog,4\nSumme:,8\n", "asked about", None, "averages or sums", group="file"),
        and_said(sheet("the next export of Moodle, without options", QUIZ, "as it was mapped, and said", grade, group="file", options=quiz, then=(again,)), "remembers"),
    ]  # fmt: skip


def excel() -> list[Kind]:
    """Sheets of Excel."""

    def write(
        folder: Path,
        rows: Sequence[Sequence[Any]],
        merged: str = "",
        more: Sequence[Any] = (),
        hidden: str = "",
        number_format: str = "",
    ) -> Path:
        import openpyxl

        book = openpyxl.Workbook()
        for row in rows:
            book.active.append(list(row))
        if merged:
            book.active.merge_cells(merged)
        if hidden:
            book.active.column_dimensions[hidden].hidden = True
        if number_format:
            book.active["A2"].number_format = number_format
        for row in more:
            (book["More"] if "More" in book.sheetnames else book.create_sheet("More")).append(list(row))
        book.save(folder / "lesson.xlsx")
        return folder / "lesson.xlsx"

    names, cat = ("facts.legs", "facts.kilograms", "label.category"), facts({"legs": 4.0, "kilograms": 4.5})
    hidden = Kind(
        "Excel with a hidden column",
        "file",
        "read, and said",
        partial(write, rows=[names, (4, 4.5, "cat")], hidden="B"),
        cat,
    )
    seven = lambda outcome: right_if([one["subject"] for one in outcome.samples] == ["007"])  # noqa: E731
    return [
        and_said(hidden, "hidden columns"),
        Kind("Excel with pupils numbered 007", "file", "named as they are seen", partial(write, rows=[("subject", "facts.legs", "label.category"), (7, 4, "cat")], number_format="000"), seven),
        Kind("Excel", "file", "the cells", partial(write, rows=[names, (4, 4.5, "cat")]), cat),
        Kind("Excel with empty rows", "file", "passed over", partial(write, rows=[names, (), (4, 4.5, "cat")]), cat),
        Kind("Excel with a formula never computed", "file", "refused", partial(write, rows=[names, (4, "=2+2.5", "cat")]), None, ("formula",)),
        Kind("an Excel report of several sheets, as of a quiz game", "file", "refused, saying how", partial(write, rows=[names, (4, 4.5, "cat")], more=[("Player", "Score"), ("ada", 900)]), None, ("several sheets",)),
        Kind("Excel with numbers as texts", "file", "the cells", partial(write, rows=[names, (4.0, "4,5", "Cat ")]), cat),
        Kind("Excel with a title above", "file", "refused, or passed over", partial(write, rows=[("My lesson",), names, (4, 4.5, "cat")], merged="A1:C1"), cat, ("title", "column")),
    ]  # fmt: skip


def containers() -> list[Kind]:
    """Files of office programs that are called .xlsx."""

    def kind(name: str, wanted: str, data: bytes, *told: str) -> Kind:
        return sheet(name, data, wanted, None, *told, group="file", file="lesson.xlsx")

    document = io.BytesIO()
    with zipfile.ZipFile(document, "w") as archive:
        archive.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
        archive.writestr("content.xml", "<office:document-content/>")
    old = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600)
    return [
        kind("a workbook with a password", "refused, saying how", old, "password"),
        kind("an OpenDocument sheet called .xlsx", "refused, saying how", document.getvalue(), "CSV UTF-8"),
    ]


def kinds() -> list[Kind]:
    return [*forms(), *containers(), *(replace(one, needs="openpyxl") for one in excel())]
