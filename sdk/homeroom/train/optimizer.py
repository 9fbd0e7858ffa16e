"""AdamW on theta, one flat vector, in place."""

from __future__ import annotations

import numpy as np


class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2) on a float32 vector [P].

    first, second: float32 [P], moments of the gradient; steps: done so far
    """

    beta1, beta2, epsilon = 0.9, 0.999, 1e-8

    def __init__(self, size: int, weight_decay: float) -> None:
        self.weight_decay, self.steps = weight_decay, 0
        self.first, self.second = np.zeros(size, np.float32), np.zeros(size, np.float32)
        self._a, self._b = np.empty(size, np.float32), np.empty(size, np.float32)

    def step(self, theta: np.ndarray, gradient: np.ndarray, rate: float | np.ndarray) -> None:
        """Moves theta float32 [P] in place.

        gradient: float32 [P]; rate: learning rate, one for all values or float32 [P]
        """
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
