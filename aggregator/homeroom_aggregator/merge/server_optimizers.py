"""Server optimizers: how a mean update moves theta, one short function each.

Everything is elementwise in float64 (IEEE 754 additions, products, quotients and square roots), so a replay gives the
same bits on every machine. `mean` is the weighted mean update of one segment, float64 [size]; `moments` are the
optimizer's moments of it, by name, replaced and never changed in place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from homeroom.contract.round import RoundConfiguration, ServerOptimizer

Moments = dict[str, np.ndarray]  # float64 [size] each
Step = Callable[[np.ndarray, Moments, ServerOptimizer], tuple[np.ndarray, Moments]]


def fedavg(mean: np.ndarray, moments: Moments, _: ServerOptimizer) -> tuple[np.ndarray, Moments]:
    """McMahan et al. 2017, algorithm 1, as a step of size 1 along the mean."""
    return mean, moments


def fedavgm(mean: np.ndarray, moments: Moments, settings: ServerOptimizer) -> tuple[np.ndarray, Moments]:
    """Momentum at the server, Hsu et al. 2019, section 4.3: m = beta1 m + mean."""
    m = mean if "m" not in moments else settings.beta1 * moments["m"] + mean
    return m, {"m": m}


def fedadam(mean: np.ndarray, moments: Moments, settings: ServerOptimizer) -> tuple[np.ndarray, Moments]:
    """Reddi et al. 2021, algorithm 2: v = beta2 v + (1 - beta2) mean^2, from v = tau^2."""
    m, v = _first(mean, moments, settings)
    return _adapted(m, settings.beta2 * v + (1 - settings.beta2) * (mean * mean), settings)


def fedyogi(mean: np.ndarray, moments: Moments, settings: ServerOptimizer) -> tuple[np.ndarray, Moments]:
    """Reddi et al. 2021, algorithm 2: v = v - (1 - beta2) mean^2 sign(v - mean^2), from v = tau^2."""
    m, v = _first(mean, moments, settings)
    square = mean * mean
    return _adapted(m, v - (1 - settings.beta2) * square * np.sign(v - square), settings)


def _first(mean: np.ndarray, moments: Moments, settings: ServerOptimizer) -> tuple[np.ndarray, np.ndarray]:
    m = moments.get("m", np.zeros_like(mean))
    return settings.beta1 * m + (1 - settings.beta1) * mean, moments.get("v", np.full_like(mean, settings.tau**2))


def _adapted(m: np.ndarray, v: np.ndarray, settings: ServerOptimizer) -> tuple[np.ndarray, Moments]:
    return m / (np.sqrt(v) + settings.tau), {"m": m, "v": v}


STEPS: dict[str, Step] = {"fedavg": fedavg, "fedavgm": fedavgm, "fedadam": fedadam, "fedyogi": fedyogi}


@dataclass(frozen=True)
class OptimizerState:
    """The optimizer of a round configuration and its moments by segment, replaced with each step."""

    configuration: RoundConfiguration
    moments: dict[str, Moments]

    def step(self, name: str, theta: np.ndarray, mean: np.ndarray) -> np.ndarray:
        """Segment `name` of theta, float32 [size], after one mean update of it, float64 [size]."""
        settings = self.configuration.optimizer or ServerOptimizer()
        step, moments = STEPS[settings.name](mean, self.moments.get(name, {}), settings)
        if moments:
            self.moments[name] = moments
        moved: np.ndarray = (theta.astype(np.float64) + self.configuration.server_rate * step).astype(np.float32)
        return moved
