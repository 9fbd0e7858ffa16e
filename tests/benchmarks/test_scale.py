"""The plan to a million devices: the page's tables are what the script computes from the figures that are kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import scale

ROOT = Path(__file__).resolve().parents[2]
FIGURES = json.loads((ROOT / "benchmarks" / "figures" / "scale.json").read_text())


def test_the_page_holds_the_tables_of_the_kept_figures() -> None:
    page = (ROOT / "docs" / "measurements" / "scale.md").read_text()
    begin, end = scale.MARKS
    assert page.split(begin)[1].split(end)[0].strip() == scale.tables(FIGURES)


def test_ten_times_the_devices_ask_for_ten_times_as_much_and_a_district_for_the_same() -> None:
    assumed = scale.Assumed()
    less, more = (scale.plan(devices, FIGURES["sync"], assumed) for devices in (100_000, 1_000_000))
    for name in ("syncs_s", "requests_s", "cores", "log_gb_day"):
        assert more[name] == pytest.approx(10 * less[name])
    for name in ("district_requests_s", "dollars_each"):
        assert more[name] == pytest.approx(less[name])


def test_an_estimate_says_that_it_is_one() -> None:
    """Every line of the tables that rests on an assumption, and none that was measured."""
    lines = scale.tables(FIGURES).splitlines()
    assert next(line for line in lines if "devices that it holds" in line).endswith("estimate: assumptions below |")
    assert any(line.startswith("| devices, estimate |") for line in lines)
    assert any(line.startswith("| assumed, not measured") for line in lines)
