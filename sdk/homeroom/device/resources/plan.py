"""The plan of a training that fits its budget."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainingPlan:
    """The choices for a training and their predicted cost, which is None where nothing was measured here.

    `batch`: the largest of a step. `samples`: how many of the newest. `why`: reasons, in sentences.
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
