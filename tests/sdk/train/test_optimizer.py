"""The optimiser on one flat vector: the published algorithm, in place, and its schedule."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeroom.train.optimizer import AdamW
from homeroom.train.schedule import cooling, one_cycle, spent_after


@given(st.integers(0, 2**31), st.floats(1e-4, 1e-1), st.floats(0, 0.5))
def test_it_is_adamw_as_published(seed: int, rate: float, decay: float) -> None:
    rng = np.random.default_rng(seed)
    theta = rng.normal(size=7).astype(np.float32)
    plain, first, second = theta.astype(np.float64), np.zeros(7), np.zeros(7)
    optimiser = AdamW(7, decay)
    for step in range(1, 6):
        gradient = rng.normal(size=7).astype(np.float32)
        optimiser.step(theta, gradient, rate)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient.astype(np.float64) ** 2
        mean, spread = first / (1 - 0.9**step), np.sqrt(second / (1 - 0.999**step))
        plain = plain - rate * (mean / (spread + 1e-8) + decay * plain)
    assert np.allclose(theta, plain, rtol=1e-3, atol=1e-4)


def test_it_is_torchs_adamw() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    theta = rng.normal(size=50).astype(np.float32)
    theirs = torch.nn.Parameter(torch.tensor(theta))
    adam = torch.optim.AdamW([theirs], lr=1e-2, weight_decay=0.1)
    ours = AdamW(50, 0.1)
    for _ in range(30):
        gradient = rng.normal(size=50).astype(np.float32)
        theirs.grad = torch.tensor(gradient)
        adam.step()
        ours.step(theta, gradient, 1e-2)
    assert np.allclose(theta, theirs.detach().numpy(), atol=1e-5)


def test_theta_changes_in_place_and_stays_where_nothing_pulls() -> None:
    theta = np.ones(4, np.float32)
    address = theta.ctypes.data
    AdamW(4, 0.0).step(theta, np.array([1, 0, 0, 0], np.float32), 0.1)
    assert theta.ctypes.data == address
    assert theta[0] < 1
    assert (theta[1:] == 1).all()


@given(st.integers(1, 500), st.floats(0, 0.5))
def test_the_rate_rises_once_then_falls_to_nothing(total: int, warmup: float) -> None:
    shares = [one_cycle(step, total, warmup) for step in range(total + 1)]
    peak = int(np.argmax(shares))
    assert 0 <= min(shares) <= max(shares) <= 1
    assert shares[:peak] == sorted(shares[:peak])
    assert shares[peak:] == sorted(shares[peak:], reverse=True)
    assert shares[0] > 0
    assert peak <= warmup * total + 1


def test_patience_is_spent_after_so_many_epochs_that_were_no_better_and_stays_so() -> None:
    assert spent_after([], 2) is spent_after([1, 2, 3], 2) is spent_after([3, 2], 2) is None
    assert spent_after([3, 2, 3], 2) == spent_after([3, 2, 3, 9, 9], 2) == 3


def test_the_rate_cools_down_in_a_line_once_patience_is_spent() -> None:
    assert cooling(7.5, None, 4) == 1
    assert [cooling(done, 8, 4) for done in (8, 9, 10.5, 12)] == pytest.approx([1, 0.75, 0.375, 0])
