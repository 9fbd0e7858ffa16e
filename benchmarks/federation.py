"""Benchmark of federation: the vocabulary lesson alone, together and with all data in one place, several seeds.

    python benchmarks/federation.py --seeds 3 --json federation.json

Training and merge are the device's and the aggregator's own code (`homeroom_aggregator.simulation.federate`); features
are computed once and kept in the cache folder. Every setting tries the same number of learning rates on the first
seed's validation pupils, and stops at its own validation pupils' best score. The test stamps are used only to report.
Runs to its end whether or not the targets are met.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import safetensors.numpy

sys.path.insert(0, str(Path(__file__).parents[1]))

from examples.vocabulary import lesson
from examples.vocabulary.bundle import make_bundle
from examples.vocabulary.lesson import accuracies, mean
from examples.vocabulary.schools import SCHOOLS, Pair, write_all
from examples.vocabulary.splits import lesson_stamps
from examples.vocabulary.stamps import NoStampsError, cache_folder
from homeroom.contract.round import RoundConfiguration
from homeroom.data.ingest import read_samples
from homeroom.data.tasks.metrics import Score
from homeroom.errors import HomeroomError
from homeroom.inference import golden
from homeroom.runtime.bundle import Bundle, open_bundle
from homeroom.runtime.graphs import Graphs
from homeroom.store import Store
from homeroom.train.evaluate import evaluate
from homeroom.train.features.dataset import Dataset
from homeroom.train.features.examples import examples
from homeroom.train.fit import fit
from homeroom.train.settings import Settings
from homeroom_aggregator.simulation.engine import SchoolData
from homeroom_aggregator.simulation.federate import simulate
from peers.verdict import finish, target

SETTINGS = ("before", "alone", "together", "own", "pooled")
GAIN, SPREADS, SCHOOLS_AHEAD, BEHIND = 5.0, 2.0, 4, 2.0

Scores = dict[str, dict[str, float]]  # accuracy by school and task


class FeatureCache:
    """The two methods of the device's store that `examples` calls, over one file a variant in the cache."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.known: dict[str, dict[str, np.ndarray]] = {}

    def read_features(self, variant: str, keys: set[tuple[str, bytes]]) -> dict[tuple[str, bytes], np.ndarray]:
        if variant not in self.known:
            path = self._path(variant)
            self.known[variant] = dict(safetensors.numpy.load_file(path)) if path.exists() else {}
        known = self.known[variant]
        return {key: known[key[1].hex()] for key in keys if key[1].hex() in known}

    def write_features(self, variant: str, features: Mapping[tuple[str, bytes], np.ndarray]) -> None:
        if features:
            self.known[variant] |= {digest.hex(): array for (_, digest), array in features.items()}
            path = self._path(variant)
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".partial")
            partial.write_bytes(safetensors.numpy.save(self.known[variant]))
            os.replace(partial, path)

    def _path(self, variant: str) -> Path:
        return self.folder / f"{variant.replace('/', '-')}.safetensors"


@dataclass(frozen=True)
class Data:
    """One seed's schools: training and validation pupils, and the test."""

    parts: Mapping[str, tuple[Dataset, Dataset]]
    tests: Mapping[str, Dataset]
    pooled: tuple[Dataset, Dataset]


def load(bundle: Bundle, graphs: Graphs, cache: FeatureCache, pairs: Sequence[Pair], seed: int) -> Data:
    manifest = bundle.manifest

    def dataset(path: Path) -> Dataset:
        return Dataset(manifest, examples(cast(Store, cache), bundle, graphs, list(read_samples(path, manifest))))

    def split(data: Dataset) -> tuple[Dataset, Dataset]:
        train, validation = data.split(lesson.ALONE.validation, lesson.ALONE.seed)
        assert validation is not None  # every school has several pupils
        return train, validation

    with TemporaryDirectory(prefix="homeroom-lesson-") as folder:
        files = write_all(pairs, Path(folder), seed)
        parts = {school.name: split(dataset(files[school.name]["train"])) for school in SCHOOLS}
        tests = {school.name: dataset(files[school.name]["test"]) for school in SCHOOLS}
    joined = [Dataset(manifest, [e for part in parts.values() for e in part[side].examples]) for side in (0, 1)]
    return Data(parts, tests, (joined[0], joined[1]))


