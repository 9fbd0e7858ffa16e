"""Many virtual schools in one process: the device's own training, updates as bytes, the aggregator's own rounds.

Only the network, the keys' secrecy and the devices' stores are left out. The same seed gives the same theta, bit for
bit, but for the noise of private rounds, which has no seed; the devices' keys are new each time and change nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from homeroom.bundle import Bundle
from homeroom.contract.privacy import Privacy
from homeroom.contract.signing import certify, fingerprint, new_key, public_hex
from homeroom.contract.update import (
    RoundConfiguration,
    ServerOptimizer,
    left_over,
    make_private,
    make_update,
    unpack_residual,
)
from homeroom.contract.version import read_version
from homeroom.contributions import contributions
from homeroom.dataset import Dataset
from homeroom.errors import InputError, TrainError, UpdateError
from homeroom.runtime import Graphs
from homeroom.training import Score, Settings, evaluate, fit
from homeroom_aggregator.rounds import Rounds

Scores = Mapping[str, Score]


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
    """Train together for so many rounds.

    settings: of local training; a function gives those of each round, from 1.
    configuration: by default a release whenever as many updates came as schools take part, private if `privacy` says
    so. participation: the chance
    that a school takes part in a round. lag: the chance that it trains on the version before the newest one.
    measure_every: score every so many rounds, and at the end (0: only then). feedback: what a lossy codec could not
    carry enters the school's next update, as on a device.
    """
    if not schools or rounds < 1:
        raise InputError("a simulation needs at least one school and one round")
    if len({school.name for school in schools}) < len(schools):
        raise InputError("two schools have the same name", remedy="give each a name of its own")
    buffer_size = max(1, round(participation * len(schools)))
    asked = configuration or RoundConfiguration(
        bundle_id=bundle.bundle_id,
        buffer_size=buffer_size,
        min_devices=min(3, buffer_size if privacy else len(schools)),
        privacy=privacy,
        optimizer=optimizer,
        server_rate=server_rate,
    )
    asked = msgspec.structs.replace(asked, bundle_id=bundle.bundle_id)
    key, root = new_key(), new_key()
    aggregator = Rounds(Path(":memory:"), bundle, asked, key, certify(root, "aggregator", key, "simulation"))
    keys = {school.name: new_key() for school in schools}
    chosen = settings if callable(settings) else lambda number: settings
    rng = np.random.default_rng([seed, 0x51])
    released, clips = [bundle.theta()], list[float | msgspec.UnsetType]([msgspec.UNSET])
    residuals: dict[str, bytes] = {}
    facts: list[RoundFacts] = []
    try:
        for number in range(1, rounds + 1):
            sent_bytes, refused = 0, dict[str, str]()
            for place, school in enumerate(schools):
                takes_part, lags = rng.random() < participation, rng.random() < lag
                if not takes_part:
                    continue
                base = max(0, len(released) - 1 - int(lags))
                drawn = int(np.random.SeedSequence([seed, number, place]).generate_state(1)[0])
                own = msgspec.structs.replace(chosen(number), seed=drawn)
                try:
                    data, rest = _update(
                        school,
                        keys[school.name],
                        school.graphs or graphs,
                        released[base],
                        base,
                        own,
                        asked.at(clips[base]),
                        residuals.get(school.name, b""),
                    )
                except TrainError as problem:
                    refused[school.name] = str(problem)
                    continue
                residuals[school.name] = rest if feedback else b""
                sent_bytes += len(data)
                try:
                    aggregator.update(data, public_hex(keys[school.name]))
                except UpdateError as problem:
                    refused[school.name] = str(problem)
                while len(released) <= aggregator.state.version:
                    theta, clip_norm = _released(aggregator, len(released))
                    released.append(theta)
                    clips.append(clip_norm)
            measured = number == rounds or (measure_every > 0 and number % measure_every == 0)
            scores = {
                s.name: evaluate(s.graphs or graphs, s.validation, released[-1])
                for s in schools
                if measured and s.validation
            }
            facts.append(RoundFacts(number, len(released) - 1, sent_bytes, refused, scores, released[-1]))
            if progress:
                progress(facts[-1])
        return Simulation(released[-1], len(released) - 1, tuple(facts), chosen(1), asked, seed)
    finally:
        aggregator.close()


def _update(
    school: SchoolData,
    key: Ed25519PrivateKey,
    graphs: Graphs,
    theta: np.ndarray,
    base: int,
    settings: Settings,
    configuration: RoundConfiguration,
    residual: bytes,
) -> tuple[bytes, bytes]:
    """One school's signed update, as a device would queue it, and what it left over."""
    layout = graphs.bundle.layout
    if configuration.by_subject:
        parts = contributions(graphs, school.train, theta, settings, configuration.parts)
        return make_private(key, configuration, layout, (moved for _, moved in parts), base), b""
    trained = fit(graphs, school.train, school.validation, theta, settings)
    delta = trained.theta - theta + unpack_residual(residual, layout)
    taught = school.train.examples_by_segment()
    data = make_update(key, configuration, layout, delta, taught, base, tier=graphs.tier)
    return data, left_over(data, configuration, layout, delta)


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
