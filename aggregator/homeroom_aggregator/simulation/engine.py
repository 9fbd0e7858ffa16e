"""Engines: where simulated schools train, and what each of them keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from homeroom.contract.residual import make_residual, unpack_residual
from homeroom.contract.round import RoundConfiguration
from homeroom.contract.signing import new_key, public_hex
from homeroom.contract.update import make_private, make_update
from homeroom.data.tasks.metrics import Score
from homeroom.errors import TrainError
from homeroom.federation.subject_updates import subject_updates
from homeroom.runtime.graphs import Graphs
from homeroom.train.evaluate import evaluate
from homeroom.train.features.dataset import Dataset
from homeroom.train.fit import fit
from homeroom.train.settings import Settings

Scores = Mapping[str, Score]
OnTrained = Callable[[int, int], None]  # called with how many schools are done with a round, and of how many


@dataclass(frozen=True)
class SchoolData:
    """A simulated school. `validation`, where given, chooses the best local epoch and is what `Simulation` scores.

    graphs: those of its tier, if not the simulation's.
    """

    name: str
    train: Dataset
    validation: Dataset | None = None
    graphs: Graphs | None = None


@dataclass(frozen=True)
class TrainingTask:
    """What one school, by its index, is asked for in a round: an update from version `base` of theta.

    configuration: with the clip that is in force for updates of that version.
    """

    index: int
    base: int
    settings: Settings
    configuration: RoundConfiguration


@dataclass(frozen=True)
class TrainedUpdate:
    """A school's signed update and the key that signed it; or the `problem`, if it could not train."""

    index: int
    device: str = ""
    update: bytes = b""
    problem: str = ""


class Engine(Protocol):
    """Where the schools are: it trains and scores them, and keeps their keys and residuals."""

    def train(self, tasks: Sequence[TrainingTask], thetas: Sequence[np.ndarray]) -> Iterable[TrainedUpdate]:
        """The update of each task, in the order of the indexes; thetas: float32 [P] by version."""

    def score(self, theta: np.ndarray) -> dict[str, Scores]:
        """Scores of theta, float32 [P], by school and task, of the schools that have validation samples."""


class SimulatedDevice:
    """One school's device: its key, and the residual of its last update."""

    def __init__(self, school: SchoolData, graphs: Graphs, *, feedback: bool = True) -> None:
        self.school, self.graphs, self.feedback = school, school.graphs or graphs, feedback
        self.key, self.residual = new_key(), b""

    def train(self, task: TrainingTask, theta: np.ndarray) -> TrainedUpdate:
        """A signed update as a device would queue it; theta: float32 [P] of the task's base version."""
        school, layout, configuration = self.school, self.graphs.bundle.layout, task.configuration
        if configuration.by_subject:
            parts = subject_updates(self.graphs, school.train, theta, task.settings, configuration.parts)
            data = make_private(self.key, configuration, layout, (part for _, part in parts), task.base)
            return TrainedUpdate(task.index, public_hex(self.key), data)
        try:
            trained = fit(self.graphs, school.train, school.validation, theta, task.settings)
        except TrainError as problem:
            return TrainedUpdate(task.index, problem=str(problem))
        delta = trained.theta - theta + unpack_residual(self.residual, layout)
        taught = school.train.examples_by_segment()
        data = make_update(self.key, configuration, layout, delta, taught, task.base, tier=self.graphs.tier)
        self.residual = make_residual(data, configuration, layout, delta) if self.feedback else b""
        return TrainedUpdate(task.index, public_hex(self.key), data)

    def score(self, theta: np.ndarray) -> dict[str, Score]:
        """Scores of theta, float32 [P], by task; empty without validation samples."""
        return evaluate(self.graphs, self.school.validation, theta) if self.school.validation else {}


class LocalEngine:
    """The engine in this process: one school after the other."""

    def __init__(
        self,
        schools: Sequence[SchoolData],
        graphs: Graphs,
        on_trained: OnTrained | None = None,
        *,
        feedback: bool = True,
    ) -> None:
        self.devices = [SimulatedDevice(school, graphs, feedback=feedback) for school in schools]
        self.on_trained = on_trained

    def train(self, tasks: Sequence[TrainingTask], thetas: Sequence[np.ndarray]) -> Iterator[TrainedUpdate]:
        """The update of each task; thetas: float32 [P] by version."""
        for done, task in enumerate(tasks, 1):
            yield self.devices[task.index].train(task, thetas[task.base])
            if self.on_trained:
                self.on_trained(done, len(tasks))

    def score(self, theta: np.ndarray) -> dict[str, Scores]:
        """Scores of theta, float32 [P], by school and task."""
        return {device.school.name: device.score(theta) for device in self.devices if device.school.validation}
