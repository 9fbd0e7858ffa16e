"""From files of samples to a simulation: what `homeroom simulate` does; imports homeroom and simulate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from homeroom import golden
from homeroom.bundle import Bundle, install
from homeroom.collect import examples
from homeroom.contract.privacy import Privacy
from homeroom.contract.update import ServerOptimizer
from homeroom.dataset import Dataset
from homeroom.ingest import read_samples
from homeroom.runtime import Graphs
from homeroom.training import Settings
from homeroom_aggregator.simulate import RoundFacts, SchoolData, Simulation, simulate


def names(paths: Sequence[Path]) -> list[str]:
    """A name for each school: the file's, with its folder's where several are called alike."""
    stems = [path.stem for path in paths]
    return [f"{path.resolve().parent.name}/{path.stem}" if stems.count(path.stem) > 1 else path.stem for path in paths]


def school(bundle: Bundle, graphs: Graphs, path: Path, name: str, seed: int) -> SchoolData:
    """A file's or folder's samples, features computed, split by subject as a device splits them."""
    stored = list(read_samples(path, bundle.manifest))
    data = Dataset(bundle.manifest, examples(None, bundle, graphs, stored))
    return SchoolData(name, *data.split(Settings().validation, seed))


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
    seed: int,
    tell: Callable[[str], None],
) -> Simulation:
    """Simulate with a bundle's own advice for training; `tell` gets one line a round."""
    bundle = install(source, scratch, root=None)
    graphs = Graphs(bundle, golden.choose_precision(bundle))
    advice = bundle.manifest.training
    settings = Settings(
        epochs=epochs,
        learning_rate=advice.learning_rate,
        weight_decay=advice.weight_decay,
        task_weights=advice.task_weights,
        clip_norm=advice.clip_norm,
        proximal=proximal,
        constant_rate=True,
    )
    schools = [school(bundle, graphs, p, name, seed) for p, name in zip(paths, names(paths), strict=True)]
    for one in schools:
        tell(f"{one.name}: {len(one.train)} samples, {len(one.validation or ())} for validation")

    def line(facts: RoundFacts) -> None:
        refused = "".join(f"; {name}: {why}" for name, why in facts.refused.items())
        tell(f"round {facts.number}: version {facts.version}, {facts.sent_bytes / 1e6:.2f} MB sent{refused}")
        for name, scores in facts.scores.items():
            parts = ", ".join(f"{task} {score.accuracy:.3f} (n {score.n})" for task, score in scores.items() if score.n)
            tell(f"  {name}: {parts}")

    return simulate(
        bundle,
        schools,
        rounds,
        settings,
        privacy=privacy,
        optimizer=optimizer,
        server_rate=server_rate,
        seed=seed,
        graphs=graphs,
        participation=participation,
        lag=lag,
        progress=line,
    )


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
