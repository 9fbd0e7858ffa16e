"""Engines: where simulated schools train, and what each of them keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from homeroom.contract.policy import Policy
from homeroom.contract.round import RoundConfiguration
from homeroom.contract.signing import new_key, public_hex
from homeroom.data.tasks.metrics import Score
from homeroom.device.solved import TaughtVectors
from homeroom.errors import TrainError, UpdateError
from homeroom.federation.encode_update import UpdateRules, encode_by_subject, encode_update
from homeroom.federation.policy import kept_segments, refusal_reason, scoped_layout
from homeroom.runtime.graphs import Graphs
from homeroom.train.evaluate import evaluate
from homeroom.train.features.dataset import Dataset
from homeroom.train.fit import fit
from homeroom.train.input_weights import learn_input_weights, weighted_dataset
from homeroom.train.settings import Settings

Scores = Mapping[str, Score]
AGGREGATOR_NAME = "simulation"  # in its certificate
OnTrained = Callable[[int, int], None]  # called with how many schools are done with a round, and of how many


@dataclass(frozen=True)
class SchoolData:
    """A simulated school. `validation`, where given, chooses the best local epoch and is what `Simulation` scores.

    A promise by subject is kept with `train` alone, so that `validation` stays unseen; a device trains on both then.

    graphs: those of its tier, if not the simulation's.
    policy: of its institution, whose name is the school's as the aggregator knows it.
    taught: its samples as statistics are made of them, those of `validation` too; None where it shares none.
    """

    name: str
    train: Dataset
    validation: Dataset | None = None
    graphs: Graphs | None = None
    policy: Policy | None = None
    taught: TaughtVectors | None = None


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
    """One school's device.

    residual: of its last update.
    kept: values float32 [size] of the segments that never leave it, by name, as last trained.
    input_weights: of poor inputs by modality, as last learned.
    """

    def __init__(self, school: SchoolData, graphs: Graphs, *, feedback: bool = True) -> None:
        self.school, self.graphs, self.feedback = school, school.graphs or graphs, feedback
        self.key, self.residual = new_key(), b""
        self.kept, self.input_weights = dict[str, np.ndarray](), dict[str, float]()
        data = [school.train, *filter(None, [school.validation])]
        self._has_poor = any(example.input_weights for dataset in data for example in dataset.examples)

    def train(self, task: TrainingTask, theta: np.ndarray) -> TrainedUpdate:
        """A signed update as a device would queue it; theta: float32 [P] of the task's base version."""
        school, configuration, layout = self.school, task.configuration, self.graphs.bundle.layout
        local = scoped_layout(layout, school.policy, configuration, AGGREGATOR_NAME, school.name)
        rules, train = UpdateRules(self.key, configuration, layout, local), self._weighted(school.train)
        before, kept = layout.join(self.kept, theta), kept_segments(local, configuration)
        update, tier = None, self.graphs.tier
        try:
            if configuration.by_subject:
                update = encode_by_subject(rules, self.graphs, train, before, task.settings, task.base)
            if update is None or kept or self._has_poor:  # else nothing of it would stay here
                after = self._fit(train, before, task.settings)
                self.kept = {name: values for name, values in layout.split(after).items() if name in kept}
            if why := refusal_reason(school.policy, configuration):
                raise UpdateError(why)
            if update is None:
                taught = train.examples_by_segment()
                update = encode_update(rules, before, after, taught, task.base, self.residual, tier=tier)
                self.residual = update.residual if self.feedback else b""
        except (TrainError, UpdateError) as problem:
            return TrainedUpdate(task.index, problem=str(problem))
        return TrainedUpdate(task.index, public_hex(self.key), update.data)

    def score(self, theta: np.ndarray) -> dict[str, Score]:
        """Scores of theta, float32 [P], by task, with the device's own segments; empty without validation samples."""
        if not self.school.validation:
            return {}
        own = self.graphs.bundle.layout.join(self.kept, theta)
        return evaluate(self.graphs, self._weighted(self.school.validation), own)

    def _fit(self, train: Dataset, theta: np.ndarray, settings: Settings) -> np.ndarray:
        """The trained theta float32 [P]; learns the weights of poor inputs."""
        validation = self._weighted(self.school.validation) if self.school.validation else None
        trained = fit(self.graphs, train, validation, theta, settings)
        if validation:
            self.input_weights = learn_input_weights(self.graphs, validation, trained.theta, self.input_weights)
        return trained.theta

    def _weighted(self, dataset: Dataset) -> Dataset:
        """The dataset with the learned weights of poor inputs."""
        return weighted_dataset(dataset, self.input_weights) if self.input_weights else dataset


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
