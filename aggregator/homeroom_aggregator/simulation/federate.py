"""Many virtual schools: the device's own training, updates as bytes, the aggregator's own rounds.

Only the network, the keys' secrecy and the devices' stores are left out. The same seed gives the same theta, bit for
bit, wherever the schools train (an `Engine`), but for the noise of private rounds, which has no seed; the devices' keys
are new each time and change nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np

from homeroom.contract.privacy import Privacy
from homeroom.contract.residual import left_over, unpack_residual
from homeroom.contract.round import RoundConfiguration, ServerOptimizer
from homeroom.contract.signing import certify, fingerprint, new_key, public_hex
from homeroom.contract.update import make_private, make_update
from homeroom.contract.version import read_version
from homeroom.data.tasks.metrics import Score
from homeroom.errors import InputError, TrainError, UpdateError
from homeroom.federation.subject_updates import contributions
from homeroom.runtime.bundle import Bundle
from homeroom.runtime.graphs import Graphs
from homeroom.train.evaluate import evaluate
from homeroom.train.features.dataset import Dataset
from homeroom.train.fit import fit
from homeroom.train.settings import Settings
from homeroom_aggregator.merge.rounds import Rounds

Scores = Mapping[str, Score]
Arrived = Callable[[int, int], None]  # told how many schools are done with a round, and of how many


@dataclass(frozen=True)
class SchoolData:
    """A virtual school. `validation`, where given, chooses the best local epoch and is what `Simulation` scores.

    graphs: those of its tier, if not the simulation's.
    """

    name: str
    train: Dataset
    validation: Dataset | None = None
    graphs: Graphs | None = None


@dataclass(frozen=True)
class RoundFacts:
    """One round. `refused`: the reason by school; `scores`: of the newest theta, by school and task, where measured.

    theta: float32 [P], the newest after the round.
    """

    number: int
    version: int
    sent_bytes: int
    refused: Mapping[str, str]
    scores: Mapping[str, Scores]
    theta: np.ndarray = field(compare=False, repr=False)


@dataclass(frozen=True)
class Simulation:
    """`theta` float32 [P] of the newest version; `settings` those of the first round."""

    theta: np.ndarray
    version: int
    rounds: tuple[RoundFacts, ...]
    settings: Settings
    configuration: RoundConfiguration
    seed: int


@dataclass(frozen=True)
class Task:
    """What one school, by its place in the list, is asked for in a round: an update from version `base` of theta.

    configuration: with the clip that is in force for updates of that version.
    """

    place: int
    base: int
    settings: Settings
    configuration: RoundConfiguration


@dataclass(frozen=True)
class Trained:
    """A school's signed update and the key that signed it; or the `problem`, if it could not train."""

    place: int
    device: str = ""
    update: bytes = b""
    problem: str = ""


class Engine(Protocol):
    """Where the schools are: it trains and scores them, and keeps their keys and residuals."""

    def train(self, tasks: Sequence[Task], released: Sequence[np.ndarray]) -> Iterable[Trained]:
        """What comes of each task, in the order of the places; released: float32 [P] by version."""

    def score(self, theta: np.ndarray) -> dict[str, Scores]:
        """By school and task, of theta float32 [P] on the validation samples of those that have some."""


class Student:
    """One virtual school: its key, and what its last update left over."""

    def __init__(self, school: SchoolData, graphs: Graphs, *, feedback: bool = True) -> None:
        self.school, self.graphs, self.feedback = school, school.graphs or graphs, feedback
        self.key, self.residual = new_key(), b""

    def train(self, task: Task, theta: np.ndarray) -> Trained:
        """A signed update as a device would queue it; theta: float32 [P] of the task's base version."""
        school, layout, configuration = self.school, self.graphs.bundle.layout, task.configuration
        if configuration.by_subject:
            parts = contributions(self.graphs, school.train, theta, task.settings, configuration.parts)
            private = make_private(self.key, configuration, layout, (moved for _, moved in parts), task.base)
            return Trained(task.place, public_hex(self.key), private)
        try:
            trained = fit(self.graphs, school.train, school.validation, theta, task.settings)
        except TrainError as problem:
            return Trained(task.place, problem=str(problem))
        delta = trained.theta - theta + unpack_residual(self.residual, layout)
        taught = school.train.examples_by_segment()
        data = make_update(self.key, configuration, layout, delta, taught, task.base, tier=self.graphs.tier)
        self.residual = left_over(data, configuration, layout, delta) if self.feedback else b""
        return Trained(task.place, public_hex(self.key), data)

    def score(self, theta: np.ndarray) -> dict[str, Score]:
        """By task, of theta float32 [P]; empty without validation samples."""
        return evaluate(self.graphs, self.school.validation, theta) if self.school.validation else {}


class Here:
    """The engine of this process: one school after the other."""

    def __init__(
        self, schools: Sequence[SchoolData], graphs: Graphs, arrived: Arrived | None = None, *, feedback: bool = True
    ) -> None:
        self.students = [Student(school, graphs, feedback=feedback) for school in schools]
        self.arrived = arrived

    def train(self, tasks: Sequence[Task], released: Sequence[np.ndarray]) -> Iterator[Trained]:
        for done, task in enumerate(tasks, 1):
            yield self.students[task.place].train(task, released[task.base])
            if self.arrived:
                self.arrived(done, len(tasks))

    def score(self, theta: np.ndarray) -> dict[str, Scores]:
        return {one.school.name: one.score(theta) for one in self.students if one.school.validation}


