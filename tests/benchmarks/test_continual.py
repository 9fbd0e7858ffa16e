"""What the benchmark of growing lessons makes of what is right and wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import continual
import continual_terms
import privacy_digits as digits
from continual_digits import NEW, OLD, deal


def run(seed: int, **wrong: tuple[float, float]) -> dict[str, Any]:
    """One seed's answers, all right but these shares of old and new digits by step; none are where distilled."""
    pictures, found = deal(seed), {}
    steps = (continual.BEFORE, continual.INSTALLED, *continual.METHODS, continual.ALL_KEPT, continual.JOINT)
    for step in steps:
        found[step] = {}
        for part in continual.PARTS:
            labels = digits.DIGITS.target[getattr(pictures, part)]
            right = np.ones(len(labels), bool)
            usual = (1, 1) if step.startswith(("distillation", "both")) else (0, 0)
            for some, share in zip((OLD, NEW), wrong.get(step.replace(" ", "_"), usual), strict=True):
                shown = np.flatnonzero(np.isin(labels, some))
                right[shown[: round(share * len(shown))]] = False
            found[step][part] = dict.fromkeys(("theta", continual.ANSWERING), right)
    return found


def test_what_is_lost_is_measured_from_when_it_was_learned() -> None:
    table = continual.Table([run(seed, before=(0.1, 0), no_method=(0.5, 0), rehearsal=(0.04, 0.1)) for seed in (0, 1)])
    figures = table.figures("no method", "theta")
    assert figures["old"] == pytest.approx(0.5, abs=0.01)
    assert figures["backward_transfer"] == pytest.approx(-0.4, abs=0.01)
    assert figures["forgetting"] == pytest.approx(0.5, abs=0.01)  # the bundle was just installed, and all was right
    lost, low, high = table.lost(continual.BEFORE, "no method", OLD)
    assert low < lost < high
    assert lost == pytest.approx(40, abs=1)
    assert high - low < 10


def test_a_method_is_chosen_by_old_and_new_on_pictures_that_are_not_the_tests() -> None:
    table = continual.Table([run(0, no_method=(0.2, 0), rehearsal=(0.05, 0.1))])
    assert table.chosen() == "rehearsal"
    for answers in (table.runs[0][1]["rehearsal"]["test"], table.runs[0][1]["no method"]["choice"]):
        answers[continual.ANSWERING] = np.zeros_like(answers[continual.ANSWERING])
    assert table.chosen() == "rehearsal"


@pytest.mark.parametrize(
    ("wrong", "unmet"),
    [
        ({}, 0),
        ({"installed": (0.01, 0)}, 1),
        ({"rehearsal": (0.03, 0), "no_method": (1, 1)}, 1),
        ({"rehearsal": (0, 0.04), "no_method": (1, 1)}, 1),
    ],
)
def test_each_target_can_be_missed(wrong: dict[str, tuple[float, float]], unmet: int) -> None:
    table = continual.Table([run(0, **wrong)])
    assert sum(not one["met"] for one in continual.targets(table, table.chosen())) == unmet


def terms_of(shares: list[list[float]]) -> continual_terms.Matrix:
    """A matrix of 100 answers a term, of which these shares are right by step and term."""
    return [[{"test": {"theta": np.arange(100) < round(100 * share)}} for share in row] for row in shares]


def test_what_a_term_lost_is_measured_over_all_later_steps() -> None:
    one = terms_of([[0.9, 0.1, 0.1, 0.1], [0.95, 0.8, 0.1, 0.1], [0.7, 0.8, 0.7, 0.1], [0.5, 0.6, 0.6, 0.9]])
    together = terms_of([[0.9, 0.85, 0.8, 0.8]] * 4)
    figures = continual_terms.figures([one], "theta")
    assert figures["when_learned"] == pytest.approx(np.mean([0.9, 0.8, 0.7, 0.9]))
    assert figures["at_the_end"] == pytest.approx(np.mean([0.5, 0.6, 0.6, 0.9]))
    assert figures["backward_transfer"] == pytest.approx(-np.mean([0.4, 0.2, 0.1]))
    assert figures["forgetting"] == pytest.approx(np.mean([0.45, 0.2, 0.1]))
    lost, low, high = continual_terms.interval([list(continual_terms.lost_old(one, "theta"))])
    assert lost == pytest.approx(100 * (-0.05 + 0.2 + 0.4 + 0.0 + 0.2 + 0.1) / 6)
    assert low < lost < high
    lost, *_ = continual_terms.interval([list(continual_terms.lost_new(one, together, "theta"))])
    assert lost == pytest.approx(100 * (0.05 + 0.1 - 0.1) / 3)
