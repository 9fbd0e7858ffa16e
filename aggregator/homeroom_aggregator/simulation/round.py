"""One round of a simulation: who trains on which version, what the aggregator takes, what it releases."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np

from homeroom.contract.signing import fingerprint
from homeroom.contract.version import read_version
from homeroom.errors import TrainError, UpdateError
from homeroom.train.settings import Settings
from homeroom_aggregator.merge.rounds import Rounds
from homeroom_aggregator.simulation.engine import Engine, Scores, TrainingTask


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


class Federation:
    """Schools and their aggregator between rounds.

    aggregator: whose rounds they are.
    names: of the schools.
    settings: of local training, by round from 1.
    seed: draws who takes part and how each trains.
    participation, lag: the chance that a school takes part, and that it trains on the version before the newest.
    """

    def __init__(
        self,
        aggregator: Rounds,
        names: Sequence[str],
        settings: Callable[[int], Settings],
        *,
        seed: int,
        participation: float,
        lag: float,
    ) -> None:
        self.aggregator, self.names, self.settings, self.seed = aggregator, names, settings, seed
        self.participation, self.lag = participation, lag
        self.rng = np.random.default_rng([seed, 0x51])
        self.thetas = [aggregator.bundle.theta()]  # float32 [P] by version
        self._clip_norms: list[float | msgspec.UnsetType] = [msgspec.UNSET]  # by version
        self._trained_on = set[tuple[int, int]]()  # index of a school, and version

    def round(self, number: int, engine: Engine, *, measured: bool) -> RoundFacts:
        """Train and merge once. measured: score the newest theta afterwards."""
        sent_bytes, refused = 0, dict[str, str]()
        for trained in engine.train(self._tasks(number), self.thetas):
            sent_bytes += len(trained.update)
            try:
                if trained.problem:
                    raise TrainError(trained.problem)
                self.aggregator.update(trained.update, trained.device)
            except (TrainError, UpdateError) as problem:
                refused[self.names[trained.index]] = str(problem)
        self._release()
        newest = self.thetas[-1]
        scores = engine.score(newest) if measured else {}
        return RoundFacts(number, len(self.thetas) - 1, sent_bytes, refused, scores, newest)

    def _tasks(self, number: int) -> list[TrainingTask]:
        tasks, newest = list[TrainingTask](), len(self.thetas) - 1
        for index in range(len(self.names)):
            takes_part, lags = self.rng.random() < self.participation, self.rng.random() < self.lag
            base = max(0, newest - int(lags))
            base = newest if (index, base) in self._trained_on else base
            if takes_part and (index, base) not in self._trained_on:
                self._trained_on.add((index, base))
                seed = int(np.random.SeedSequence([self.seed, number, index]).generate_state(1)[0])
                settings = msgspec.structs.replace(self.settings(number), seed=seed)
                configuration = self.aggregator.configuration.with_clip(self._clip_norms[base])
                tasks.append(TrainingTask(index, base, settings, configuration))
        return tasks

    def _release(self) -> None:
        """Release what waits if nobody can train on the newest version any more; read every new version."""
        newest = len(self.thetas) - 1
        all_trained = all((index, newest) in self._trained_on for index in range(len(self.names)))
        if all_trained and self.aggregator.state.version == newest:
            self.aggregator.release_now()
        for version in range(len(self.thetas), self.aggregator.state.version + 1):
            theta, clip_norm = self._read(version)
            self.thetas.append(theta)
            self._clip_norms.append(clip_norm)

    def _read(self, version: int) -> tuple[np.ndarray, float | msgspec.UnsetType]:
        """A version's theta and the clip in force, read as a device reads them."""
        body = self.aggregator.version(version)
        assert body is not None  # it was just released
        header, theta = read_version(
            body,
            self.aggregator.rules.layout,
            bundle_id=self.aggregator.bundle.bundle_id,
            root_fingerprint=fingerprint(self.aggregator.certificate.root),
        )
        return theta, header.clip_norm
