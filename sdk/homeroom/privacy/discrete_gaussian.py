"""Exact discrete Gaussian noise on the integers, from the system's secure generator.

After Canonne, Kamath, Steinke 2020, "The Discrete Gaussian for Differential Privacy", algorithms 1 to 3, for whole
arrays at once. Every probability is a fraction of integers, sampled with uniform integers. No floating point is used:
attacks on the low bits of a noised float (Mironov 2012) do not apply. There is no seed, and none is recorded. The
running time depends on the drawn values: an attacker who times the sampler to microseconds is not kept out.
"""

from __future__ import annotations

import secrets

import numpy as np

CHUNK_CANDIDATES = 1 << 16  # candidates at once
SIGMA_LIMIT = 1 << 40


def discrete_gaussian(sigma: int, size: int) -> np.ndarray:
    """int64 [size], each k with probability proportional to exp(-k^2 / (2 sigma^2)); algorithm 3 with t = sigma."""
    if not 1 <= sigma <= SIGMA_LIMIT:
        raise ValueError(f"sigma {sigma} is not between 1 and {SIGMA_LIMIT}")
    samples: list[np.ndarray] = []
    missing = size
    while missing > 0:
        y = _discrete_laplace(sigma, min(CHUNK_CANDIDATES, 3 * missing + 64))
        # exp(-d^2 / (2 sigma^2)) of d = ||y| - sigma| = q sigma + r is exp(-q^2/2 - q r/sigma - r^2/(2 sigma^2))
        q, r = np.divmod(np.abs(np.abs(y) - sigma), sigma)
        kept = _exp_minus([(r, sigma), (r, sigma), (1, 2)])
        kept &= _powers(q * q, [(1, 2)])
        kept &= _powers(q, [(r, sigma)])
        samples.append(y[kept][:missing])
        missing -= len(samples[-1])
    return np.concatenate(samples) if samples else np.zeros(0, np.int64)


def _discrete_laplace(t: int, count: int) -> np.ndarray:
    """Up to `count` values int64, each k with probability proportional to exp(-|k| / t); algorithm 2 with s = 1."""
    u = uniform(t, count)
    u = u[_exp_minus([(u, t)])]
    v, going = np.zeros(len(u), np.int64), np.ones(len(u), bool)
    while going.any():
        going[going] = _exp_minus([(np.ones(int(going.sum()), np.int64), 1)])
        v += going
    y: np.ndarray = u + t * v
    negative = uniform(2, len(y)) == 1
    kept = ~(negative & (y == 0))
    y[negative] *= -1
    accepted: np.ndarray = y[kept]
    return accepted


Factor = tuple[np.ndarray | int, int]  # numerators [n] (or one for all) and a denominator; at most 1


def _exp_minus(factors: list[Factor]) -> np.ndarray:
    """bool [n], each True with probability exp(-g), where g in [0, 1] is the product of the factors; algorithm 1."""
    count = next(len(top) for top, _ in factors if isinstance(top, np.ndarray))
    odd, alive, k = np.ones(count, bool), np.arange(count), 1
    while len(alive):
        happens = uniform(k, len(alive)) == 0
        for top, bottom in factors:
            tops = top[alive] if isinstance(top, np.ndarray) else top
            happens &= uniform(bottom, len(alive)) < tops
        alive, k = alive[happens], k + 1
        odd[alive] ^= True
    return odd


def _powers(times: np.ndarray, factors: list[Factor]) -> np.ndarray:
    """bool [n], each True with probability exp(-g * times)."""
    kept = np.ones(len(times), bool)
    left = np.flatnonzero(times > 0)
    done = 0
    while len(left):
        chosen: list[Factor] = [
            (top[left] if isinstance(top, np.ndarray) else np.full(len(left), top), bottom) for top, bottom in factors
        ]
        passed = _exp_minus(chosen)
        kept[left[~passed]] = False
        done += 1
        left = left[passed & (times[left] > done)]
    return kept


def uniform(below: int, count: int) -> np.ndarray:
    """int64 [count], uniform on 0 to below - 1, by rejection sampling of random bits."""
    if below == 1:
        return np.zeros(count, np.int64)
    width = 4 if below <= 1 << 32 else 8
    mask = (1 << (below - 1).bit_length()) - 1
    values = _bits(width, count) & mask
    while len(wrong := np.flatnonzero(values >= below)):
        values[wrong] = _bits(width, len(wrong)) & mask
    return values


def _bits(width: int, count: int) -> np.ndarray:
    """int64 [count] of random bytes, the highest bit of 8 left out."""
    drawn = np.frombuffer(secrets.token_bytes(width * count), f"<u{width}")
    return (drawn >> 1 if width == 8 else drawn).astype(np.int64)
