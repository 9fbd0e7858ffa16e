"""How to train: what may be chosen, and what a bundle recommends; imports contracts."""

from __future__ import annotations

from typing import Any

import msgspec

from homeroom.contract.manifest import Manifest


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How to train. `balance`: 0 counts samples alike, 1 classes; `proximal` is FedProx's mu (Li et al. 2020).

    `clip_norm`, where above 0, bounds what one subject's samples in a batch add to its gradient: the norm of their
    summed gradient, each sample's weights having a mean of 1 (before the division by the batch's size).
    `modality_dropout`: the chance with which each input of a task over any subset is left out of a step.
    `nested`: a step trains a tier drawn from those up to its own, so that the smaller ones answer well by themselves
    (ordered dropout: FjORD, Horvath et al. 2021); what the smallest lacks learns at OUTER_TIER_RATE of the rate.
    """

    epochs: int = 12
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    warmup: float = 0.1
    seed: int = 0
    draw: int = 0  # further seed of batches and dropout alone, for rounds that keep one split of the subjects
    patience: int = 4  # epochs without a better validation score before training cools down
    cooldown: int = 4  # epochs over which the rate then falls to 0, before training stops
    validation: float = 0.2  # share of the samples, whole subjects
    proximal: float = 0.0
    balance: float = 0.5
    task_weights: dict[str, float] = {}
    modality_dropout: float = 0.0
    clip_norm: float = 0.0
    constant_rate: bool = False  # for rounds of a federation, each a part of one long training
    checkpoint_s: float = 5.0
    frozen: tuple[str, ...] = ()  # segments that stay as they are
    nested: bool = False


ADVICE = (
    "epochs",
    "learning_rate",
    "weight_decay",
    "warmup",
    "modality_dropout",
    "task_weights",
    "clip_norm",
    "nested",
)


def advised(manifest: Manifest, **chosen: Any) -> Settings:
    """What a bundle recommends, but for what is `chosen`."""
    return Settings(**({name: getattr(manifest.training, name) for name in ADVICE} | chosen))
