"""A clip that follows the updates (Andrew et al. 2021, "Differentially Private Learning with Adaptive Clipping").

Each update carries one more number: whether it was within the clip before it was cut. Mechanism and promise stay what
they are: the number is one coordinate of the update, values and number together are at most `clip_grid` long, and the
aggregator's noise falls on it as on every other; so the ledger's event covers it. From the noised sum the next clip
follows by equation 1 there, C <- C exp(-RATE (share within - quantile)), which is post-processing, in exact fractions,
so that a replay gives the same clip on every machine. **When it does not hold**: as for any private round.
"""

from __future__ import annotations

from fractions import Fraction
from math import floor, isqrt

import msgspec

from homeroom.contract.codecs import ENCODED_LIMIT
from homeroom.contract.privacy import Privacy

RATE = Fraction(1, 5)  # of the geometric step; eta_C there
CLIPS_A_SIGNAL = 5  # a signal is at most a fifth of the clip: the values lose 2 % of their length
MOST_CLIP_CHANGE = 64  # times the first clip, up or down
SERIES_TERMS = 24  # of the exponential's series, for arguments up to RATE


def at(privacy: Privacy, clip_grid: int, scale_bits: int) -> Privacy:
    """The promise with the clip of one version; exact, since a clip has 24 bits at most."""
    return msgspec.structs.replace(privacy, clip_norm=clip_grid * 2.0**-scale_bits)


def values_grid(privacy: Privacy, scale_bits: int) -> int:
    """The longest that an update's values may be beside the number."""
    clip = privacy.clip_grid(scale_bits)
    return isqrt(clip * clip - (clip // CLIPS_A_SIGNAL) ** 2) if privacy.adapts else clip


def signal(privacy: Privacy, within: bool, scale_bits: int) -> int:
    """The number of one update: in proportion to (1 if it was within the clip, else 0) - quantile."""
    return floor((within - _quantile(privacy)) * _unit(privacy, scale_bits))


def next_clip(privacy: Privacy, total: int, updates: int, scale_bits: int) -> int:
    """The clip after a release, in units of the grid, from the noised sum of the numbers of `updates` (a constant).

    privacy: with the clip of that release.
    """
    clip, first = privacy.clip_grid(scale_bits), Fraction(total) / updates / _unit(privacy, scale_bits)
    step = -RATE * max(Fraction(-1), min(Fraction(1), first))
    factor, term = Fraction(1), Fraction(1)
    for number in range(1, SERIES_TERMS):
        term = term * step / number
        factor += term
    return floor(clip * factor)


def bounded(clip: int, start: Privacy, scale_bits: int) -> int:
    """A clip kept near the first one, and on the grid."""
    first = start.clip_grid(scale_bits)
    return max(CLIPS_A_SIGNAL, first // MOST_CLIP_CHANGE, min(clip, first * MOST_CLIP_CHANGE, ENCODED_LIMIT))


def _unit(privacy: Privacy, scale_bits: int) -> Fraction:
    """What stands for one whole update: so that the number of the rarer answer is a fifth of the clip."""
    quantile = _quantile(privacy)
    return Fraction(privacy.clip_grid(scale_bits) // CLIPS_A_SIGNAL) / max(quantile, 1 - quantile)


def _quantile(privacy: Privacy) -> Fraction:
    assert privacy.quantile is not msgspec.UNSET
    return Fraction(privacy.quantile)
