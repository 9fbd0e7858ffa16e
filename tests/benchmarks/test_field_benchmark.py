"""The benchmark of the field: an error, a crash and a wrong result are told apart, and a kind runs to its verdict."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

import field
from field_inbox import kinds as inbox_kinds
from field_kind import Kind, Outcome, Verdict, right_if, verdict
from field_sheets import kinds as sheet_kinds

KIND = Kind("a sheet", "sheet", "taken", lambda folder: folder, lambda outcome: right_if(outcome.said == "1"), ("cat",))


@pytest.mark.parametrize(
    ("kind", "outcome", "expected"),
    [
        (KIND, Outcome(said="1"), Verdict.RIGHT),
        (KIND, Outcome(said="2"), Verdict.WRONG),
        (KIND, Outcome(error="did you mean Cat?"), Verdict.REFUSED),
        (KIND, Outcome(error="wrong"), Verdict.UNCLEAR),
        (KIND, Outcome(said="1", traceback="KeyError"), Verdict.TRACEBACK),
        (replace(KIND, judge=None), Outcome(said="1"), Verdict.WRONG),
    ],
)
def test_an_outcome_is_judged(kind: Kind, outcome: Outcome, expected: Verdict) -> None:
    assert verdict(kind, outcome) is expected


def test_a_file_that_is_gone_is_lost() -> None:
    photos = next(kind for kind in inbox_kinds() if kind.name == "loose photos")
    assert verdict(photos, Outcome(left={"refused/20261201-a.png": 3})) is Verdict.RIGHT
    assert verdict(photos, Outcome()) is Verdict.LOST


def test_bounds_count_every_bad_end() -> None:
    rows = [{"verdict": each.value, "seconds": 1.0, "megabytes": 50} for each in Verdict]
    met = {one["name"]: one["met"] for one in field.targets(rows)}
    assert [met[each.value] for each in (Verdict.WRONG, Verdict.LOST, Verdict.TRACEBACK, Verdict.UNCLEAR)] == [
        False
    ] * 4
    assert met["slowest input, seconds of processor time"]


def test_a_kind_runs_from_file_to_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOMEROOM_KEYS", os.environ.get("HOMEROOM_KEYS", ""))
    (tmp_path / "prepared").mkdir()
    prepared = field.template(tmp_path / "prepared")
    commas = next(kind for kind in sheet_kinds() if kind.name == "commas")
    made = field.row(commas, prepared, tmp_path / "run")
    assert made["verdict"] == Verdict.RIGHT.value, made["happened"]
    assert not (tmp_path / "run").exists()


def test_the_page_of_files_is_the_list_of_kinds() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "files.md"
    made = field.page(field.every_kind())
    assert page.read_text(encoding="utf-8") == made, "python benchmarks/field.py --docs docs/files.md"
    assert len({(kind.group, kind.name) for kind in field.every_kind()}) == len(field.every_kind()) >= field.LEAST_KINDS


def test_a_kind_that_cannot_be_made_here_stands_in_the_page_too() -> None:
    kinds = [replace(KIND, name="a|b", needs="no_such_module")]
    assert "| a\\|b | taken |" in field.page(kinds)
