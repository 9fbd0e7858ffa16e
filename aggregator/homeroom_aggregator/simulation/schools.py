"""From files of samples to a simulation: what `homeroom simulate` does; imports homeroom and simulate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from homeroom.contract.manifest import Precision
from homeroom.contract.privacy import Privacy
from homeroom.contract.round import ServerOptimizer
from homeroom.data.ingest import read_samples
from homeroom.errors import TrainError
from homeroom.inference import golden
from homeroom.runtime.bundle import Bundle, install
from homeroom.runtime.graphs import Graphs
from homeroom.train.features.dataset import Dataset
from homeroom.train.features.examples import examples
from homeroom.train.settings import Settings, advised
from homeroom_aggregator.simulation.federate import (
    Arrived,
    Here,
    RoundFacts,
    SchoolData,
    Scores,
    Simulation,
    federate,
    usual,
)


def names(paths: Sequence[Path]) -> list[str]:
    """A name for each school: the file's, with its folder's where several are called alike."""
    stems = [path.stem for path in paths]
    return [f"{path.resolve().parent.name}/{path.stem}" if stems.count(path.stem) > 1 else path.stem for path in paths]


def school(bundle: Bundle, graphs: Graphs, path: Path, name: str, seed: int) -> SchoolData:
    """A file's or folder's samples, features computed, split by subject as a device splits them."""
    stored = list(read_samples(path, bundle.manifest))
    data = Dataset(bundle.manifest, examples(None, bundle, graphs, stored))
    return SchoolData(name, *data.split(Settings().validation, seed))


@dataclass(frozen=True)
class Plan:
    """What another process needs to know of the schools: the installed bundle, and samples and name by place."""

    bundle: Path
    precision: tuple[tuple[str, Precision], ...]
    paths: tuple[Path, ...]
    names: tuple[str, ...]
    seed: int


Elsewhere = Callable[[Plan, Mapping[str, Any], Arrived | None], Simulation]  # runs `federate` with these arguments


def run(
    source: Path,
    paths: Sequence[Path],
    scratch: Path,
    *,
    rounds: int,
    epochs: int,
    participation: float,
    lag: float,
    proximal: float,
    privacy: Privacy | None,
    optimizer: ServerOptimizer | None,
    server_rate: float,
    measure_every: int = 0,
    seed: int,
    tell: Callable[[str], None],
    arrived: Arrived | None = None,
    elsewhere: Elsewhere | None = None,
) -> Simulation:
    """Simulate with a bundle's own advice for training; `tell` gets one line a round.

    elsewhere: another engine than this process.
    """
    bundle = install(source, scratch, root=None)
    precision = golden.choose_precision(bundle)
    settings = advised(bundle.manifest, epochs=epochs, proximal=proximal, constant_rate=True)
    told: dict[str, Any] = {
        "rounds": rounds,
        "settings": settings,
        "configuration": usual(
            bundle, len(paths), participation, privacy=privacy, optimizer=optimizer, server_rate=server_rate
        ),
        "seed": seed,
        "participation": participation,
        "lag": lag,
        "measure_every": measure_every,
        "progress": lambda facts: _line(facts, tell),
    }
    called = names(paths)
    if elsewhere:
        plan = Plan(bundle.path, tuple(precision.items()), tuple(p.resolve() for p in paths), tuple(called), seed)
        return elsewhere(plan, told, arrived)
    graphs = Graphs(bundle, precision)
    schools = [school(bundle, graphs, path, name, seed) for path, name in zip(paths, called, strict=True)]
    for one in schools:
        tell(f"{one.name}: {len(one.train)} samples, {len(one.validation or ())} for validation")
    return federate(bundle, called, engine=Here(schools, graphs, arrived), **told)


MOST_LINES = 12  # of scores a round; of more schools, the span and the mean are told


def _line(facts: RoundFacts, tell: Callable[[str], None]) -> None:
    refused = "".join(f"; {name}: {why}" for name, why in facts.refused.items())
    tell(f"round {facts.number}: version {facts.version}, {facts.sent_bytes / 1e6:.2f} MB sent{refused}")
    found = accuracies(facts.scores)
    if len(found) > MOST_LINES:
        worst = min(found, key=lambda name: found[name])
        mean = sum(found.values()) / len(found)
        tell(f"  {len(found)} schools: mean accuracy {mean:.3f}, worst {found[worst]:.3f} ({worst})")
        return
    for name, scores in facts.scores.items():
        parts = ", ".join(f"{task} {score.accuracy:.3f} (n {score.n})" for task, score in scores.items() if score.n)
        tell(f"  {name}: {parts}")


def accuracies(scores: Mapping[str, Scores]) -> dict[str, float]:
    """The mean accuracy over the tasks of each school that has a validation sample of any."""
    rated = {name: [s.accuracy for s in tasks.values() if s.n] for name, tasks in scores.items()}
    return {name: sum(values) / len(values) for name, values in rated.items() if values}


def check_finite(found: Simulation) -> None:
    """TrainError where what was learned is no longer numbers: every school failed last, or its theta answers so."""
    asked = [facts for facts in found.rounds if facts.sent_bytes or facts.refused]
    stuck = asked[-1].refused if asked and not asked[-1].sent_bytes else {}
    told = [score.log_loss for tasks in found.rounds[-1].scores.values() for score in tasks.values()]
    if stuck or not np.isfinite(told).all():
        why = next(iter(stuck.values()), "the loss of the last version is not finite")
        raise TrainError(f"it broke down: {why}", remedy="give a lower --server-rate, or another --optimizer")


def document(found: Simulation) -> dict[str, Any]:
    """All figures of a simulation but theta itself."""
    return {
        "seed": found.seed,
        "version": found.version,
        "settings": msgspec.to_builtins(found.settings),
        "configuration": found.configuration.document,
        "rounds": [
            {
                "round": facts.number,
                "version": facts.version,
                "sent_bytes": facts.sent_bytes,
                "refused": dict(facts.refused),
                "scores": {
                    name: {task: msgspec.to_builtins(score) for task, score in scores.items()}
                    for name, scores in facts.scores.items()
                },
            }
            for facts in found.rounds
        ],
    }
