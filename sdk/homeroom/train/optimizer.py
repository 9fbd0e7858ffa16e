"""Optimisers and schedules on theta, one flat vector, in place; numpy only."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


class AdamW:
    """Decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2) on a float32 vector [P], in place."""

    beta1, beta2, epsilon = 0.9, 0.999, 1e-8

    def __init__(self, size: int, weight_decay: float) -> None:
        self.weight_decay, self.steps = weight_decay, 0
        self.first, self.second = np.zeros(size, np.float32), np.zeros(size, np.float32)
        self._a, self._b = np.empty(size, np.float32), np.empty(size, np.float32)

    def step(self, theta: np.ndarray, gradient: np.ndarray, rate: float | np.ndarray) -> None:
        """Move theta [P] against gradient [P] by learning rate `rate`, one or [P]; float32, theta changes in place."""
        self.steps += 1
        a, b = self._a, self._b
        np.multiply(gradient, 1 - self.beta1, out=a)
        self.first *= self.beta1
        self.first += a
        np.multiply(gradient, gradient, out=a)
        a *= 1 - self.beta2
        self.second *= self.beta2
        self.second += a
        np.multiply(self.second, 1 / (1 - self.beta2**self.steps), out=a)
        np.sqrt(a, out=a)
        a += self.epsilon
        np.divide(self.first, a, out=b)
        b *= rate / (1 - self.beta1**self.steps)
        theta *= 1 - rate * self.weight_decay
        theta -= b


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
