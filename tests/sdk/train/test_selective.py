"""From which probability on an answer is called sure, by what validation samples show."""

from __future__ import annotations

import numpy as np
import pytest

from homeroom.data.tasks.answers import LEAST_PROBABILITY
from homeroom.train.selective import MOST_WRONG, NONE_SURE, least_probability

RNG = np.random.default_rng(3)
CHANCES = RNG.uniform(0.5, 1.0, 2000)


def test_answers_that_are_right_as_often_as_they_say_keep_a_bound_below_which_too_many_are_wrong() -> None:
    right = RNG.random(2000) < CHANCES
    least = least_probability(CHANCES, right)
    assert 0.65 < least < 0.8  # of those above 0.72 the mean is 0.86
    assert float((~right)[least <= CHANCES].mean()) == pytest.approx(MOST_WRONG, abs=0.03)


def test_the_more_often_sure_answers_were_wrong_the_higher_is_the_bound() -> None:
    honest, proud = RNG.random(2000) < CHANCES, RNG.random(2000) < 0.5 + 0.6 * (CHANCES - 0.5)
    assert least_probability(CHANCES, honest) < least_probability(CHANCES, proud) <= NONE_SURE


def test_nothing_is_sure_where_even_the_surest_are_wrong() -> None:
    assert least_probability(CHANCES, RNG.random(2000) < 0.5) == NONE_SURE


def test_nothing_changes_where_nearly_all_are_right_or_nothing_is_known() -> None:
    assert least_probability(np.full(50, 0.97), np.arange(50) > 0) == LEAST_PROBABILITY
    assert least_probability(np.zeros(0), np.zeros(0, bool)) == LEAST_PROBABILITY
