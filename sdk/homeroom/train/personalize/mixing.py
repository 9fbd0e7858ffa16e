"""Mixing: a share of the personal weights, the rest of the shared ones.

Deng et al. 2020, "Adaptive Personalized Federated Learning" (APFL), equation 3: alpha v + (1 - alpha) w; here alpha is
chosen on held-out samples instead of by gradient. With few samples it stays below 1: a class that the person has not
shown yet is in no held-out sample either, so these favour a larger share than is good.
"""

from __future__ import annotations

import numpy as np

SHARES = (0.25, 0.5, 0.75)
LEAST_SAMPLES_FULL_SHARE = 100  # with which the personal weights alone are tried too


def shares(samples: int) -> tuple[float, ...]:
    """Shares to try for a person with so many samples."""
    return (*SHARES, 1.0) if samples >= LEAST_SAMPLES_FULL_SHARE else SHARES


def mix(shared: np.ndarray, personal: np.ndarray, share: float) -> np.ndarray:
    """The mixture float32 [P] of two thetas float32 [P]."""
    return np.asarray(shared + np.float32(share) * (personal - shared), np.float32)
