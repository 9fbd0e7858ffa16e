"""The promise of a private round, and the clip that a device keeps it with; numpy and errors only.

**Norm**: L2, over all shared segments together, of one update, or of each subject's part of one where the promise is by
subject. **Neighbouring relation**: one update, or one subject's part, is replaced by the
zero vector ("zero-out", Kairouz et al. 2021, definition 1.1), which is why every update of a private round holds every
shared segment and counts the same. **Sensitivity**: `clip_grid`, exactly, in units of the fixed-point grid: values are
rounded towards zero, so rounding never adds to a norm. **When it does not hold**: for an update that went round `clip`;
for what is visible from outside, such as that and when a device takes part; for one pupil whose data lie on several
devices, each of which is protected by itself, or, by subject, whose data lie under several names.
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

SQUARES_CHUNK = 1 << 14  # squares of values up to LIMIT whose int64 sum cannot overflow
NOISE_LIMIT = 1 << 40  # of the standard deviation, in grid units
ORDERS = np.array([1 + x / 10 for x in range(1, 100)] + [*range(11, 64), 128, 256, 512, 1024])  # of Rényi divergence


class Privacy(msgspec.Struct, frozen=True, kw_only=True):
    """Part of a signed round configuration. There is one scale: the noise is `noise_multiplier` times `clip_norm`.

    clip_norm: L2 bound of one update. epsilon, delta: the budget of one device over all releases that it enters.
    mechanism: discrete Gaussian noise, which the aggregator adds to a sum before anything of it is released
    (`central`), or of which each device adds a share inside a secure round (`distributed`). subjects: where it is set,
    the promise is about one subject (a pupil) of a device in place of all of the device: an update is the sum of at
    most so many parts, each made of one subject's samples alone and at most `clip_norm` long. quantile: where it is
    set, `clip_norm` is that of version 0 alone, and follows the share of updates that are within it
    (`homeroom.contract.adaptive_clipping`); the clip in force stands in each version's header. bands: where it is set,
    the noise of so many releases in a row is correlated, and a device enters at most one of them
    (`homeroom.contract.banded_matrix`, `homeroom_aggregator.merge.correlated_noise`).
    Fields that came later are unset by default, and then no part of what is signed or identified.
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
        """How many parts of at most `clip_norm` one update may hold."""
        return 1 if self.subjects is msgspec.UNSET else self.subjects

    @property
    def unit(self) -> Literal["device", "subject"]:
        """Whose data the promise is about."""
        return "device" if self.subjects is msgspec.UNSET else "subject"

    @property
    def adapts(self) -> bool:
        """Whether the clip is another one for each version."""
        return self.quantile is not msgspec.UNSET

    @property
    def apart(self) -> int:
        """Of how many releases in a row a device may enter one."""
        return 1 if self.bands is msgspec.UNSET else self.bands

    @property
    def finer_bits(self) -> int:
        """By how many bits the grid is finer that noise and sensitivity are on."""
        return 0 if self.bands is msgspec.UNSET else COEFFICIENT_BITS

    def clip_grid(self, scale_bits: int) -> int:
        """The longest that one part may be, in units of the grid `2**-scale_bits`."""
        return math.floor(Fraction(self.clip_norm) * (1 << scale_bits))

    def sensitivity_grid(self, scale_bits: int) -> int:
        """By how much one part moves what is noised, over all releases: `clip_grid`, but in a stream.

        In units of a grid that is `finer_bits` finer.
        """
        clip_grid = self.clip_grid(scale_bits)
        if self.bands is msgspec.UNSET:
            return clip_grid
        return math.isqrt(clip_grid**2 * sum(a * a for a in coefficients(self.bands)) - 1) + 1

    def limit_grid(self, scale_bits: int) -> int:
        """The longest that a whole update may be, in units of the grid."""
        return self.parts * self.clip_grid(scale_bits)

    def noise_grid(self, scale_bits: int) -> int:
        """The parameter sigma of the discrete Gaussian, in units of that grid; never below what was promised."""
        return math.ceil(Fraction(self.noise_multiplier) * self.sensitivity_grid(scale_bits))

    def check(self, scale_bits: int) -> None:
        """Raise ValueError unless clip and noise can be expressed on the grid."""
        if self.clip_grid(scale_bits) < 1 or self.limit_grid(scale_bits) > ENCODED_LIMIT:
            most = f" times {self.parts}" if self.parts > 1 else ""
            raise ValueError(f"clip_norm {self.clip_norm:g}{most} does not fit a grid of 2^-{scale_bits}")
        longest = ENCODED_LIMIT if self.adapts else 0
        if max(self.noise_grid(scale_bits), math.ceil(self.noise_multiplier * longest)) > NOISE_LIMIT:
            raise ValueError(f"noise_multiplier {self.noise_multiplier:g} does not fit a grid of 2^-{scale_bits}")


def length(values: np.ndarray, scale_bits: int) -> float:
    """The L2 norm of float [n] in units of the grid; UpdateError on values that are not finite."""
    found = float(np.sqrt(np.square(np.asarray(values, np.float64) * 2.0**scale_bits).sum()))
    if not math.isfinite(found):
        raise UpdateError("holds values that are not finite", code="not_finite")
    return found


def clip(values: np.ndarray, limit: int, scale_bits: int) -> np.ndarray:
    """float [n], a whole update or subject's part -> int32 [n] on the grid, whose L2 norm is at most `limit` units.

    Scaled down as a whole where it is longer (Abadi et al. 2016, algorithm 1), then rounded towards zero. Raises
    UpdateError on values that are not finite.
    """
    long, scaled = length(values, scale_bits), np.asarray(values, np.float64) * 2.0**scale_bits
    share = min(1.0, limit / long) if long else 1.0
    while True:
        grid = np.clip(np.trunc(scaled * share), -limit, limit).astype(np.int32)
        if squares(grid) <= limit * limit:
            return grid
        share *= 1 - 2.0**-30  # the float length was rounded down: a little shorter fits


def squares(values: np.ndarray) -> int:
    """The squared L2 norm of int32 [n] with magnitudes up to LIMIT: an exact integer of any size."""
    parts = (values[start : start + SQUARES_CHUNK].astype(np.int64) for start in range(0, len(values), SQUARES_CHUNK))
    return sum(int((part * part).sum()) for part in parts)


def spent(noise_multipliers: Iterable[float], delta: float) -> float:
    """The epsilon at `delta` of one device that entered one release with each of these multipliers.

    The discrete Gaussian is 1/(2 z^2)-concentrated (Canonne, Kamath, Steinke 2020, theorems 4 and 14), which adds up
    over releases that depend on each other; proposition 12 there turns it into epsilon. No amplification is claimed.
    """
    rho = sum(0.5 / (z * z) for z in noise_multipliers)
    if not rho:
        return 0.0
    found = rho * ORDERS + np.log1p(-1 / ORDERS) - np.log(delta * ORDERS) / (ORDERS - 1)
    return max(0.0, float(found.min()))
