"""The notebooks of docs/notebooks run cell by cell, hold no output that could go stale, and are pages of the site."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

import notebook
import pytest
from test_site import SITE

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


@pytest.fixture
def here(small_starter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with the starter bundle and `homeroom` on the path of commands."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    shutil.copy(small_starter, tmp_path / "starter.homeroom")
    command = tmp_path / "bin" / "homeroom"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m homeroom "$@"\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def test_the_first_lesson_learns_answers_explains_and_forgets(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = notebook.run(FOLDER / "first_lesson.ipynb")
    said = capsys.readouterr().out
    assert "40 samples\n" in said
    assert "11 samples of pupil-1\n30 samples are left\n" in said
    assert "it learned from 0 of them" in said
    assert done.names["answer"].best in done.names["answer"].probabilities
    assert done.names["why"].sentences()
    assert [picture[:4] for picture in done.pictures()] == ["<svg", "<svg"]


def test_twenty_schools_train_together_and_are_plotted(here: Path) -> None:
    done = notebook.run(FOLDER / "twenty_schools.ipynb")
    schools = done.names["schools"]
    assert done.names["first"].keys() == done.names["last"].keys() == schools.keys()
    assert (len(schools), min(map(len, schools.values())), max(map(len, schools.values()))) == (20, 20, 60)
    by_round, by_school = done.pictures()
    assert "20 schools, 8 rounds" in by_round
    assert by_round.count("<polyline") == 2
    assert by_school.count('class="school"') == 20


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_holds_no_outputs_and_is_a_page(path: Path) -> None:
    cells = json.loads(path.read_text("utf-8"))["cells"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells if "outputs" in cell)
    assert len({cell["id"] for cell in cells}) == len(cells)
    page = SITE.notebook_page(path)
    assert page.startswith("# ")
    assert f'href="{path.name}"' in page
    fences = re.findall(r"^```(?:python|sh)\n(.*?)\n```$", page, re.S | re.M)
    assert fences == [source.removeprefix("!") for source in notebook.code_cells(path)]


def test_a_cell_that_fails_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for source, problem in (("1 / 0", ZeroDivisionError), ("!exit 3", Exception)):
        cell = {"cell_type": "code", "source": source}
        (tmp_path / "bad.ipynb").write_text(json.dumps({"cells": [cell]}))
        with pytest.raises(problem):
            notebook.run(tmp_path / "bad.ipynb")
