"""The benchmark of apps judges what it saw: an answer that differs, a training that ended first, a slow cancel."""

from __future__ import annotations

from typing import Any

import pytest

import apps

GOOD: dict[str, Any] = {
    "threads": {"differing": 0, "while_both_ran": True},
    "second_process": {"differing": 0, "while_it_trained": True},
    "throughput": {"ratio": 1.7},
    "cancel_s": [0.1, 0.9],
    "public": {"tests": [], "tests_pass": True, "mypy": [], "typed": True},
}


@pytest.mark.parametrize(
    ("part", "values"),
    [
        ("", {}),
        ("threads", {"differing": 1, "while_both_ran": True}),
        ("threads", {"differing": 0, "while_both_ran": False}),
        ("second_process", {"differing": 2, "while_it_trained": True}),
        ("second_process", {"differing": 0, "while_it_trained": False}),
        ("throughput", {"ratio": 1.4}),
        ("cancel_s", [0.1, 1.1]),
        ("public", {**GOOD["public"], "tests_pass": False}),
        ("public", {**GOOD["public"], "typed": False}),
    ],
)
def test_each_target_can_be_missed(part: str, values: Any) -> None:
    targets = apps.judged({**GOOD, part: values}, quick=False)
    assert [one["met"] for one in targets].count(False) == bool(part)


def test_throughput_compares_threads_with_one() -> None:
    asked = list(range(4))
    assert len(apps.throughput(lambda one: one, asked)["ratios"]) == apps.REPEATS
