"""The plan of benchmarks/privacy.py: sizes, mechanisms, and the promise and round of each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import msgspec

from homeroom.contract.privacy import Privacy, epsilon_spent
from homeroom.contract.round import RoundConfiguration
from homeroom.contract.secagg import SecureRules
from homeroom.runtime.bundle import Bundle
from homeroom.train.settings import Settings

DEVICES, DELTA, CLIP = 200, 1e-5, 0.5
PUPILS = 7  # of a device, with a picture each
FURTHER = 8.0  # server rate by subject: the mean of what single pupils teach is shorter than that of whole devices
BANDS = 4  # of the stream: a quarter of the devices is in each of its releases
LONG = 4.0  # times CLIP: where the clip that adapts begins
LOCAL = Settings(epochs=2, learning_rate=1e-2, weight_decay=0.0, constant_rate=True, balance=0.0)
RULES = SecureRules(minimum=140, cohort=DEVICES, drop_rate=0.3, corrupt_rate=0.1)
EXCESS = math.sqrt(DEVICES / RULES.honest(DEVICES, RULES.minimum))  # of distributed noise over what is counted on

Mechanism = Literal["none", "central", "distributed", "subject", "long clip", "adaptive", "rotating", "stream"]
MECHANISMS: tuple[Mechanism, ...] = (
    *("central", "distributed", "subject", "long clip", "adaptive", "rotating", "stream"),
)
IN_TURN = ("rotating", "stream")  # a release has a quarter of the devices, and there are four times as many
COMPARED = ("long clip", "rotating")  # run at the least epsilon alone, beside what improves on them
ATTACKED: tuple[Mechanism, ...] = ("central", "subject", "adaptive", "stream")
ENTERED = 2  # releases that the canary of an attack enters


@dataclass(frozen=True)
class Plan:
    """How much is run. rounds: releases that each device enters."""

    seeds: int
    epsilons: tuple[float, ...]
    rounds: int
    trials: int
    draws: int


FULL = Plan(seeds=3, epsilons=(1, 2, 4, 8), rounds=8, trials=240, draws=400_000)
QUICK = Plan(seeds=1, epsilons=(2, 8), rounds=8, trials=60, draws=100_000)


@dataclass(frozen=True)
class Setting:
    """One way to keep a promise, or none. in_turn: of the run without noise, which releases it is compared with."""

    mechanism: Mechanism
    epsilon: float | None = None
    in_turn: bool = False

    def promise(self, rounds: int) -> Privacy | None:
        if self.epsilon is None:
            return None
        privacy = promise(self.epsilon, rounds)
        if self.mechanism == "distributed":  # all devices survive, the ledger counts the honest ones' noise
            return msgspec.structs.replace(privacy, noise_multiplier=privacy.noise_multiplier * EXCESS)
        if self.mechanism == "subject":
            return msgspec.structs.replace(privacy, subjects=PUPILS)
        if self.mechanism in ("long clip", "adaptive"):
            long = msgspec.structs.replace(privacy, clip_norm=CLIP * LONG)
            return msgspec.structs.replace(long, quantile=0.5) if self.mechanism == "adaptive" else long
        return msgspec.structs.replace(privacy, bands=BANDS) if self.mechanism == "stream" else privacy

    def round(self, bundle: Bundle, rounds: int) -> RoundConfiguration:
        buffer_size = DEVICES // BANDS if self.in_turn else DEVICES
        return RoundConfiguration(
            bundle_id=bundle.bundle_id,
            buffer_size=buffer_size,
            privacy=self.promise(rounds),
            max_staleness=BANDS,
            server_rate=FURTHER if self.mechanism == "subject" else 1.0,
        )


def settings(plan: Plan) -> list[Setting]:
    """Those without noise first: the others are compared with them."""
    found, least = [Setting("none"), Setting("none", in_turn=True)], min(plan.epsilons)
    for name in MECHANISMS:
        chosen = (least,) if name in COMPARED else reversed(plan.epsilons)
        found += [Setting(name, epsilon, name in IN_TURN) for epsilon in chosen]
    return found


def promise(epsilon: float, rounds: int) -> Privacy:
    """The least noise with which one device may enter so many releases within epsilon."""
    low, high = 0.01, 1000.0
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if epsilon_spent([middle] * rounds, DELTA) <= epsilon else (middle, high)
    return Privacy(clip_norm=CLIP, noise_multiplier=round(high + 5e-5, 4), epsilon=epsilon, delta=DELTA)
