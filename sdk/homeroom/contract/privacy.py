"""Differential privacy of a round: clip, sensitivity, noise scale, and the epsilon that releases spend.

**Norm**: L2, over all shared segments together, of one update, or of each subject's part where the unit is the subject.
**Neighbouring relation**: one update, or one subject's part, is replaced by the zero vector ("zero-out", Kairouz et al.
2021, definition 1.1); so every update of a private round holds every shared segment and has the same weight.
**Sensitivity**: `clip_grid`, exactly, in units of the fixed-point grid: values are rounded towards zero, so rounding
never adds to a norm. **When it does not hold**: for an update that was not made by `clip`; for what is visible from
outside, such as whether and when a device takes part; for a pupil whose data lie on several devices, each of which is
protected by itself, or, by subject, under several names.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from fractions import Fraction
from typing import Annotated, Literal

import msgspec
import numpy as np

from homeroom.contract.banded_matrix import COEFFICIENT_BITS, MOST_BANDS, coefficients
from homeroom.contract.codecs import ENCODED_LIMIT
from homeroom.errors import UpdateError

SQUARES_CHUNK = 1 << 14  # squares of values up to ENCODED_LIMIT: their int64 sum cannot overflow
NOISE_LIMIT = 1 << 40  # largest standard deviation, in grid units
ORDERS = np.array([1 + x / 10 for x in range(1, 100)] + [*range(11, 64), 128, 256, 512, 1024])  # of Rényi divergence


class Privacy(msgspec.Struct, frozen=True, kw_only=True):
    """The privacy terms of a signed round configuration.

    clip_norm: L2 bound of an update, or of each subject's part.
    noise_multiplier: standard deviation of the noise over the sensitivity.
    epsilon, delta: the budget of one device over all releases that it enters.
    mechanism: discrete Gaussian noise. `central`: the aggregator adds it before a release; `distributed`: each device
        adds a share inside a secure round.
    subjects: where set, the unit of privacy is one subject (a pupil), not the device: an update is the sum of parts,
        each of one subject's samples alone and of norm at most `clip_norm`; the sum is cut to this many times that.
    quantile: where set, `clip_norm` is the clip of version 0, and later ones follow this quantile of the updates' norms
        (`contract.adaptive_clipping`); each version's header states the clip in force.
    bands: where set, the noise of this many consecutive releases is correlated, and a device enters at most one of them
        (`contract.banded_matrix`, `homeroom_aggregator.merge.correlated_noise`).

    Fields that were added later are unset by default, and then not part of the signed document.
    """

    clip_norm: float
    noise_multiplier: float
    epsilon: float
    delta: float
    mechanism: Literal["central", "distributed"] = "central"
    subjects: Annotated[int, msgspec.Meta(ge=1, le=1 << 14)] | msgspec.UnsetType = msgspec.UNSET
    quantile: float | msgspec.UnsetType = msgspec.UNSET
    bands: Annotated[int, msgspec.Meta(ge=2, le=MOST_BANDS)] | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        for name in ("clip_norm", "noise_multiplier", "epsilon", "delta"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} of a private round must be above 0, and is {value}")
        if self.delta >= 1:
            raise ValueError(f"delta is a chance that the promise fails, and {self.delta:g} is not below 1")
        if self.bands is not msgspec.UNSET and (self.mechanism != "central" or self.adapts):
            raise ValueError("noise is correlated where the aggregator adds it, to sums of one and the same clip")
        if self.quantile is msgspec.UNSET:
            return
        if not 0 < self.quantile < 1:
            raise ValueError(f"quantile {self.quantile:g} is not between 0 and 1")
        if self.mechanism != "central" or self.unit != "device":
            raise ValueError("a clip adapts where the aggregator adds the noise, and the promise is by device")

    @property
    def parts(self) -> int:
        """The length of the longest update, in parts that are each clipped to `clip_norm`."""
        return 1 if self.subjects is msgspec.UNSET else self.subjects

    @property
    def unit(self) -> Literal["device", "subject"]:
        """The unit of privacy."""
        return "device" if self.subjects is msgspec.UNSET else "subject"

    @property
    def adapts(self) -> bool:
        """Whether the clip adapts from version to version."""
        return self.quantile is not msgspec.UNSET

    @property
    def min_separation(self) -> int:
        """Least distance between two releases that a device enters (b-min-sep, Choquette-Choo et al. 2023)."""
        return 1 if self.bands is msgspec.UNSET else self.bands

    @property
    def extra_bits(self) -> int:
        """Bits by which the grid of noise and sensitivity is finer than that of values."""
        return 0 if self.bands is msgspec.UNSET else COEFFICIENT_BITS

    def clip_grid(self, scale_bits: int) -> int:
        """Largest L2 norm of one part, in units of the grid `2**-scale_bits`."""
        return math.floor(Fraction(self.clip_norm) * (1 << scale_bits))

    def sensitivity_grid(self, scale_bits: int) -> int:
        """L2 sensitivity of all releases to one part, on the grid that is `extra_bits` finer.

        `clip_grid`, except where noise is correlated.
        """
        clip_grid = self.clip_grid(scale_bits)
        if self.bands is msgspec.UNSET:
            return clip_grid
        return math.isqrt(clip_grid**2 * sum(a * a for a in coefficients(self.bands)) - 1) + 1

    def limit_grid(self, scale_bits: int) -> int:
        """Largest L2 norm of a whole update, in units of the grid."""
        return self.parts * self.clip_grid(scale_bits)

    def part_grid(self, scale_bits: int, size: int) -> int:
        """Largest L2 norm of one of the parts whose sum is an update of `size` values, in units of the grid.

        By subject it leaves room for rounding: where a sum is cut to `limit_grid` (a projection on a ball, which brings
        no two sums further apart) and rounded towards zero, each value moves by less than 1. So one part more or less
        moves an update by at most `clip_grid`, however many parts there are.
        """
        return self.clip_grid(scale_bits) - (math.isqrt(size) + 2 if self.unit == "subject" else 0)

    def noise_grid(self, scale_bits: int) -> int:
        """Parameter sigma of the discrete Gaussian, on the grid that is `extra_bits` finer; rounded up."""
        return math.ceil(Fraction(self.noise_multiplier) * self.sensitivity_grid(scale_bits))

    def check(self, scale_bits: int) -> None:
        """Raises ValueError unless clip and noise can be expressed on the grid."""
        if self.clip_grid(scale_bits) < 1 or self.limit_grid(scale_bits) > ENCODED_LIMIT:
            most = f" times {self.parts}" if self.parts > 1 else ""
            raise ValueError(f"clip_norm {self.clip_norm:g}{most} does not fit a grid of 2^-{scale_bits}")
        largest_clip = ENCODED_LIMIT if self.adapts else 0
        if max(self.noise_grid(scale_bits), math.ceil(Fraction(self.noise_multiplier) * largest_clip)) > NOISE_LIMIT:
            raise ValueError(f"noise_multiplier {self.noise_multiplier:g} does not fit a grid of 2^-{scale_bits}")


def grid_norm(values: np.ndarray, scale_bits: int) -> float:
    """The L2 norm of float [n] in units of the grid; UpdateError on values that are not finite."""
    norm = float(np.sqrt(np.square(np.asarray(values, np.float64) * 2.0**scale_bits).sum()))
    if not math.isfinite(norm):
        raise UpdateError("holds values that are not finite", code="not_finite")
    return norm


def clip(values: np.ndarray, limit: int, scale_bits: int) -> np.ndarray:
    """Clips float [n], a whole update or a subject's part, to L2 norm `limit` on the grid; returns int32 [n].

    Scales the whole vector down where its norm is larger (Abadi et al. 2016, algorithm 1), then rounds towards zero.
    Raises UpdateError on values that are not finite.
    """
    norm, scaled = grid_norm(values, scale_bits), np.asarray(values, np.float64) * 2.0**scale_bits
    factor = min(1.0, limit / norm) if norm else 1.0
    while True:
        grid = np.clip(np.trunc(scaled * factor), -limit, limit).astype(np.int32)
        if squared_norm(grid) <= limit * limit:
            return grid
        factor *= 1 - 2.0**-30  # the float norm was rounded down


def squared_norm(values: np.ndarray) -> int:
    """Squared L2 norm of int32 [n] with magnitudes up to ENCODED_LIMIT, as an exact integer."""
    parts = (values[start : start + SQUARES_CHUNK].astype(np.int64) for start in range(0, len(values), SQUARES_CHUNK))
    return sum(int((part * part).sum()) for part in parts)


def epsilon_spent(noise_multipliers: Iterable[float], delta: float) -> float:
    """The epsilon at `delta` that one device spent in releases with these noise multipliers, one for each release.

    The discrete Gaussian with multiplier z is 1/(2 z^2)-concentrated (Canonne, Kamath, Steinke 2020, theorems 4 and
    14), which adds up under adaptive composition; proposition 12 there converts it to epsilon. No amplification by
    sampling is claimed.
    """
    rho = sum(0.5 / (z * z) for z in noise_multipliers)
    if not rho:
        return 0.0
    epsilons = rho * ORDERS + np.log1p(-1 / ORDERS) - np.log(delta * ORDERS) / (ORDERS - 1)
    return max(0.0, float(epsilons.min()))
