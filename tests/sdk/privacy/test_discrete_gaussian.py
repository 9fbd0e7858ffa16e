"""The noise is the discrete Gaussian: its chances one by one where they can be counted, its shape where they cannot."""

from __future__ import annotations

import random

import numpy as np
import pytest

from homeroom.privacy import discrete_gaussian

stats = pytest.importorskip("scipy.stats")
SURE = 1e-6  # a true sampler fails for one seed in a million: what fails here is wrong


@pytest.fixture
def seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's random bytes are the same in each run, so that a true sampler never fails by chance."""
    monkeypatch.setattr("homeroom.privacy.discrete_gaussian.secrets.token_bytes", random.Random(1).randbytes)


@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize("sigma", [1, 2, 30])
def test_every_integer_comes_as_often_as_it_should(sigma: int) -> None:
    drawn = discrete_gaussian.discrete_gaussian(sigma, 30_000)
    k = np.arange(-12 * sigma, 12 * sigma + 1)
    chance = np.exp(-(k.astype(float) ** 2) / (2 * sigma**2))
    expected = chance / chance.sum() * len(drawn)
    seen = np.bincount(drawn + 12 * sigma, minlength=len(k))
    common = expected > 10
    rare = (seen[~common].sum(), expected[~common].sum())
    found = stats.chisquare(
        np.append(seen[common], rare[0]) if rare[1] > 5 else seen[common],
        np.append(expected[common], rare[1])
        if rare[1] > 5
        else expected[common] * seen[common].sum() / expected[common].sum(),
    )
    assert found.pvalue > SURE


@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize("sigma", [(1 << 21) + 12_345, 1 << 36])
def test_wide_noise_has_the_bell_and_every_low_bit(sigma: int) -> None:
    drawn = discrete_gaussian.discrete_gaussian(sigma, 30_000)
    assert stats.kstest(drawn / sigma, "norm").pvalue > SURE
    for bit in range(16):
        ones = int(((drawn >> bit) & 1).sum())
        assert stats.binomtest(ones, len(drawn)).pvalue > SURE


@pytest.mark.usefixtures("seeded")
def test_uniform_integers_are_uniform_also_beyond_32_bits() -> None:
    for below in (2, 3, 1000, (1 << 32) + 1, 3 << 38):
        drawn = discrete_gaussian.uniform(below, 30_000)
        assert drawn.min() >= 0
        assert drawn.max() < below
        seen = np.bincount((drawn * 16 // below if below >= 16 else drawn).astype(int))
        parts = np.diff([-(-below * n // 16) for n in range(17)]) if below >= 16 else np.ones(below)
        assert stats.chisquare(seen, parts / parts.sum() * len(drawn)).pvalue > SURE


def test_two_draws_have_nothing_in_common() -> None:
    one, two = (discrete_gaussian.discrete_gaussian(1 << 30, 5_000) for _ in range(2))
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.1
    assert len(np.intersect1d(one, two)) < 10
    assert len(discrete_gaussian.discrete_gaussian(5, 0)) == 0


@pytest.mark.parametrize("sigma", [0, -1, (1 << 40) + 1])
def test_a_scale_it_cannot_do_is_refused(sigma: int) -> None:
    with pytest.raises(ValueError, match="sigma"):
        discrete_gaussian.discrete_gaussian(sigma, 3)
