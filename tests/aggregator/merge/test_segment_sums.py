"""The merge: exact, the same in any order, segment by segment, and nothing before enough devices fed it."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.institution import SEGMENTS, START, School
from homeroom.contract.layout import Layout
from homeroom.contract.round import UNITS_AN_EXAMPLE, RoundConfiguration, weight
from homeroom.contract.update import Update
from homeroom.contract.update_checks import read_update
from homeroom_aggregator.merge.segment_sums import SegmentSums

LAYOUT = Layout(SEGMENTS)
ROUND = RoundConfiguration(bundle_id="0" * 64, min_devices=2, buffer_size=2)
SCHOOLS = [School() for _ in range(4)]


def read(data: bytes) -> Update:
    return read_update(data, ROUND, LAYOUT)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.floats(-3, 3, width=32), st.integers(1, 900), st.integers(0, 20)),
        min_size=2,
        max_size=8,
    ),
    st.randoms(use_true_random=False),
)
def test_any_order_gives_the_same_bits(rows: list[tuple[int, float, int, int]], shuffle) -> None:  # type: ignore[no-untyped-def]
    updates = [
        (read(SCHOOLS[s].update(ROUND, value, ladder_table=examples)), staleness)
        for s, value, examples, staleness in rows
    ]
    released = []
    for _ in range(2):
        sums = SegmentSums()
        for update, staleness in updates:
            sums.add(update, staleness, ROUND)
        released.append(sums.release(START, LAYOUT, ROUND)[0].tobytes())
        shuffle.shuffle(updates)
    assert released[0] == released[1]


def test_the_mean_is_weighted_by_examples() -> None:
    sums = SegmentSums()
    sums.add(read(SCHOOLS[0].update(ROUND, 1.0, ladder_table=30)), 0, ROUND)
    sums.add(read(SCHOOLS[1].update(ROUND, 0.0, ladder_table=10)), 0, ROUND)
    theta, devices, _ = sums.release(START, LAYOUT, ROUND)
    np.testing.assert_array_equal(theta[:4], START[:4] + np.float32(0.75))
    assert devices == {"ladder.table": 2}


def test_a_school_without_a_segment_does_not_dilute_it() -> None:
    sums = SegmentSums()
    sums.add(read(SCHOOLS[0].update(ROUND, 1.0, ladder_table=5, head_grade=5)), 0, ROUND)
    sums.add(read(SCHOOLS[1].update(ROUND, 1.0, ladder_table=5, head_grade=5)), 0, ROUND)
    sums.add(read(SCHOOLS[2].update(ROUND, 0.0, head_grade=500)), 0, ROUND)
    theta, *_ = sums.release(START, LAYOUT, ROUND)
    np.testing.assert_array_equal(theta[:4], START[:4] + np.float32(1.0))
    assert (theta[4:7] < START[4:7] + 0.1).all()


def test_a_segment_waits_until_enough_different_devices_fed_it() -> None:
    sums = SegmentSums()
    for _ in range(5):
        sums.add(read(SCHOOLS[0].update(ROUND, 1.0, ladder_table=5)), 0, ROUND)
    theta, devices, _ = sums.release(START, LAYOUT, ROUND)
    assert devices == {}
    np.testing.assert_array_equal(theta, START)
    sums.add(read(SCHOOLS[1].update(ROUND, 1.0, ladder_table=5)), 0, ROUND)
    assert sums.release(START, LAYOUT, ROUND)[1] == {"ladder.table": 2}


def test_weights_are_capped_and_fall_with_staleness() -> None:
    assert weight(10, 0, ROUND) == 10 * UNITS_AN_EXAMPLE
    assert weight(10_000, 0, ROUND) == weight(ROUND.cap_examples, 0, ROUND)
    assert weight(40, 3, ROUND) == 20 * UNITS_AN_EXAMPLE
    assert weight(1, 10**9, ROUND) == 1
