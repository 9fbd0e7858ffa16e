"""What a device may tell its aggregator of how a global version does there, if its school wants that.

Scores on the device's own validation samples, of tasks with enough of them that a figure says nothing of one pupil's;
no text, no counts by class. Sent signed as any request; off unless the device is told to (`docs/network.md`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

LEAST_VALIDATION_SAMPLES = 20  # validation samples of a task that is told about
REPORTED_DIGITS = 2  # that figures are rounded to

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class TaskReport(msgspec.Struct, frozen=True):
    """Accuracy of the new global version and, where there was one, of what was in use before, on the same samples."""

    samples: Annotated[int, msgspec.Meta(ge=LEAST_VALIDATION_SAMPLES, le=1 << 30)]
    now: Share
    before: Share | None = None


class EvaluationReport(msgspec.Struct, frozen=True, kw_only=True):
    """`in_use`: whether the global version was taken, or the local one stays, being clearly better here."""

    version: Annotated[int, msgspec.Meta(ge=1, le=1 << 62)]
    in_use: Literal["global", "local"]
    tasks: Annotated[dict[Annotated[str, msgspec.Meta(max_length=128)], TaskReport], msgspec.Meta(max_length=64)]


def make_report(version: int, in_use: str, new: Mapping[str, Any], old: Mapping[str, Any]) -> EvaluationReport | None:
    """A report of the scores (`homeroom.data.tasks.metrics.Score` by task) of a version and of what was used before.

    None where no task has enough samples.
    """

    def told(value: float) -> float:
        return round(min(1.0, max(0.0, value)), REPORTED_DIGITS)

    tasks = {
        name: TaskReport(score.n, told(score.accuracy), told(old[name].accuracy) if name in old else None)
        for name, score in new.items()
        if score.n >= LEAST_VALIDATION_SAMPLES
    }
    return msgspec.convert({"version": version, "in_use": in_use, "tasks": tasks}, EvaluationReport) if tasks else None
