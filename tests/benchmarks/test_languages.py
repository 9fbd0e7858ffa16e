"""The benchmark of languages: how its texts are spoiled and pieces compared, and that sections are named."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

import languages
from homeroom.data.preprocess.plain_text import plain


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
