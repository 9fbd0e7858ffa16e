"""The schedule of a training: learning rates, when to cool down and to stop, and which values of theta are frozen."""

from __future__ import annotations

import math
from collections.abc import Sequence


def one_cycle(step: int, total: int, warmup: float) -> float:
    """Share of the peak learning rate: up linearly over `warmup` of the steps, then down to 0 as a cosine."""
    rise = max(1.0, warmup * total)
    if step < rise:
        return min(1.0, (step + 1) / rise)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rise) / max(1.0, total - rise))))


def spent_after(values: Sequence[float], patience: int) -> int | None:
    """After how many epochs `patience` of them had brought no better value; None before. values: by epoch."""
    best = 0
    for number, value in enumerate(values):
        best = number if value > values[best] else best
        if number - best >= patience:
            return number + 1
    return None


def cooling(done: float, spent: int | None, cooldown: int) -> float:
    """Share of the rate after `done` epochs: down linearly from 1 to 0 over `cooldown` once patience is `spent`.

    The phase of decay that may begin at any step of a training (Haegele et al. 2024, "Scaling laws and compute-optimal
    training beyond fixed training durations").
    """
    return 1.0 if spent is None else max(0.0, 1 - (done - spent) / cooldown)
