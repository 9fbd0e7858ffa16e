"""The benchmark of solved heads: its arithmetic holds on one seed, and a section that nobody knows is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import solved
import solved_sums


def test_sums_are_exact_and_heads_keep_what_they_promise_on_one_seed() -> None:
    found, targets = solved.sums(1)
    unmet = [one["name"] for one in targets if not one["met"]]
    assert not [name for name in unmet if "4 liars" not in name and "private" not in name]
    assert found["exactness"]["together"] > found["exactness"]["alone"] + 0.2
    assert found["private"]["without noise"] > 0.85
    assert all(share < 1.05 for share in found["robustness"]["of_clean"].values())


def test_cost_is_of_three_modalities() -> None:
    assert solved_sums.cost(60, 1)["dimensions"] == [15, 15, 15]


def test_means_are_over_seeds_and_truths_hold_for_all() -> None:
    found = solved_sums.mean_over([{"a": 1.0, "b": True, "c": {"d": 2}}, {"a": 2.0, "b": False, "c": {"d": 4}}])
    assert found == {"a": 1.5, "b": False, "c": {"d": 3.0}}


def test_a_section_that_nobody_knows_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["solved.py", "--only", "nothing", "--json", str(tmp_path / "found.json")])
    with pytest.raises(SystemExit):
        solved.main()
    assert "known: sums, cost" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
