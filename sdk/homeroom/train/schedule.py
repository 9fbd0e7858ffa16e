"""The schedule of a training: learning rates, when to cool down and to stop, and which values of theta are frozen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from homeroom.contract.manifest import Manifest
from homeroom.runtime.graphs import Graphs
from homeroom.train.layer_freezing import frozen_after, segment_mask, shared_segments
from homeroom.train.settings import Settings
from homeroom.train.state import TrainState

OUTER_TIER_RATE = 1 / 3  # fewer devices feed these values, and a wide layer takes longer strides at the same rate

Rank = TypeVar("Rank", float, tuple[float, float])


@dataclass(frozen=True)
class EpochSchedule:
    """The schedule of one epoch.

    number: of the epoch, from 0
    role: of the gradient graphs that run: "grad", "grad_heads" or "grad_clipped"
    relative_rate: each value's share of the learning rate, float32 [P], 0 where it is frozen; 1.0 for all alike
    cooldown_start: epochs after which the cooldown begins, None while it does not
    """

    settings: Settings
    number: int
    role: str
    relative_rate: float | np.ndarray
    cooldown_start: int | None

    def learning_rate(self, step: int, batch: int, batches: int) -> float | np.ndarray:
        """Learning rate of a step, one for all values or float32 [P].

        step: number of the step in the training, from 0; batch: its number in the epoch, which has so many `batches`
        """
        settings = self.settings
        share = 1.0 if settings.constant_rate else one_cycle(step, settings.epochs * batches, settings.warmup)
        share *= cooldown_share(self.number + batch / batches, self.cooldown_start, settings.cooldown)
        return settings.learning_rate * share * self.relative_rate


class Schedule:
    """Decides from the settings and the epochs so far, and nothing else: a resumed training follows the same schedule.

    tiers: (graphs, positions of their values in theta) of each tier that is trained, the smallest first
    shared: bool [P], the values of the shared layers
    """

    def __init__(self, graphs: Graphs, manifest: Manifest, settings: Settings) -> None:
        self.settings = settings
        self.tiers = graphs.nested_tiers() if settings.nested else [(graphs, slice(None))]
        self.shared = segment_mask(graphs, shared_segments(manifest.layout))
        self._frozen = segment_mask(graphs, settings.frozen)
        self._cooldown = 0 if settings.constant_rate else settings.cooldown
        # A training at a constant rate is part of a longer one, and the other terms move the shared layers to the end.
        keeps_moving = settings.constant_rate or settings.proximal or settings.clip_norm or manifest.objectives
        self._freezes = not keeps_moving and len(self.tiers) == 1 and graphs.steps("grad_heads")[0].role == "grad_heads"
        self._tier_rate: float | np.ndarray = 1.0
        if len(self.tiers) > 1:
            self._tier_rate = np.full(len(self.shared), OUTER_TIER_RATE, np.float32)
            self._tier_rate[self.tiers[0][1]] = 1.0

    def frozen_after(self, state: TrainState) -> int | None:
        """Number of epochs after which the shared layers are frozen; None while they are not."""
        return frozen_after([epoch.moved for epoch in state.history], self.settings.epochs) if self._freezes else None

    def ended(self, state: TrainState) -> bool:
        """Whether all epochs are done, or the cooldown after those that brought nothing better."""
        start = self._cooldown_start(state)
        return state.epoch >= self.settings.epochs or (start is not None and state.epoch >= start + self._cooldown)

    def epoch(self, state: TrainState) -> EpochSchedule:
        """The schedule of the epoch that the state is in."""
        frozen = self._frozen if self.frozen_after(state) is None else self._frozen | self.shared
        heads_alone = frozen[self.shared].all()
        return EpochSchedule(
            settings=self.settings,
            number=state.epoch,
            role="grad_clipped" if self.settings.clip_norm else "grad_heads" if heads_alone else "grad",
            relative_rate=np.where(frozen, np.float32(0), self._tier_rate) if frozen.any() else self._tier_rate,
            cooldown_start=self._cooldown_start(state),
        )

    def _cooldown_start(self, state: TrainState) -> int | None:
        return cooldown_start([epoch.rank for epoch in state.history], self.settings.patience)


def one_cycle(step: int, total: int, warmup: float) -> float:
    """Share of the peak learning rate: up linearly over `warmup` of the steps, then down to 0 as a cosine."""
    rise = max(1.0, warmup * total)
    if step < rise:
        return min(1.0, (step + 1) / rise)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rise) / max(1.0, total - rise))))


def cooldown_start(values: Sequence[Rank], patience: int) -> int | None:
    """Number of epochs after which `patience` of them had brought no better value; None before.

    values: by epoch, of which a greater one is better.
    """
    best = 0
    for number, value in enumerate(values):
        best = number if value > values[best] else best
        if number - best >= patience:
            return number + 1
    return None


def cooldown_share(done: float, start: int | None, cooldown: int) -> float:
    """Share of the learning rate after `done` epochs: from 1 at `start` down linearly to 0 over `cooldown` epochs.

    The phase of decay that may begin at any step of a training (Haegele et al. 2024, "Scaling laws and compute-optimal
    training beyond fixed training durations").
    """
    return 1.0 if start is None else max(0.0, 1 - (done - start) / cooldown)
