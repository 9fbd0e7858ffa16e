"""AdamW on one flat vector: the published algorithm, in place."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeroom.train.optimizer import AdamW


@given(st.integers(0, 2**31), st.floats(1e-4, 1e-1), st.floats(0, 0.5))
def test_it_is_adamw_as_published(seed: int, rate: float, decay: float) -> None:
    rng = np.random.default_rng(seed)
    theta = rng.normal(size=7).astype(np.float32)
    plain, first, second = theta.astype(np.float64), np.zeros(7), np.zeros(7)
    optimizer = AdamW(7, decay)
    for step in range(1, 6):
        gradient = rng.normal(size=7).astype(np.float32)
        optimizer.step(theta, gradient, rate)
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
