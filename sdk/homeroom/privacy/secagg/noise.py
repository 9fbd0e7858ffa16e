"""A device's share of the discrete Gaussian noise of a private secure round, added before the encoding is masked.

**Mechanism**: each of the devices in a sum adds discrete Gaussian noise of parameter `share_grid`, so that the honest
ones together add at least what the round promises (Kairouz, Liu, Steinke 2021, "The Distributed Discrete Gaussian
Mechanism"). **Norm, neighbours**: as in `homeroom.contract.privacy`; each device clips for itself, and what another
sends weakens nobody's promise. **Honest**: of the least number of devices in a sum, those that are left if the share of
the cohort that the rules count on is corrupt and adds none. **How close**: a sum of discrete Gaussians is not quite
one; by theorem 1 there the difference is at most 10 n exp(-pi^2 s^2), which for shares of at least LEAST_SHARE_GRID is
below 1e-17000 and is left out of the ledger. **When it does not hold**: if more of a cohort than that is corrupt.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt

import numpy as np

from homeroom.contract.privacy import Privacy
from homeroom.contract.round import RoundConfiguration
from homeroom.errors import TrustError
from homeroom.privacy.discrete_gaussian import discrete_gaussian

LEAST_SHARE_GRID = 64  # sigma of one share, in units of the grid


def share_grid(privacy: Privacy, scale_bits: int, honest: int) -> int:
    """Sigma of one device's share: the least s with honest * s^2 >= sigma^2, in units of the grid."""
    return isqrt((privacy.noise_grid(scale_bits) ** 2 - 1) // honest) + 1


def cohort_share_grid(configuration: RoundConfiguration, cohort: int, minimum: int) -> int:
    """Sigma of one device's share in a cohort, in grid units; 0 where no honest device is sure to be in a sum."""
    privacy, rules = configuration.privacy, configuration.secure
    honest = rules.honest(cohort, minimum) if rules else 0
    return share_grid(privacy, configuration.scale_bits, honest) if privacy and honest > 0 else 0


def noise_share(
    configuration: RoundConfiguration, cohort: int, minimum: int
) -> Callable[[np.ndarray, int], np.ndarray]:
    """A function (int64 [n + k], n) -> int64 [n + k] that adds this device's noise to the first n values.

    cohort: number of devices in the cohort.
    minimum: least number of devices in a sum.

    Raises TrustError where the noise of such a cohort would not reach the round's sigma.
    """
    if configuration.privacy is None:
        return lambda encoding, _: encoding
    sigma = cohort_share_grid(configuration, cohort, minimum)
    if sigma < LEAST_SHARE_GRID:
        remedy = "nothing was given away; tell the institution"
        raise TrustError(f"no noise of {cohort} devices would keep the promise", where="secure round", remedy=remedy)

    def add(encoding: np.ndarray, count: int) -> np.ndarray:
        noised = encoding.copy()
        noised[:count] += discrete_gaussian(sigma, count)
        return noised

    return add
