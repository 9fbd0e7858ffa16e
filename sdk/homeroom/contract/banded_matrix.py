"""Banded square-root factorization, the matrix mechanism of a stream of private releases.

Kalinin, Lampert 2024, "Banded Square Root Matrix Factorization for Differentially Private Model Training": the matrix
of all prefix sums is A = C C with C lower triangular, Toeplitz and f_k = binom(2k, k) / 4^k on its k-th diagonal
(Fichtenberger, Henzinger, Upadhyay 2023); only the first `bands` diagonals are kept. Noise is added to C x, x being the
sums of the releases, and C^-1 is then post-processing: the matrix mechanism of DP-FTRL (Kairouz et al. 2021; Denisov et
al. 2022; Choquette-Choo et al. 2023). Here f_k is rounded to a multiple of 2^-COEFFICIENT_BITS, so that C x is whole.
"""

from __future__ import annotations

from math import comb

COEFFICIENT_BITS = 10  # after the binary point
MOST_BANDS = 64


def coefficients(bands: int) -> tuple[int, ...]:
    """f_0 to f_{bands - 1} in units of 2^-COEFFICIENT_BITS; the first is 1, and they decrease."""
    return tuple((comb(2 * k, k) * (2 << COEFFICIENT_BITS) + 4**k) // (2 * 4**k) for k in range(bands))
