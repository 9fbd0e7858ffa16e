"""The trimmed mean, by choice: no quarter of the weight moves any value past what the others sent, bit for bit."""

from __future__ import annotations

from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.institution import START, School, make_folder
from aggregator.merge.test_bounded import held, released, send
from homeroom_aggregator.admin.folder import open_rounds
from homeroom_aggregator.merge import bounded, trimmed
from homeroom_aggregator.merge.bounded import KeyUpdates

LONG = 1 << 30  # a bound that shortens nothing


def exact(column: list[tuple[int, int]]) -> Fraction:
    """The trimmed mean of (value, units), one unit after another."""
    spread = sorted(value for value, units in column for _ in range(units))
    cut = len(spread) // 4
    kept = spread[cut : len(spread) - cut]
    return Fraction(sum(kept), len(kept))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.lists(st.integers(-50, 50), min_size=3, max_size=3), st.integers(1, 9)), min_size=1, max_size=8
    ),
    st.randoms(use_true_random=False),
    st.sampled_from([1, 4, 1 << 21]),
)
def test_each_value_is_the_mean_without_a_quarter_of_the_weight_at_each_end(
    rows: list[tuple[list[int], int]], shuffle: Any, block: int
) -> None:
    found = []
    original, bounded.BLOCK_VALUES = bounded.BLOCK_VALUES, block
    try:
        for _ in range(2):
            units = {number: unit for number, (_, unit) in enumerate(rows, 1)}
            updates = KeyUpdates(LONG, units, dict.fromkeys(units, 1))
            bodies = {number: np.array(values, np.int32) for number, (values, _) in enumerate(rows, 1)}
            read = partial(lambda of, n, _: {"s": of[n]}, bodies)
            total, weight = trimmed.trimmed_sums({"s": updates}, read)["s"]
            found.append((total.tolist(), weight))
            shuffle.shuffle(rows)
    finally:
        bounded.BLOCK_VALUES = original
    assert found[0] == found[1], "in any order"
    (total_, weight) = found[0]
    wanted = [exact([(values[place], unit) for values, unit in rows]) for place in range(3)]
    assert [Fraction(one, weight) for one in total_] == wanted


def test_one_liar_of_five_moves_no_value_past_the_honest_ones(tmp_path: Path) -> None:
    rounds = open_rounds(make_folder(tmp_path, rule="trimmed", buffer_size=5, min_devices=3))
    for step in (0.25, 0.5, 0.5, 0.75):
        send(rounds, School(), step, ladder_table=1)
    send(rounds, School(), -12.0, ladder_table=500)
    moved = rounds.state.theta[:4] - START[:4]
    assert (moved >= 0.25).all()
    assert (moved <= 0.75).all()
    assert released(rounds)["bounds"] == {"ladder.table": 1.0}
    held(rounds)
