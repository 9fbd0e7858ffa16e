"""Settings of a training, and those that a bundle recommends."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from homeroom.contract.manifest import Manifest
from homeroom.errors import InputError


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
    distillation: weight of the answers of before beside the labels (`distillation`); 0: labels alone
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
    distillation: float = 0.0


RECOMMENDED = (
    *("epochs", "learning_rate", "weight_decay", "warmup"),
    *("modality_dropout", "task_weights", "clip_norm", "nested"),
)


def advised(manifest: Manifest, **chosen: Any) -> Settings:
    """The settings that a bundle recommends, but for those `chosen`."""
    return Settings(**({name: getattr(manifest.training, name) for name in RECOMMENDED} | chosen))


WHOLE = {"epochs": 1, "patience": 0, "cooldown": 0, "seed": 0, "draw": 0}  # the least of each whole number
SWITCHES = ("constant_rate", "nested")
LIMITS = {"warmup": 1.0, "validation": 1.0, "modality_dropout": 1.0}  # shares and probabilities; warmup may be all


def check_settings(settings: Settings, manifest: Manifest) -> None:
    """InputError where a setting has another type, is out of range, or names a task or segment that is not there."""
    if not isinstance(settings, Settings):
        what = f"settings is of type {type(settings).__name__}, and has to be Settings"
        raise InputError(what, remedy="such as Settings(epochs=12)")
    if faults := list(_faults(settings, manifest)):
        raise InputError(faults[0], where="settings", details=faults[1:])


def is_number(value: object) -> bool:
    """Whether it is an int or a float, and no NaN."""
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)


def _faults(settings: Settings, manifest: Manifest) -> Iterator[str]:
    tasks = {task.name for task in manifest.tasks} | {objective.name for objective in manifest.objectives}
    segments = {segment.name for segment in manifest.segments}
    for name, value in msgspec.structs.asdict(settings).items():
        if name in WHOLE:
            right, asked = type(value) is int and value >= WHOLE[name], f"a whole number from {WHOLE[name]}"
        elif name in SWITCHES:
            right, asked = isinstance(value, bool), "True or False"
        elif name == "task_weights":
            right = isinstance(value, Mapping) and value.keys() <= tasks and all(map(_is_amount, value.values()))
            asked = f"a dict of numbers from 0 for some of {', '.join(sorted(tasks))}"
        elif name == "frozen":
            right = isinstance(value, tuple | list) and all(isinstance(one, str) and one in segments for one in value)
            asked = f"a tuple of some of {', '.join(sorted(segments))}"
        else:
            most = LIMITS.get(name, math.inf)
            right = _is_amount(value) and (value < most or (name == "warmup" and value == most))
            right, asked = right and (value > 0 or name != "learning_rate"), "a number from 0"
            asked = "a number above 0" if name == "learning_rate" else f"a number from 0 to {most:g}"
            asked = asked.removesuffix(" to inf")
        if not right:
            yield f"{name} is {value!r}, and has to be {asked}"
    if settings.distillation and settings.clip_norm:
        yield "distillation and clip_norm exclude each other: the answers of before are outside of the bound"


def _is_amount(value: object) -> bool:
    return is_number(value) and 0 <= value < math.inf  # type: ignore[operator]
