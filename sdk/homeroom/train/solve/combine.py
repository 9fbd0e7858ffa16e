"""One answer of two parts: the weighted mean of the calibrated log-probabilities of theta and of the solved head.

A product of experts whose weights sum to one (logarithmic opinion pool, Genest and Zidek 1986, section 3.3). Up to a
constant of the row, the mean of log-probabilities is the mean of logits over their temperatures, so the result is
logits again. Of numbers it is the mean. What no solved sample teaches (a class that only others have, a label that all
have, an input that is not covered) theta answers alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from homeroom.contract.continuation import MASKED_LOGIT, masked_columns
from homeroom.contract.manifest import Task
from homeroom.data.tasks import losses
from homeroom.train.calibration import temperature
from homeroom.train.solve.paired import clearly_lower

SOLVED_WEIGHT = 2 / 3  # at first
CANDIDATES = (0.0, 1 / 3, 1 / 2, 2 / 3, 5 / 6, 1.0)
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


@dataclass(frozen=True)
class SolvedOutputs:
    """Outputs of a solved head.

    values: float64 [n, width]
    known: bool [n, width], those that its samples say anything of
    exclusive: whether they are logits of which one is right
    distance: float64 [n], of `distance.nearest_class`; None of a head without classes
    """

    values: np.ndarray
    known: np.ndarray
    exclusive: bool = False
    distance: np.ndarray | None = None

    def subset(self, rows: np.ndarray) -> SolvedOutputs:
        """The outputs of the samples with these numbers."""
        distance = None if self.distance is None else self.distance[rows]
        return SolvedOutputs(self.values[rows], self.known[rows], self.exclusive, distance)

    def columns(self, chosen: np.ndarray) -> SolvedOutputs:
        """The outputs of some columns, bool [width]."""
        values = np.ascontiguousarray(self.values[:, chosen])
        return SolvedOutputs(values, np.ascontiguousarray(self.known[:, chosen]), self.exclusive, self.distance)


@dataclass(frozen=True)
class SolvedPart:
    """The solved part of answers for some samples, by task.

    mixes: how outputs count beside theta's; where there is none, theta never learned the task, and they answer alone
    others: outputs of the sums of other schools alone, to be compared with
    priors: of `own.moved`, by task
    unlettered: tasks that are clearly answered better without letters
    """

    outputs: Mapping[str, SolvedOutputs]
    mixes: Mapping[str, Mix]
    others: Mapping[str, SolvedOutputs] = field(default_factory=dict)
    priors: Mapping[str, float] = field(default_factory=dict)
    unlettered: frozenset[str] = frozenset()

    def subset(self, rows: np.ndarray) -> SolvedPart:
        """The part of the samples with these numbers."""
        outputs, others = (
            {name: one.subset(rows) for name, one in some.items()} for some in (self.outputs, self.others)
        )
        return replace(self, outputs=outputs, others=others)

    def answered(self, task: str, trained: np.ndarray) -> np.ndarray:
        """The calibrated outputs [n, width] of a task that is solved, beside theta's."""
        mix = self.mixes.get(task)
        return answered(mix, trained, self.outputs[task]) if mix else self.outputs[task].values

    def divided(self, task: str, trained: np.ndarray) -> np.ndarray:
        """bool [n]: where both parts answer a solved task of exclusive classes, each another that the solved one knows.

        trained: theta's outputs [n, width].
        """
        mix, solved = self.mixes.get(task), self.outputs[task]
        if mix is None or not (0 < mix.solved < 1) or not solved.exclusive:
            return np.zeros(len(trained), bool)
        first = trained.argmax(1)
        second = np.where(solved.known, solved.values, -np.inf).argmax(1)
        known = np.take_along_axis(solved.known, first[:, None], 1)[:, 0]
        return np.asarray((first != second) & known)


NOT_SOLVED = SolvedPart({}, {})


def answered(mix: Mix, trained: np.ndarray, solved: SolvedOutputs) -> np.ndarray:
    """The calibrated outputs [n, width] of both parts together.

    Of classes that exclude each other the solved head tells those it knows from one another, and theta how likely it is
    one of them. A new label that neither was taught stays masked, and leaves the others as they are without it.
    """
    shut = masked_columns(trained) & ~solved.known.any(0)
    if not shut.any() or shut.all():
        return _answered(mix, trained, solved)
    both = np.full(trained.shape, MASKED_LOGIT)
    both[:, ~shut] = _answered(mix, np.ascontiguousarray(trained[:, ~shut]), solved.columns(~shut))
    return both


def _answered(mix: Mix, trained: np.ndarray, solved: SolvedOutputs) -> np.ndarray:
    if mix.solved == 0:
        return np.asarray(trained / mix.trained_temperature, np.float64)
    masked = (np.abs(trained) > MASK) & solved.known & (np.abs(solved.values) <= MASK)
    trained = np.where(masked, _unmasked(trained, masked), trained)  # a new label that only solved samples teach yet
    alone = np.asarray(trained / mix.trained_temperature, np.float64)
    both = combined(mix, trained, solved.values) / mix.temperature
    if solved.known.all():
        return both
    if not solved.exclusive:
        return np.asarray(np.where(solved.known, both, alone))
    total, some = _log_sum(alone), np.where(solved.known, alone, -np.inf)
    among = np.where(solved.known, both, -np.inf)
    has = solved.known.any(1, keepdims=True)
    with np.errstate(invalid="ignore"):  # rows of which nothing is known
        told = among - _log_sum(among) + _log_sum(some) - total
    return np.asarray(np.where(solved.known & has, told, alone - total))


def _log_sum(logits: np.ndarray) -> np.ndarray:
    """[n, 1]: the logarithm of the sum of exponentials; minus infinity of nothing."""
    top = logits.max(1, keepdims=True)
    base = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        return np.asarray(base + np.log(np.exp(logits - base).sum(1, keepdims=True)))


def choose_weight(
    task: Task,
    trained: np.ndarray,
    solved: SolvedOutputs,
    targets: np.ndarray,
    weight: float = SOLVED_WEIGHT,
) -> Mix:
    """The mix with the least loss on validation samples; that of `weight` unless it is clearly worse (`paired`).

    trained, solved: outputs [n, width] of parts that did not learn from these samples.
    """
    known = (solved.known | (targets <= 0.5)).all(1) & solved.known.any(1)  # what is right is known
    trained_temperature = temperature(task, trained, targets)
    solved_temperature = temperature(task, solved.values[known], targets[known])
    first, *mixes = (Mix(one, trained_temperature, solved_temperature) for one in (weight, *CANDIDATES))
    best = first
    if len(targets):
        by_mix = {mix: losses(task, answered(mix, trained, solved), targets) for mix in (first, *mixes)}
        least = min(by_mix, key=lambda mix: float(by_mix[mix].mean()))
        best = least if clearly_lower(by_mix[first] - by_mix[least]) else first
    final = temperature(task, answered(best, trained, solved), targets) if best.solved else 1.0
    return Mix(best.solved, trained_temperature, solved_temperature, final)
