"""Settings of a training, and those that a bundle recommends."""

from __future__ import annotations

from typing import Any

import msgspec

from homeroom.contract.manifest import Manifest


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of a training.

    learning_rate: at its peak; warmup: share of the steps until then
    draw: further seed of batches and dropout alone, for rounds that keep one split of the subjects
    patience: epochs without a better validation score before the training cools down
    cooldown: epochs over which the rate then falls to 0, before the training stops
    validation: share of the samples, whole subjects
    proximal: mu of FedProx (Li et al. 2020)
    balance: 0 counts samples alike, 1 classes
    modality_dropout: probability with which each input of a task over any subset is left out of a step
    clip_norm: where above 0, bounds the norm of the summed gradient of one subject's samples in a batch, each sample's
        weights having a mean of 1 (before the division by the batch's size)
    constant_rate: for rounds of a federation, each a part of one long training
    checkpoint_s: seconds between checkpoints
    frozen: names of segments that are not trained
    nested: a step trains a tier drawn from those up to its own, so that the smaller ones answer well by themselves
        (ordered dropout: FjORD, Horvath et al. 2021); values outside the smallest have OUTER_TIER_RATE of the rate
    """

    epochs: int = 12
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    warmup: float = 0.1
    seed: int = 0
    draw: int = 0
    patience: int = 4
    cooldown: int = 4
    validation: float = 0.2
    proximal: float = 0.0
    balance: float = 0.5
    task_weights: dict[str, float] = {}
    modality_dropout: float = 0.0
    clip_norm: float = 0.0
    constant_rate: bool = False
    checkpoint_s: float = 5.0
    frozen: tuple[str, ...] = ()
    nested: bool = False


RECOMMENDED = (
    *("epochs", "learning_rate", "weight_decay", "warmup"),
    *("modality_dropout", "task_weights", "clip_norm", "nested"),
)


def advised(manifest: Manifest, **chosen: Any) -> Settings:
    """The settings that a bundle recommends, but for those `chosen`."""
    return Settings(**({name: getattr(manifest.training, name) for name in RECOMMENDED} | chosen))
