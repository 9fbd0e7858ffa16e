"""The schedule of a training: one cycle of the learning rate, and a cooldown once epochs bring nothing better."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeroom.train.schedule import cooldown_share, cooldown_start, one_cycle


@given(st.integers(1, 500), st.floats(0, 0.5))
def test_the_rate_rises_once_then_falls_to_nothing(total: int, warmup: float) -> None:
    shares = [one_cycle(step, total, warmup) for step in range(total + 1)]
    peak = int(np.argmax(shares))
    assert 0 <= min(shares) <= max(shares) <= 1
    assert shares[:peak] == sorted(shares[:peak])
    assert shares[peak:] == sorted(shares[peak:], reverse=True)
    assert shares[0] > 0
    assert peak <= warmup * total + 1


def test_the_cooldown_starts_after_so_many_epochs_that_were_no_better_and_stays_so() -> None:
    assert cooldown_start([], 2) is cooldown_start([1, 2, 3], 2) is cooldown_start([3, 2], 2) is None
    assert cooldown_start([3, 2, 3], 2) == cooldown_start([3, 2, 3, 9, 9], 2) == 3


def test_the_rate_cools_down_in_a_line_once_it_has_started() -> None:
    assert cooldown_share(7.5, None, 4) == 1
    assert [cooldown_share(done, 8, 4) for done in (8, 9, 10.5, 12)] == pytest.approx([1, 0.75, 0.375, 0])
