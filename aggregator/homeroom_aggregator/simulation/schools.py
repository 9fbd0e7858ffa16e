"""Simulated schools from files of samples, for `homeroom research simulate`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from homeroom.contract.manifest import Precision
from homeroom.contract.round import RoundConfiguration
from homeroom.data.ingest import read_samples
from homeroom.data.tasks import needs_no_label
from homeroom.data.tasks.metrics import Score
from homeroom.device.solved import taught_vectors
from homeroom.errors import InputError, TrainError
from homeroom.federation.policy import may_teach
from homeroom.inference import golden
from homeroom.runtime.bundle import Bundle, install
from homeroom.runtime.graphs import Graphs
from homeroom.system import clock
from homeroom.system.printable import counted
from homeroom.train.features.dataset import Dataset
from homeroom.train.features.examples import examples
from homeroom.train.features.quality_gate import check_quality, training_view
from homeroom.train.settings import Settings, advised
from homeroom_aggregator.admin.folder import check_statistics
from homeroom_aggregator.simulation.configuration import SimulationConfiguration
from homeroom_aggregator.simulation.engine import LocalEngine, OnTrained, SchoolData, Scores
from homeroom_aggregator.simulation.federate import Simulation, default_configuration, federate
from homeroom_aggregator.simulation.round import RoundFacts
from homeroom_aggregator.simulation.statistics import StatisticsFacts


def school_names(paths: Sequence[Path]) -> list[str]:
    """A name for each school: the file's, with its folder's where several are called alike."""
    stems = [path.stem for path in paths]
    return [f"{path.resolve().parent.name}/{path.stem}" if stems.count(path.stem) > 1 else path.stem for path in paths]


def load_school(
    bundle: Bundle, graphs: Graphs, path: Path, name: str, seed: int, *, statistics: bool = False
) -> SchoolData:
    """A file's or folder's samples, chosen, checked and split by subject as a device does; features computed.

    Only copies, which a device finds in its store, are not looked for. statistics: prepares those of all samples too.
    """
    manifest, today = bundle.manifest, clock.now().date().isoformat()
    held = (sample for sample in read_samples(path, manifest) if not sample.is_over(today))
    checked = (check_quality(sample, manifest) for sample in held)
    teaching = (sample for sample in checked if may_teach(None, sample, needs_no_label(manifest)))
    stored = [training_view(sample, manifest) for sample in teaching]
    stored = [msgspec.structs.replace(sample, sample_id=f"{number:032x}") for number, sample in enumerate(stored)]
    data = Dataset(manifest, examples(None, bundle, graphs, stored))
    taught = taught_vectors(None, bundle, stored, data.examples) if statistics else None
    return SchoolData(name, *data.split(Settings().validation, seed), taught=taught)


@dataclass(frozen=True)
class SchoolsPlan:
    """The installed bundle, and each school's samples and name, for engines in other processes."""

    bundle: Path
    precision: tuple[tuple[str, Precision], ...]
    paths: tuple[Path, ...]
    names: tuple[str, ...]
    seed: int


# Calls `federate` with these arguments on an engine outside this process
RemoteRun = Callable[[SchoolsPlan, Mapping[str, Any], OnTrained | None], Simulation]


def run(
    source: Path,
    paths: Sequence[Path],
    scratch: Path,
    *,
    asked: SimulationConfiguration,
    terms: RoundConfiguration,
    measure_every: int,
    tell: Callable[[str], None],
    on_trained: OnTrained | None = None,
    remote: RemoteRun | None = None,
) -> Simulation:
    """Simulate with a bundle's own advice for training.

    source: the bundle. paths: of the schools' samples. scratch: where the bundle is installed.
    asked: the simulation. terms: of its rounds, as far as a simulation has them. measure_every: as for `federate`.
    tell: gets one line a round. on_trained: called after each school.
    remote: an engine outside this process, which exchanges no statistics.
    """
    shared = terms.statistics.mode != "off"
    if remote is not None and shared:
        remedy = "leave out --engine, or --statistics"
        raise InputError("statistics are simulated in this process alone", where="--engine", remedy=remedy)
    bundle, precision = golden.with_precision(install(source, scratch, root=None), source)
    settings = advised(bundle.manifest, epochs=asked.epochs, proximal=terms.proximal, constant_rate=True)
    check_statistics(terms, bundle, source)
    names_kept = ("privacy", "optimizer", "server_rate", "rule", "school_share", "statistics")
    kept = {name: getattr(terms, name) for name in names_kept}
    configuration = default_configuration(bundle, len(paths), asked.participation, **kept)
    arguments = {name: getattr(asked, name) for name in ("rounds", "seed", "participation", "lag")}
    arguments |= {"settings": settings, "configuration": configuration, "measure_every": measure_every}
    arguments["progress"] = lambda facts: _line(facts, tell)
    names = school_names(paths)
    if remote:
        resolved = tuple(path.resolve() for path in paths)
        plan = SchoolsPlan(bundle.path, tuple(precision.items()), resolved, tuple(names), asked.seed)
        return remote(plan, arguments, on_trained)
    graphs = Graphs(bundle, precision)
    schools = [
        load_school(bundle, graphs, path, name, asked.seed, statistics=shared)
        for path, name in zip(paths, names, strict=True)
    ]
    for school in schools:
        tell(f"{school.name}: {counted(len(school.train), 'sample')}, {len(school.validation or ())} for validation")
    arguments |= {"schools": schools, "on_statistics": lambda facts: _statistics_lines(facts, tell)}
    return federate(bundle, names, engine=LocalEngine(schools, graphs, on_trained), **arguments)