def simulate(
    bundle: Bundle,
    schools: Sequence[SchoolData],
    rounds: int,
    settings: Settings | Callable[[int], Settings],
    configuration: RoundConfiguration | None = None,
    *,
    privacy: Privacy | None = None,
    optimizer: ServerOptimizer | None = None,
    server_rate: float = 1.0,
    seed: int,
    graphs: Graphs,
    participation: float = 1.0,
    lag: float = 0.0,
    measure_every: int = 0,
    feedback: bool = True,
    progress: Callable[[RoundFacts], None] | None = None,
) -> Simulation:
    """Train together for so many rounds, in this process.

    configuration: by default `usual`. feedback: what a lossy codec could not carry enters the school's next update, as
    on a device. The others as for `federate`.
    """
    asked = configuration or usual(
        bundle, len(schools), participation, privacy=privacy, optimizer=optimizer, server_rate=server_rate
    )
    return federate(
        bundle,
        [school.name for school in schools],
        rounds,
        settings,
        asked,
        engine=Here(schools, graphs, feedback=feedback),
        seed=seed,
        participation=participation,
        lag=lag,
        measure_every=measure_every,
        progress=progress,
    )


def usual(
    bundle: Bundle,
    schools: int,
    participation: float = 1.0,
    *,
    privacy: Privacy | None = None,
    optimizer: ServerOptimizer | None = None,
    server_rate: float = 1.0,
) -> RoundConfiguration:
    """A release whenever as many updates came as schools take part in a round; private if `privacy` says so."""
    buffer_size = max(1, round(participation * schools))
    return RoundConfiguration(
        bundle_id=bundle.bundle_id,
        buffer_size=buffer_size,
        min_devices=max(1, min(3, buffer_size if privacy else schools)),
        privacy=privacy,
        optimizer=optimizer,
        server_rate=server_rate,
    )


def federate(
    bundle: Bundle,
    names: Sequence[str],
    rounds: int,
    settings: Settings | Callable[[int], Settings],
    configuration: RoundConfiguration,
    *,
    engine: Engine,
    seed: int,
    participation: float = 1.0,
    lag: float = 0.0,
    measure_every: int = 0,
    progress: Callable[[RoundFacts], None] | None = None,
) -> Simulation:
    """Let the schools of these names train wherever the engine has them, and merge what they send.

    settings: of local training; a function gives those of each round, from 1. participation: the chance that a school
    takes part in a round. lag: the chance that it trains on the version before the one that is newest when the round
    begins, if it has not trained on that already: a device sends one update on a version. Where all have trained on the
    newest one, what waits is released although the buffer is not full. measure_every: score every so many rounds, and
    at the end (0: only then).
    """
    if not names or rounds < 1:
        raise InputError("a simulation needs at least one school and one round")
    if len(set(names)) < len(names):
        raise InputError("two schools have the same name", remedy="give each a name of its own")
    asked = msgspec.structs.replace(configuration, bundle_id=bundle.bundle_id)
    key, root = new_key(), new_key()
    aggregator = Rounds(Path(":memory:"), bundle, asked, key, certify(root, "aggregator", key, "simulation"))
    chosen = settings if callable(settings) else lambda number: settings
    rng = np.random.default_rng([seed, 0x51])
    released, clips = [bundle.theta()], list[float | msgspec.UnsetType]([msgspec.UNSET])
    facts: list[RoundFacts] = []
    trained_on = set[tuple[int, int]]()  # place and version
    try:
        for number in range(1, rounds + 1):
            tasks = list[Task]()
            for place in range(len(names)):
                takes_part, lags = rng.random() < participation, rng.random() < lag
                newest = len(released) - 1
                base = max(0, newest - int(lags))
                base = newest if (place, base) in trained_on else base
                if takes_part and (place, base) not in trained_on:
                    trained_on.add((place, base))
                    drawn = int(np.random.SeedSequence([seed, number, place]).generate_state(1)[0])
                    own = msgspec.structs.replace(chosen(number), seed=drawn)
                    tasks.append(Task(place, base, own, asked.at(clips[base])))
            sent_bytes, refused = 0, dict[str, str]()
            for trained in engine.train(tasks, released):
                sent_bytes += len(trained.update)
                try:
                    if trained.problem:
                        raise TrainError(trained.problem)
                    aggregator.update(trained.update, trained.device)
                except (TrainError, UpdateError) as problem:
                    refused[names[trained.place]] = str(problem)
            newest = len(released) - 1
            if aggregator.state.version == newest and all((n, newest) in trained_on for n in range(len(names))):
                aggregator.release_now()
            for version in range(len(released), aggregator.state.version + 1):
                theta, clip_norm = _released(aggregator, version)
                released.append(theta)
                clips.append(clip_norm)
            measured = number == rounds or (measure_every > 0 and number % measure_every == 0)
            scores = engine.score(released[-1]) if measured else {}
            facts.append(RoundFacts(number, len(released) - 1, sent_bytes, refused, scores, released[-1]))
            if progress:
                progress(facts[-1])
        return Simulation(released[-1], len(released) - 1, tuple(facts), chosen(1), asked, seed)
    finally:
        aggregator.close()


def _released(aggregator: Rounds, version: int) -> tuple[np.ndarray, float | msgspec.UnsetType]:
    """The theta of a version and the clip in force, read as a device reads them."""
    body = aggregator.version(version)
    assert body is not None  # it was just released
    header, theta = read_version(
        body,
        aggregator.rules.layout,
        bundle_id=aggregator.bundle.bundle_id,
        root_fingerprint=fingerprint(aggregator.certificate.root),
    )
    return theta, header.clip_norm
