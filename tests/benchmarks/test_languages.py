"""The benchmark of languages: how its texts are spoiled and pieces compared, and that sections are named."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

import languages
import languages_schools
from examples.vocabulary.splits import Row
from homeroom.contract.manifest import Task
from homeroom.contract.statistics.accumulate import BlockVectors
from homeroom.data.preprocess.plain_text import plain
from homeroom.train.solve.task_vectors import TaskVectors


def test_runs_of_unknown_pieces_count_as_one_and_an_empty_text_has_none() -> None:
    assert languages.merged([1, 5, 0, 0, 0, 7, 0, 2]) == [5, 0, 7, 0]
    assert languages.merged([1, 0, 2]) == []
    assert languages.merged([1, 5, 2]) == [5]


def test_half_of_the_texts_are_captions_and_the_rest_are_spoiled_ones() -> None:
    known = [f"¿Dónde está el gato número {n}?" for n in range(500)]
    found = list(languages.texts_of("es", known, random.Random(0)))
    half = languages.A_LANGUAGE // 2
    assert found[:half] == known[:half]
    assert len(found) == languages.A_LANGUAGE
    assert not set(found[half:]) & set(known)
    assert 0.3 < sum(plain(text).text in known for text in found[half:]) / half < 0.9  # what Unicode holds for equal


def test_a_section_that_nobody_knows_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["languages.py", "--only", "nothing", "--json", str(tmp_path / "found.json")])
    with pytest.raises(SystemExit):
        languages.main()
    assert "known: parity, sizes" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_captions_are_read_by_language_and_none_that_is_empty(tmp_path: Path) -> None:
    file = tmp_path / "pear.txt"
    file.write_text("A pear.\nes.utf8=Una pera.\nfr.utf8=\n", "utf-8")
    assert languages.captions_of(file) == {"en": "A pear.", "es": "Una pera."}


class Grid:
    """Reads a caption such as "2 7" as category 2; the last column is moved by offset, up or down by language."""

    def __init__(self, offset: int) -> None:
        self.offset, self.projection = offset, SimpleNamespace(matrix=np.zeros((5, 5)))

    def __call__(self, texts: Sequence[str], language: str) -> TaskVectors:
        rng = np.random.default_rng(len(texts))
        values = rng.integers(-60, 60, (len(texts), 5))
        for row, text in enumerate(texts):
            values[row, int(text[0])] += 300
        values[:, 4] += self.offset * (1 if language == "en" else -1)
        return TaskVectors((BlockVectors(languages_schools.BLOCK, values, np.ones(len(texts), bool)),))


def test_what_others_were_taught_is_found_but_for_what_the_language_gives_away() -> None:
    labels = ("a", "b", "c", "d")
    task = Task(name="category", kind="classification", reads=("word",), labels=labels, width=4)
    stamps: list[languages_schools.Stamp] = [
        (Row(f"{labels[n % 4]}/{n}", str(n), "train", ""), dict.fromkeys(("en", "es"), f"{n % 4} {n}"))
        for n in range(400)
    ]
    halves = {"en": {"a", "c"}, "es": {"b", "d"}}

    def found(offset: int) -> dict[str, Any]:
        reader = cast(languages_schools.Reader, Grid(offset))
        asked = languages_schools.asked_of(
            task, reader, dict.fromkeys(("en", "es"), stamps[:300]), stamps[300:], halves
        )
        assert (asked["schools"], asked["withheld cells"]) == (6, 0)
        shares: dict[str, Any] = asked["languages"]
        return shares

    for one in found(0).values():
        assert one["asked"] == 50, "no caption of a category that the language's own schools teach"
        assert one["from others"] == one["from its own"] == 1
    for one in found(400).values():
        assert one["from its own"] == 1
        assert one["from others"] < 0.5