MOST_SCORE_LINES = 12  # a round; of more schools, the mean and the worst are printed


def _line(facts: RoundFacts, tell: Callable[[str], None]) -> None:
    refused = "".join(f"; {name}: {why}" for name, why in facts.refused.items())
    tell(f"round {facts.number}: version {facts.version}, {facts.sent_bytes / 1e6:.2f} MB sent{refused}")
    means = skills(facts.scores)
    if len(means) > MOST_SCORE_LINES:
        worst = min(means, key=lambda name: means[name])
        mean = sum(means.values()) / len(means)
        figures = f"mean {skill_name(facts.scores)} {mean:.3f}, worst {means[worst]:.3f} ({worst})"
        tell(f"  {counted(len(means), 'school')}: {figures}")
        return
    for name, scores in facts.scores.items():
        parts = ", ".join(f"{task} {_figures(score)} (n {score.n})" for task, score in scores.items() if score.n)
        tell(f"  {name}: {parts}")


def _statistics_lines(facts: StatisticsFacts, tell: Callable[[str], None]) -> None:
    """What schools sent once, what holds back the rest, and what solved heads reach alone and with it."""
    sent = sum(one.sent_bytes for one in facts.schools.values())
    came = f"a release of {facts.release_bytes / 1e6:.2f} MB" if facts.release_bytes else f"no release: {facts.waits}"
    tell(f"statistics: {sent / 1e6:.2f} MB sent once; {came}")
    held = [(name, task, why) for name, one in facts.schools.items() for task, why in one.held.items()]
    for name, task, why in held[:MOST_SCORE_LINES]:
        tell(f"  {name} sends {f'nothing of {task}' if task else 'nothing'}: {why}")
    if len(held) > MOST_SCORE_LINES:
        tell(f"  and {len(held) - MOST_SCORE_LINES} more tasks that schools send nothing of")
    if len(facts.schools) > MOST_SCORE_LINES:
        for whose in ("alone", "others", "together"):
            means = skills({name: one.scores[whose] for name, one in facts.schools.items() if whose in one.scores})
            if means:
                mean = sum(means.values()) / len(means)
                tell(f"  {counted(len(means), 'school')}, solved {whose}: mean {mean:.3f}")
        return
    for name, one in facts.schools.items():
        for whose, scores in one.scores.items():
            parts = ", ".join(f"{task} {_figures(score)} (n {score.n})" for task, score in scores.items() if score.n)
            tell(f"  {name}, solved {whose}: {parts}")


def _figures(score: Score) -> str:
    return score.brief if score.accuracy is None else f"{score.accuracy:.3f}"


def skills(scores: Mapping[str, Scores]) -> dict[str, float]:
    """The mean skill over the tasks of each school that has a validation sample of any."""
    rated = {name: [s.skill for s in tasks.values() if s.skill is not None] for name, tasks in scores.items()}
    return {name: sum(values) / len(values) for name, values in rated.items() if values}


def skill_name(scores: Mapping[str, Scores]) -> str:
    """What the skill of these scores is called: accuracy, unless some are of numbers."""
    numbers = any(score.n and score.accuracy is None for tasks in scores.values() for score in tasks.values())
    return "skill (accuracy; of numbers R², at least -1)" if numbers else "accuracy"


def check_finite(simulation: Simulation) -> None:
    """TrainError where training diverged: every school failed last, or a loss of the last version is not finite."""
    trained = [facts for facts in simulation.rounds if facts.sent_bytes or facts.refused]
    stuck = trained[-1].refused if trained and not trained[-1].sent_bytes else {}
    last = [score for tasks in simulation.rounds[-1].scores.values() for score in tasks.values()]
    losses = [figure for score in last for figure in (score.log_loss, score.rmse) if figure is not None]
    if stuck or not np.isfinite(losses).all():
        why = next(iter(stuck.values()), "the loss of the last version is not finite")
        raise TrainError(f"it broke down: {why}", remedy="give a lower --server-rate, or another --optimizer")


def simulation_document(simulation: Simulation) -> dict[str, Any]:
    """All figures of a simulation but theta itself."""
    names = ("version", "sent_bytes", "refused", "scores")
    rounds = [{"round": facts.number} | {name: getattr(facts, name) for name in names} for facts in simulation.rounds]
    document = {name: getattr(simulation, name) for name in ("seed", "version", "settings")}
    document |= {"configuration": simulation.configuration.document, "rounds": rounds}
    if facts := simulation.statistics:
        document["statistics"] = {name: getattr(facts, name) for name in ("release_bytes", "waits", "schools")}
    return dict(msgspec.to_builtins(document))
