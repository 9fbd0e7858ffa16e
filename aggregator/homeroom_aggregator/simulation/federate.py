"""Simulated federations: the device's own training, updates as bytes, the aggregator's own rounds.

Only the network, the keys' secrecy and the devices' stores are left out. The same seed gives the same theta, bit for
bit, wherever the schools train (an `Engine`), but for the noise of private rounds, which has no seed; the devices' keys
are new each time and change nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from homeroom.contract.privacy import Privacy
from homeroom.contract.round import RoundConfiguration
from homeroom.contract.signing import certify, new_key
from homeroom.errors import InputError
from homeroom.runtime.bundle import Bundle
from homeroom.runtime.graphs import Graphs
from homeroom.train.settings import Settings
from homeroom_aggregator.merge.rounds import Rounds
from homeroom_aggregator.simulation.engine import AGGREGATOR_NAME, Engine, LocalEngine, SchoolData
from homeroom_aggregator.simulation.round import Federation, RoundFacts
from homeroom_aggregator.simulation.statistics import StatisticsFacts, exchange


@dataclass(frozen=True)
class Simulation:
    """The result: `theta` float32 [P] of the newest version; `settings` are the first round's.

    statistics: what the schools' exchange of them gave, where there was one.
    """

    theta: np.ndarray
    version: int
    rounds: tuple[RoundFacts, ...]
    settings: Settings
    configuration: RoundConfiguration
    seed: int
    statistics: StatisticsFacts | None = None


def simulate(
    bundle: Bundle,
    schools: Sequence[SchoolData],
    rounds: int,
    settings: Settings | Callable[[int], Settings],
    configuration: RoundConfiguration | None = None,
    *,
    graphs: Graphs,
    participation: float = 1.0,
    feedback: bool = True,
    privacy: Privacy | None = None,
    **more: Any,
) -> Simulation:
    """Train together for so many rounds, in this process.

    configuration: by default `default_configuration` with this privacy.
    graphs: those of the bundle.
    feedback: what a lossy codec could not carry enters the school's next update, as on a device.
    participation, more: as for `federate`.
    """
    configuration = configuration or default_configuration(bundle, len(schools), participation, privacy=privacy)
    names, engine = [school.name for school in schools], LocalEngine(schools, graphs, feedback=feedback)
    more |= {"participation": participation, "schools": schools}
    return federate(bundle, names, rounds, settings, configuration, engine=engine, **more)


def default_configuration(
    bundle: Bundle, schools: int, participation: float, *, privacy: Privacy | None, **terms: Any
) -> RoundConfiguration:
    """A release whenever as many updates came as schools take part in a round.

    bundle: of the rounds. schools: how many. participation: the share of them that takes part in a round.
    privacy: the promise of private rounds. terms: further fields.
    """
    size = max(1, round(participation * schools))
    least = max(1, min(3, size if privacy else schools))
    return RoundConfiguration(bundle_id=bundle.bundle_id, buffer_size=size, min_devices=least, privacy=privacy, **terms)


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
    schools: Sequence[SchoolData] = (),
    on_statistics: Callable[[StatisticsFacts], None] | None = None,
) -> Simulation:
    """Let the engine's schools train, and merge what they send.

    bundle: what they train.
    names: of the schools, each once.
    rounds: how many.
    settings: of local training; a function gives those of each round, from 1.
    configuration: of the rounds.
    engine: where the schools are.
    seed: the same one gives the same theta.
    participation: the chance that a school takes part in a round.
    lag: the chance that it trains on the version before the newest, if it has not yet: a device sends one update on a
        version. Where all have trained on the newest, what waits is released although the buffer is not full.
    measure_every: score every so many rounds, and at the end (0: only then).
    progress: called after every round.
    schools: in this process, which exchange statistics before the first round where the configuration's are plain.
    on_statistics: called after that.
    Raises InputError without a school or a round, or if two schools have the same name.
    """
    if not names or rounds < 1:
        raise InputError("a simulation needs at least one school and one round")
    if len(set(names)) < len(names):
        raise InputError("two schools have the same name", remedy="give each a name of its own")
    configuration = msgspec.structs.replace(configuration, bundle_id=bundle.bundle_id)
    key, root = new_key(), new_key()
    aggregator = Rounds(Path(":memory:"), bundle, configuration, key, certify(root, "aggregator", key, AGGREGATOR_NAME))
    by_round = settings if callable(settings) else lambda _: settings
    facts, statistics = list[RoundFacts](), None
    try:
        if configuration.statistics.mode == "plain":
            statistics = exchange(aggregator, schools)
            if on_statistics:
                on_statistics(statistics)
        federation = Federation(aggregator, names, by_round, seed=seed, participation=participation, lag=lag)
        for number in range(1, rounds + 1):
            measured = number == rounds or (measure_every > 0 and number % measure_every == 0)
            facts.append(federation.round(number, engine, measured=measured))
            if progress:
                progress(facts[-1])
        return Simulation(
            facts[-1].theta, facts[-1].version, tuple(facts), by_round(1), configuration, seed, statistics
        )
    finally:
        aggregator.close()
