"""Exports of forms, learning platforms and Excel of the field benchmark, as they look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from field_kind import Kind, and_said
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
    return [
        sheet("Google Forms' export", GOOGLE_FORM, "refused, naming --map", None, "map", group="file"),
        sheet("Google Forms' export, questions of several lines, mapped", GOOGLE_FORM, "the answers", animal, group="file", options=form),
        and_said(sheet("the next export of a form, without options", GOOGLE_FORM, "as it was mapped, and said", animal, group="file", options=form, then=(again,)), "remembers"),
        sheet("Moodle's export with decimal commas, mapped", QUIZ, "the grade as a number", grade, group="file", options=quiz),
        and_said(sheet("the next export of Moodle, without options", QUIZ, "as it was mapped, and said", grade, group="file", options=quiz, then=(again,)), "remembers"),
    ]  # fmt: skip


def excel() -> list[Kind]:
    """Sheets of Excel."""

    def write(folder: Path, rows: Sequence[Sequence[Any]], merged: str = "") -> Path:
        import openpyxl

        book = openpyxl.Workbook()
        for row in rows:
            book.active.append(list(row))
        if merged:
            book.active.merge_cells(merged)
        book.save(folder / "lesson.xlsx")
        return folder / "lesson.xlsx"

    names, cat = ("facts.legs", "facts.kilograms", "label.category"), facts({"legs": 4.0, "kilograms": 4.5})
    return [
        Kind("Excel", "file", "the cells", partial(write, rows=[names, (4, 4.5, "cat")]), cat),
        Kind("Excel with empty rows", "file", "passed over", partial(write, rows=[names, (), (4, 4.5, "cat")]), cat),
        Kind("Excel with a formula never computed", "file", "refused", partial(write, rows=[names, (4, "=2+2.5", "cat")]), None, ("formula",)),
        Kind("Excel with a title above", "file", "refused, or passed over", partial(write, rows=[("My lesson",), names, (4, 4.5, "cat")], merged="A1:C1"), cat, ("title", "column")),
    ]  # fmt: skip


def kinds() -> list[Kind]:
    return [*forms(), *(replace(one, needs="openpyxl") for one in excel())]
