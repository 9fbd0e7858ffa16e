"""Multi-Krum, by choice: exactly Blanchard et al.'s choice, in any order and any blocks, and replayed bit for bit."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.institution import START, School, make_folder
from aggregator.merge.test_bounded import held, send
from homeroom.contract.round import RoundConfiguration
from homeroom.errors import UpdateError
from homeroom_aggregator.admin.folder import open_rounds
from homeroom_aggregator.merge import bounded, multi_krum
from homeroom_aggregator.merge.bounded import KeyUpdates

LONG = 1 << 62  # a bound that shortens nothing
LIMIT = 1 << 24


def chosen(rows: list[tuple[list[int], int]]) -> tuple[list[int], int]:
    """The weighted sum of the kept rows in Python's integers, after the paper."""
    count = len(rows)
    liars = min(count // 4, max(0, (count - 3) // 2))
    scores = []
    for place, (one, _) in enumerate(rows):
        others = [row for at, (row, _) in enumerate(rows) if at != place]
        apart = sorted(sum((a - b) ** 2 for a, b in zip(one, row, strict=True)) for row in others)
        scores.append(sum(apart[: count - liars - 2]) if liars else 0)
    last = sorted(scores)[count - liars - 1]
    kept = [row for row, score in zip(rows, scores, strict=True) if score <= last]
    return [sum(row[at] * units for row, units in kept) for at in range(3)], sum(units for _, units in kept)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.lists(st.one_of(st.integers(-3, 3), st.integers(-LIMIT, LIMIT)), min_size=3, max_size=3),
            st.integers(1, 9),
        ),
        min_size=1,
        max_size=12,
    ),
    st.randoms(use_true_random=False),
    st.sampled_from([1, 24, 1 << 21]),
)
def test_those_far_from_most_others_are_left_out_exactly(
    rows: list[tuple[list[int], int]], shuffle: Any, block: int
) -> None:
    original, bounded.BLOCK_VALUES = bounded.BLOCK_VALUES, block
    try:
        for _ in range(2):
            units = {number: unit for number, (_, unit) in enumerate(rows, 1)}
            updates = KeyUpdates(LONG, units, dict.fromkeys(units, 1))
            bodies = {number: np.array(values, np.int32) for number, (values, _) in enumerate(rows, 1)}
            read = partial(lambda of, n, _: {"s": of[n]}, bodies)
            total, weight = multi_krum.multi_krum_sums({"s": updates}, read)["s"]
            assert (total.tolist(), weight) == chosen(rows)
            shuffle.shuffle(rows)
    finally:
        bounded.BLOCK_VALUES = original


def test_inner_products_that_floats_would_round_are_exact() -> None:
    values = [np.full(5000, LIMIT - 1 - n, np.int32) for n in range(5)]
    updates = KeyUpdates(LONG, dict.fromkeys(range(5), 1), dict.fromkeys(range(5), 1))
    found = multi_krum._inner_products("s", updates, lambda n, _: {"s": values[n]})
    assert found[0, 1] == 5000 * (LIMIT - 1) * (LIMIT - 2) > 1 << 60
    assert int(float(found[0, 1])) != found[0, 1]


def test_a_liar_of_five_is_left_out_and_the_release_is_replayed(tmp_path: Path) -> None:
    rounds = open_rounds(make_folder(tmp_path, rule="multi-krum", buffer_size=5, min_devices=3))
    for step in (0.25, 0.5, 0.5, 0.75):
        send(rounds, School(), step, ladder_table=1)
    send(rounds, School(), -12.0, ladder_table=500)
    np.testing.assert_allclose(rounds.state.theta[:4] - START[:4], 0.4375, atol=1e-5)
    held(rounds)


def test_no_more_updates_are_compared_than_is_stated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="multi-krum compares at most 500"):
        RoundConfiguration(bundle_id="b" * 64, rule="multi-krum", buffer_size=501)
    monkeypatch.setattr(multi_krum, "MOST_KRUM_UPDATES", 2)
    rounds = open_rounds(make_folder(tmp_path, rule="multi-krum", buffer_size=3, min_devices=2, k_of="schools"))
    monkeypatch.setattr(rounds.members, "school", lambda name: "South" if name == other.name else "North")
    other, schools = School(), [School() for _ in range(3)]
    state = rounds.state.sums
    for number, school in enumerate(schools[:2]):
        send(rounds, school, 0.25 * (number + 1), ladder_table=1)
    keys = {key for update in state.waiting.values() for key in update.norms}
    with pytest.raises(UpdateError, match="2 updates wait already") as refused:
        multi_krum.check_room(state, keys, schools[2].name, "schools", rounds.members.school)
    assert refused.value.code == "full"
    multi_krum.check_room(state, keys, other.name, "schools", rounds.members.school)
    multi_krum.check_room(state, keys, schools[0].name, "schools", rounds.members.school)
    rounds.close()
