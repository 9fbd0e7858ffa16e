"""Adaptive clipping (Andrew et al. 2021, "Differentially Private Learning with Adaptive Clipping").

Each update carries a signal: whether its norm was within the clip before it was clipped. The signal is one coordinate
of the update: values and signal together have norm at most `clip_grid`, and the aggregator adds noise to it as to any
coordinate, so the ledger's event covers it. The next clip follows from the noised sum by equation 1 there, C <- C
exp(-RATE (share within - quantile)). That is post-processing, in exact fractions: a replay gives the same clip on every
machine. **When it does not hold**: as for any private round.
"""

from __future__ import annotations

from fractions import Fraction
from math import floor, isqrt

import msgspec

from homeroom.contract.codecs import ENCODED_LIMIT
from homeroom.contract.privacy import Privacy

RATE = Fraction(1, 5)  # of the geometric update; eta_C there
CLIPS_A_SIGNAL = 5  # a signal is at most a fifth of the clip: the values' norm loses 2 %
MOST_CLIP_CHANGE = 64  # times the first clip, up or down
SERIES_TERMS = 24  # of the exponential's series, for arguments up to RATE


def with_clip(privacy: Privacy, clip_grid: int, scale_bits: int) -> Privacy:
    """The terms with the clip of one version; exact, since a clip has at most 24 bits."""
    return msgspec.structs.replace(privacy, clip_norm=clip_grid * 2.0**-scale_bits)


def values_grid(privacy: Privacy, scale_bits: int) -> int:
    """Largest L2 norm of an update's values beside the signal, in units of the grid."""
    clip = privacy.clip_grid(scale_bits)
    return isqrt(clip * clip - (clip // CLIPS_A_SIGNAL) ** 2) if privacy.adapts else clip


def signal(privacy: Privacy, within: bool, scale_bits: int) -> int:
    """The signal of one update, proportional to (1 if within the clip, else 0) - quantile."""
    return floor((within - _quantile(privacy)) * _unit(privacy, scale_bits))


def next_clip(privacy: Privacy, total: int, updates: int, scale_bits: int) -> int:
    """The clip after a release, in units of the grid.

    privacy: the terms with the clip of that release.
    total: noised sum of the signals of `updates` updates, a constant.
    """
    clip, mean = privacy.clip_grid(scale_bits), Fraction(total) / updates / _unit(privacy, scale_bits)
    step = -RATE * max(Fraction(-1), min(Fraction(1), mean))
    factor, term = Fraction(1), Fraction(1)
    for number in range(1, SERIES_TERMS):
        term = term * step / number
        factor += term
    return floor(clip * factor)


def bounded_clip(clip: int, start: Privacy, scale_bits: int) -> int:
    """The clip, bounded to MOST_CLIP_CHANGE times the first one, and to the grid."""
    first = start.clip_grid(scale_bits)
    return max(CLIPS_A_SIGNAL, first // MOST_CLIP_CHANGE, min(clip, first * MOST_CLIP_CHANGE, ENCODED_LIMIT))


def _unit(privacy: Privacy, scale_bits: int) -> Fraction:
    """The signal that stands for one update: the larger of its two values is a fifth of the clip."""
    quantile = _quantile(privacy)
    return Fraction(privacy.clip_grid(scale_bits) // CLIPS_A_SIGNAL) / max(quantile, 1 - quantile)


def _quantile(privacy: Privacy) -> Fraction:
    assert privacy.quantile is not msgspec.UNSET
    return Fraction(privacy.quantile)
