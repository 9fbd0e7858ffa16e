"""The plan of a training: what was chosen to fit the budget."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainingPlan:
    """What a training is to use, and what that was expected to take; None where nothing was measured here.

    `batch` is the largest of a step, `samples` the most (the newest); `why` gives the reasons in sentences.
    """

    threads: int | None
    batch: int
    modalities: tuple[str, ...]
    samples: int
    tier: str = "full"
    seconds: float | None = None
    feature_seconds: float | None = None
    megabytes: float | None = None
    why: tuple[str, ...] = ()