@dataclass(frozen=True)
class Lesson:
    """The lesson of one seed, to be trained in every setting."""

    bundle: Bundle
    graphs: Graphs
    data: Data
    seed: int

    def tested(self, theta: Mapping[str, np.ndarray]) -> Scores:
        return {name: accuracies(evaluate(self.graphs, test, theta[name])) for name, test in self.data.tests.items()}

    def everywhere(self, theta: np.ndarray) -> dict[str, np.ndarray]:
        return dict.fromkeys(self.data.tests, theta)

    def train(self, parts: tuple[Dataset, Dataset], start: np.ndarray, settings: Settings) -> tuple[np.ndarray, float]:
        found = fit(self.graphs, *parts, start, _seeded(settings, self.seed))
        return found.theta, found.score

    def alone(self, rate: float) -> tuple[dict[str, np.ndarray], float]:
        """Theta by school, and the mean validation score."""
        settings = _rated(lesson.ALONE, rate)
        made = {name: self.train(part, self.bundle.theta(), settings) for name, part in self.data.parts.items()}
        return {name: theta for name, (theta, _) in made.items()}, float(np.mean([value for _, value in made.values()]))

    def pooled(self, rate: float) -> tuple[dict[str, np.ndarray], float]:
        theta, value = self.train(self.data.pooled, self.bundle.theta(), _rated(lesson.ALONE, rate))
        return self.everywhere(theta), value

    def together(self, rate: float) -> tuple[dict[str, np.ndarray], float]:
        """The global theta of the round that does best on the schools' validation pupils."""
        found = simulate(
            self.bundle,
            [SchoolData(name, *part) for name, part in self.data.parts.items()],
            lesson.ROUNDS,
            lambda number: lesson.round_settings(number - 1, rate=rate),
            RoundConfiguration(bundle_id=self.bundle.bundle_id, buffer_size=len(SCHOOLS)),
            seed=self.seed,
            graphs=self.graphs,
            measure_every=1,
        )
        values = [float(np.mean([_value(scores) for scores in facts.scores.values()])) for facts in found.rounds]
        best = int(np.argmax(values))
        return self.everywhere(found.rounds[best].theta), values[best]

    def own(self, start: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """After the rounds, some epochs of each school's own; what was better on its validation pupils is kept."""
        found = {}
        for name, part in self.data.parts.items():
            theta, value = self.train(part, start[name], lesson.OWN)
            before = _value(evaluate(self.graphs, part[1], start[name]))
            found[name] = theta if value > before else start[name]
        return found


Trained = Callable[[float], tuple[dict[str, np.ndarray], float]]


def search(one: Lesson, tell: Callable[[str], None]) -> dict[str, float]:
    """The learning rate of each setting that does best on validation pupils, of equally many tried."""
    chosen = {}
    ways: dict[str, Trained] = {"alone": one.alone, "together": one.together, "pooled": one.pooled}
    for setting, way in ways.items():
        values = {rate: way(rate)[1] for rate in lesson.RATES}
        chosen[setting] = max(values, key=lambda rate: values[rate])
        tell(f"{setting}: rate {chosen[setting]:g} of " + ", ".join(f"{r:g} ({v:.3f})" for r, v in values.items()))
    return chosen


def run(one: Lesson, rates: Mapping[str, float]) -> dict[str, Scores]:
    """Test accuracy by setting, school and task."""
    together, _ = one.together(rates["together"])
    return {
        "before": one.tested(one.everywhere(one.bundle.theta())),
        "alone": one.tested(one.alone(rates["alone"])[0]),
        "together": one.tested(together),
        "own": one.tested(one.own(together)),
        "pooled": one.tested(one.pooled(rates["pooled"])[0]),
    }


def targets(runs: Sequence[Mapping[str, Scores]], samples: Mapping[str, int]) -> list[dict[str, Any]]:
    """What was to be shown, in points of accuracy over 100, computed from the runs of all seeds."""
    names = list(samples)

    def points(setting: str, school: str) -> list[float]:
        return [100 * mean(one[setting][school]) for one in runs]

    means = {s: np.mean([points(s, name) for name in names], axis=0) for s in SETTINGS}  # one value a seed
    gain = float((means["together"] - means["alone"]).mean())
    spread = max(_spread(means[s]) for s in ("alone", "together"))
    gains = {name: float(np.mean(points("together", name)) - np.mean(points("alone", name))) for name in names}
    behind = float((means["pooled"] - means["together"]).mean())
    least = set(sorted(names, key=lambda name: samples[name])[:2])
    most = set(sorted(names, key=lambda name: -gains[name])[:2])
    ahead = sum(value > 0 for value in gains.values())
    return [
        target("together against alone, mean over schools, points", gain, f">= {GAIN:g}", gain >= GAIN),
        target(
            "the same, over the spread (standard deviation of the seeds' means, the larger of both settings)",
            gain / spread if spread else None,
            f"> {SPREADS:g}",
            len(runs) > 1 and gain > SPREADS * spread,
        ),
        target(f"schools of {len(names)} that gain", ahead, f">= {SCHOOLS_AHEAD}", ahead >= SCHOOLS_AHEAD),
        target("all data in one place against together, points", behind, f"<= {BEHIND:g}", behind <= BEHIND),
        target("the two schools that gain most", sorted(most), " and ".join(sorted(least)), most == least),
    ]


def _rated(settings: Settings, rate: float) -> Settings:
    return lesson.changed(settings, learning_rate=rate)


def _seeded(settings: Settings, seed: int) -> Settings:
    return lesson.changed(settings, seed=seed)


def _value(scores: Mapping[str, Score]) -> float:
    return mean({task: score.value for task, score in scores.items() if score.n})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--bundle", type=Path, help="a bundle of the lesson, in place of a new export")
    options = parser.parse_args()
    began = time.monotonic()
    try:
        document = measure(options.seeds, options.bundle)
    except (HomeroomError, NoStampsError) as problem:
        raise SystemExit(f"federation: {problem}") from None
    document["minutes"] = round((time.monotonic() - began) / 60, 2)
    finish(document, options.json)


def measure(seeds: int, given: Path | None) -> dict[str, Any]:
    def tell(line: str) -> None:
        print(line, flush=True)

    pairs = lesson_stamps()
    with TemporaryDirectory(prefix="homeroom-federation-") as folder:
        path = given or make_bundle(pairs, Path(folder), tell)
        bundle = open_bundle(path, root=None)
        graphs = Graphs(bundle, golden.choose_precision(bundle))
        cache = FeatureCache(cache_folder() / "vocabulary-features")
        rates: dict[str, float] = {}
        runs: list[dict[str, Scores]] = []
        samples: dict[str, list[int]] = {school.name: [] for school in SCHOOLS}
        for seed in range(seeds):
            one = Lesson(bundle, graphs, load(bundle, graphs, cache, pairs, seed), seed)
            rates = rates or search(one, tell)
            runs.append(run(one, rates))
            for name, (train, validation) in one.data.parts.items():
                samples[name].append(len(train) + len(validation))
            tell(f"seed {seed}: " + ", ".join(f"{s} {_over(runs[-1][s]):.3f}" for s in SETTINGS))
        counted = {name: round(float(np.mean(counts))) for name, counts in samples.items()}
        for name in counted:
            shown = {s: float(np.mean([mean(one[s][name]) for one in runs])) for s in SETTINGS}
            tell(f"{name:9} {counted[name]:4} samples  " + "  ".join(f"{s} {v:.3f}" for s, v in shown.items()))
        return {
            "bundle_id": bundle.bundle_id,
            "parameters": bundle.manifest.layout.size,
            "rates_tried": list(lesson.RATES),
            "rates": rates,
            "rounds": lesson.ROUNDS,
            "local_epochs": lesson.LOCAL_EPOCHS,
            "samples": counted,
            "tests": {name: len(test) for name, test in one.data.tests.items()},
            "seeds": runs,
            "mean": {s: round(float(np.mean([_over(one[s]) for one in runs])), 4) for s in SETTINGS},
            "spread": {
                s: round(float(np.std([_over(r[s]) for r in runs], ddof=min(1, seeds - 1))), 4) for s in SETTINGS
            },
            "targets": targets(runs, counted),
        }


def _spread(values: Sequence[float]) -> float:
    """Standard deviation over seeds; 0.0 of one."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _over(scores: Scores) -> float:
    return float(np.mean([mean(tasks) for tasks in scores.values()]))


if __name__ == "__main__":
    main()
