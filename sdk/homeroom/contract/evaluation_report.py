"""Evaluation report of a global version by one device, if its school wants that.

Scores on the device's own validation samples, for tasks with so many that a figure reveals nothing of one pupil; no
text and no counts by class. Sent signed as any request; off by default (`docs/network.md`).
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Annotated, Any, Literal

import msgspec

from homeroom.contract.manifest import NO_UNIT

LEAST_VALIDATION_SAMPLES = 20  # of a task in a report
REPORTED_DIGITS = 2  # decimal places of an accuracy or a skill, digits of an error
LEAST_VARIANCE = 0.05  # of one sample's part in a skill: a perfect score on a few samples is not a certain one

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Samples = Annotated[int, msgspec.Meta(ge=LEAST_VALIDATION_SAMPLES, le=1 << 30)]
Amount = Annotated[float, msgspec.Meta(ge=0, le=1e30)]
TaskName = Annotated[str, msgspec.Meta(max_length=128)]


def share_error(share: float, count: int) -> float:
    """Standard error of a share of so many samples."""
    return float((max(share * (1 - share), LEAST_VARIANCE) / count) ** 0.5)


class TaskReport(msgspec.Struct, frozen=True):
    """Accuracy of the new global version and of the version in use before it, if any, on the same samples."""

    samples: Samples
    now: Share
    before: Share | None = None

    @property
    def skill(self) -> float:
        """Of the new version: its accuracy."""
        return self.now

    @property
    def gain(self) -> float:
        """In accuracy."""
        return 0.0 if self.before is None else self.now - self.before

    @property
    def error(self) -> float:
        """Standard error of the gain, if nothing changed."""
        return 2**0.5 * share_error(self.now if self.before is None else self.before, self.samples)


class NumberFigures(msgspec.Struct, frozen=True):
    """Errors of numbers in their unit; skill, error: as of `homeroom.data.tasks.metrics.Score`."""

    mae: Amount
    rmse: Amount
    skill: Annotated[float, msgspec.Meta(ge=-1, le=1)]
    error: Annotated[float, msgspec.Meta(ge=0, le=1e9)]
    r2: Annotated[float, msgspec.Meta(le=1)] | None = None


class NumberReport(msgspec.Struct, frozen=True):
    """As `TaskReport`, of a task whose answers are numbers. unit: as it is said after one."""

    samples: Samples
    unit: Annotated[str, msgspec.Meta(max_length=24)]
    now: NumberFigures
    before: NumberFigures | None = None

    @property
    def skill(self) -> float:
        """Of the new version."""
        return self.now.skill

    @property
    def gain(self) -> float:
        """In skill."""
        return 0.0 if self.before is None else self.now.skill - self.before.skill

    @property
    def error(self) -> float:
        """Standard error of the gain, if nothing changed."""
        return 2**0.5 * (self.before or self.now).error


ReportedTask = TaskReport | NumberReport


class EvaluationReport(msgspec.Struct, frozen=True, kw_only=True):
    """A report; `in_use`: the global version was taken, or the local one stays, being clearly better here.

    numbers: a later field, which older readers ignore: so none takes the error of a number for an accuracy.
    """

    version: Annotated[int, msgspec.Meta(ge=1, le=1 << 62)]
    in_use: Literal["global", "local"]
    tasks: Annotated[dict[TaskName, TaskReport], msgspec.Meta(max_length=64)]
    numbers: Annotated[dict[TaskName, NumberReport], msgspec.Meta(max_length=64)] = {}

    @property
    def every_task(self) -> dict[str, ReportedTask]:
        """Of `tasks` and `numbers`."""
        return {**self.tasks, **self.numbers}


def make_report(version: int, in_use: str, new: Mapping[str, Any], old: Mapping[str, Any]) -> EvaluationReport | None:
    """Report of `version`, or None where no task has LEAST_VALIDATION_SAMPLES.

    in_use: `global` or `local`.
    new, old: scores (`homeroom.data.tasks.metrics.Score`) by task, of the version and of the one in use before.
    """
    tasks: dict[str, TaskReport] = {}
    numbers: dict[str, NumberReport] = {}
    for name, score in new.items():
        before = old.get(name)
        if score.n < LEAST_VALIDATION_SAMPLES:
            continue
        if score.accuracy is not None:
            tasks[name] = TaskReport(
                score.n, _share(score.accuracy), None if before is None else _share(before.accuracy)
            )
        elif figures := _figures(score):
            numbers[name] = NumberReport(score.n, score.unit or NO_UNIT, figures, _figures(before))
    if not tasks and not numbers:
        return None
    report = EvaluationReport(version=version, in_use=in_use, tasks=tasks, numbers=numbers)  # type: ignore[arg-type]
    return msgspec.convert(msgspec.to_builtins(report), EvaluationReport)


def _share(value: float) -> float:
    return round(min(1.0, max(0.0, value)), REPORTED_DIGITS)


def _figures(score: Any) -> NumberFigures | None:
    """The errors of a score of numbers; None where it has none that are finite."""
    if score is None or score.mae is None or score.rmse is None or not isfinite(score.rmse):
        return None
    mae, rmse = (float(f"{value:.{REPORTED_DIGITS}g}") for value in (score.mae, score.rmse))
    skill, error = (round(value, REPORTED_DIGITS) for value in (score.skill, score.error))
    return NumberFigures(mae, rmse, skill, error, None if score.r2 is None else round(score.r2, REPORTED_DIGITS))
