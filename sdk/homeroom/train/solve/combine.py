"""One answer of two parts: the weighted mean of the calibrated log-probabilities of theta and of the solved head.

A product of experts whose weights sum to one (logarithmic opinion pool, Genest and Zidek 1986, section 3.3). Up to a
constant of the row, the mean of log-probabilities is the mean of logits over their temperatures, so the result is
logits again. Of numbers it is the mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from homeroom.contract.manifest import Task
from homeroom.data.tasks import losses
from homeroom.train.calibration import temperature

SOLVED_WEIGHT = 2 / 3  # at first
CANDIDATES = (0.0, 1 / 3, 1 / 2, 2 / 3, 5 / 6, 1.0)
LEAST_JUDGED_SAMPLES = 50  # validation samples with a label; with fewer the first weight stays
MASK = 1000.0  # logits beyond are masks, not evidence
BEYOND = 5.0  # how far a mask lies beyond a row's other logits, where theta may know better


@dataclass(frozen=True)
class Mix:
    """How the two parts of a task's answers count.

    solved: weight of the solved head; theta has the rest
    trained_temperature, solved_temperature: of each part; temperature: of the mean
    """

    solved: float = SOLVED_WEIGHT
    trained_temperature: float = 1.0
    solved_temperature: float = 1.0
    temperature: float = 1.0


def combined(mix: Mix, trained: np.ndarray, solved: np.ndarray) -> np.ndarray:
    """The outputs [n, width] of both parts together, before `mix.temperature`.

    A class that the solved head was never taught is theta's to know: where both count, its mask is no veto.
    """
    first, second = trained / mix.trained_temperature, solved / mix.solved_temperature
    if mix.solved < 1:
        second = _unmasked(second, np.abs(solved) > MASK)
    return np.asarray((1 - mix.solved) * first + mix.solved * second)


def _unmasked(outputs: np.ndarray, masked: np.ndarray) -> np.ndarray:
    """Outputs [n, width] with masks BEYOND the least and the greatest other value of their rows."""
    low = np.where(masked, np.inf, outputs).min(1, keepdims=True, initial=np.inf)
    high = np.where(masked, -np.inf, outputs).max(1, keepdims=True, initial=-np.inf)
    some = np.isfinite(low)  # else the row holds masks alone
    return np.asarray(np.clip(outputs, np.where(some, low - BEYOND, 0.0), np.where(some, high + BEYOND, 0.0)))


def choose_weight(task: Task, trained: np.ndarray, solved: np.ndarray, targets: np.ndarray) -> Mix:
    """The mix with the least loss on validation samples; SOLVED_WEIGHT unless that is clearly worse.

    trained, solved: outputs [n, width] of parts that did not learn from these samples. Clearly: by more than the
    standard error of the paired difference.
    """
    first = Mix(
        trained_temperature=temperature(task, trained, targets),
        solved_temperature=temperature(task, solved, targets),
    )
    mixes = [Mix(weight, first.trained_temperature, first.solved_temperature) for weight in CANDIDATES]
    best = first
    if len(targets) >= LEAST_JUDGED_SAMPLES:
        by_mix = {mix: losses(task, combined(mix, trained, solved), targets) for mix in (first, *mixes)}
        least = min(by_mix, key=lambda mix: float(by_mix[mix].mean()))
        gain = by_mix[first] - by_mix[least]
        best = least if gain.mean() > gain.std(ddof=1) / len(gain) ** 0.5 else first
    final = temperature(task, combined(best, trained, solved), targets)
    return Mix(best.solved, best.trained_temperature, best.solved_temperature, final)
