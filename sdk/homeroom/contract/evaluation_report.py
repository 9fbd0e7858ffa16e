"""Evaluation report of a global version by one device, if its school wants that.

Accuracy on the device's own validation samples, for tasks with so many that a figure reveals nothing of one pupil; no
text and no counts by class. Sent signed as any request; off by default (`docs/network.md`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

LEAST_VALIDATION_SAMPLES = 20  # of a task in a report
REPORTED_DIGITS = 2  # decimal places of an accuracy

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class TaskReport(msgspec.Struct, frozen=True):
    """Accuracy of the new global version and of the version in use before it, if any, on the same samples."""

    samples: Annotated[int, msgspec.Meta(ge=LEAST_VALIDATION_SAMPLES, le=1 << 30)]
    now: Share
    before: Share | None = None


class EvaluationReport(msgspec.Struct, frozen=True, kw_only=True):
    """A report; `in_use`: the global version was taken, or the local one stays, being clearly better here."""

    version: Annotated[int, msgspec.Meta(ge=1, le=1 << 62)]
    in_use: Literal["global", "local"]
    tasks: Annotated[dict[Annotated[str, msgspec.Meta(max_length=128)], TaskReport], msgspec.Meta(max_length=64)]


def make_report(version: int, in_use: str, new: Mapping[str, Any], old: Mapping[str, Any]) -> EvaluationReport | None:
    """Report of `version`, or None where no task has LEAST_VALIDATION_SAMPLES.

    in_use: `global` or `local`.
    new, old: scores (`homeroom.data.tasks.metrics.Score`) by task, of the version and of the one in use before.
    """

    def rounded(value: float) -> float:
        return round(min(1.0, max(0.0, value)), REPORTED_DIGITS)

    tasks = {
        name: TaskReport(score.n, rounded(score.accuracy), rounded(old[name].accuracy) if name in old else None)
        for name, score in new.items()
        if score.n >= LEAST_VALIDATION_SAMPLES
    }
    return msgspec.convert({"version": version, "in_use": in_use, "tasks": tasks}, EvaluationReport) if tasks else None
