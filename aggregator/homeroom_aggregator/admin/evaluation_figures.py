"""Figures of a federated evaluation for people: by task the mean, the worst tenth of devices, and each group."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homeroom.contract.evaluation_counts import OTHERS, CountsShape, GroupCounts, accuracy, add_counts, worst_tenth
from homeroom.contract.manifest import Manifest
from homeroom.federation.evaluation_shape import task_shapes
from homeroom.system.printable import counted
from homeroom.system.sqlite import Database
from homeroom_aggregator.admin.folder import open_folder_bundle, open_log, read_facts
from homeroom_aggregator.state.evaluations import TaskSum, read_sums

Bounds = tuple[float, float]


@dataclass(frozen=True)
class GroupFigures:
    """One group of a task. language, inputs: `*` in both for groups that too few devices have, added up.

    now, before: share of right answers, of numbers R^2.
    """

    language: str
    inputs: str
    devices: int
    samples: int
    now: float
    before: float

    @property
    def name(self) -> str:
        """In words."""
        if (self.language, self.inputs) == OTHERS:
            return "all others"
        return f"{self.inputs}, {self.language}" if self.language else self.inputs


@dataclass(frozen=True)
class TaskFigures:
    """One task by its newest version that is shown.

    metric: `accuracy` or `R2`. now, before: over all samples together.
    worst_now, worst_before: between which values the mean of the worst tenth of devices is.
    since: the lowest and highest number of the versions that devices had before; None where that is not known.
    """

    task: str
    version: int
    since: tuple[int, int] | None
    metric: str
    devices: int
    samples: int
    now: float
    before: float
    worst_now: Bounds
    worst_before: Bounds
    groups: tuple[GroupFigures, ...]


def evaluation_figures(database: Database, manifest: Manifest) -> list[TaskFigures]:
    """Each task by its newest version that is shown, in the bundle's order. database: any connection to the log."""
    newest: dict[str, tuple[int, TaskSum]] = {}
    for version, tasks in read_sums(database).items():
        for task, shown in tasks.items():
            newest.setdefault(task, (version, shown))
    return [_figures(task, shape, *newest[task]) for task, shape in task_shapes(manifest).items() if task in newest]


def folder_evaluation(folder: Path) -> dict[str, Any]:
    """What `homeroom district evaluation` says of a folder, while it serves or not."""
    facts = read_facts(folder)
    log = open_log(folder)
    try:
        manifest = open_folder_bundle(folder, facts).manifest
        return {"institution": facts.institution, "tasks": evaluation_figures(log.database, manifest)}
    finally:
        log.close()


def evaluation_lines(figures: list[TaskFigures]) -> Iterator[str]:
    """The figures, a line each."""
    for one in figures:
        since = " to ".join(dict.fromkeys(map(str, one.since))) if one.since else "the one before"
        of = f"{counted(one.devices, 'device')}, {counted(one.samples, 'sample')}"
        yield f"{one.task}: version {one.version} beside {since}, {of}"
        yield f"  mean {one.metric}: {percent(one.before)} before, {percent(one.now)} now"
        yield f"  worst tenth of devices: {between(one.worst_before)} before, {between(one.worst_now)} now"
        for group in one.groups if len(one.groups) > 1 else ():
            of = f"{counted(group.devices, 'device')}, {counted(group.samples, 'sample')}"
            yield f"  {group.name}: {percent(group.before)} before, {percent(group.now)} now ({of})"


def percent(share: float) -> str:
    """A share with one decimal place."""
    return f"{100 * share:.1f} %"


def between(bounds: Bounds) -> str:
    """Two shares as whole percentages."""
    return f"{100 * bounds[0]:.0f} to {100 * bounds[1]:.0f} %"


def _figures(task: str, shape: CountsShape, version: int, shown: TaskSum) -> TaskFigures:
    now, before = (
        accuracy(shape, add_counts((getattr(group, name) for group in shown.groups), shape.size))
        for name in ("now", "before")
    )
    return TaskFigures(
        task=task,
        version=version,
        since=shown.since,
        metric="R2" if shape.form == "numbers" else "accuracy",
        devices=shown.devices,
        samples=now.samples,
        now=now.share,
        before=before.share,
        worst_now=worst_tenth(shown.now) or (0.0, 0.0),
        worst_before=worst_tenth(shown.before) or (0.0, 0.0),
        groups=tuple(_group(shape, *pair) for pair in zip(shown.groups, shown.fed, strict=True)),
    )


def _group(shape: CountsShape, group: GroupCounts, devices: int) -> GroupFigures:
    now, before = accuracy(shape, group.now), accuracy(shape, group.before)
    return GroupFigures(group.language, group.inputs, devices, now.samples, now.share, before.share)
