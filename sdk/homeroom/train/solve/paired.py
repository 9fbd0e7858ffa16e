"""Whether paired losses are clearly lower: the evidence on which a device departs from what it would do by itself."""

from __future__ import annotations

from math import comb

import numpy as np

ENOUGH_SAMPLES = 50  # where the standard error of the difference decides
LEAST_PAIRS = 10  # below that nothing does
FEW_CHANCE = 0.01  # of the sign test, of fewer than ENOUGH_SAMPLES


def clearly_lower(gain: np.ndarray) -> bool:
    """Whether losses fall by more than chance. gain: float [n], the loss of each sample before less that after.

    Always by more than the standard error of the mean gain. Of 10 to 49 samples also in so many of them that this
    would happen by chance once in 100 times (exact sign test, Dixon and Mood 1946; ties are left out): of so few losses
    the error is itself uncertain, and a single one can make it. It does not hold for other people than these samples
    are of: those of one person are not independent.
    """
    if len(gain) < LEAST_PAIRS or gain.mean() <= gain.std(ddof=1) / len(gain) ** 0.5:
        return False
    return len(gain) >= ENOUGH_SAMPLES or _sign_chance(int((gain > 0).sum()), int((gain < 0).sum())) <= FEW_CHANCE


def _sign_chance(better: int, worse: int) -> float:
    """The chance of so many better ones or more, if each were as likely to be worse."""
    count = better + worse
    return sum(comb(count, number) for number in range(better, count + 1)) / 2.0**count
