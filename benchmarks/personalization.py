"""Benchmark of personalization: a hundred virtual devices with their own mixes of classes, on real handwritten digits.

    python benchmarks/personalization.py --json personalization.json
    python benchmarks/personalization.py --quick          one seed, fewer rounds

Scikit-learn's digits (UCI, CC BY 4.0) as rows of 64 pixels, a small bundle of them made by the exporter. Each device
draws its class mix (Dirichlet) and its samples from the training pictures. The shared model is trained by federated
rounds over all devices (the device's training, the aggregator's merge); then each device personalizes by the default,
`homeroom.train.personalize.choose`. Devices differ in their shares of classes alone, for which adding these to the
model's logits is the right correction (Saerens et al. 2002, equation 2.4:
`homeroom.train.personalize.prior_correction`, tried first); a dozen to eighty samples limit the estimate of the shares.
A tie with the shared model counts as not better. A device's method is chosen on its own held-out samples. The test
pictures, which are on no device, are used only to report: a device's accuracy is that of each class, weighted by its
mix. Runs to its end whether or not the targets are met.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np

from homeroom.contract.signing import certify, new_key
from homeroom.data.samples import Sample
from homeroom.data.validation import resolve
from homeroom.runtime.bundle import Bundle, open_bundle
from homeroom.runtime.graphs import Graphs
from homeroom.train.evaluate import outputs_of
from homeroom.train.features.dataset import Dataset, Example
from homeroom.train.features.examples import examples
from homeroom.train.fit import fit
from homeroom.train.personalize.choose import METHODS, Choice, choose
from homeroom.train.personalize.mixing import mix
from homeroom.train.personalize.person import Person
from homeroom.train.settings import Settings
from homeroom_aggregator.simulation.engine import SchoolData
from homeroom_aggregator.simulation.federate import simulate
from peers.verdict import finish, target

DEVICES, CLASSES, MIX = 100, 10, 0.3
LEAST, MOST = 12, 80  # samples of a device, drawn evenly in the logarithm
TEST = 0.3
ROUNDS, PARTICIPATION = 30, 0.3
RATE = 4e-3
ALONE = Settings(epochs=40, learning_rate=RATE, weight_decay=1e-2, patience=10)
TOGETHER = msgspec.structs.replace(ALONE, epochs=2, patience=2, constant_rate=True)
SETTINGS = ("shared", "alone", "own")
COLUMNS = ", ".join(f'{{name = "p{i:02d}", mean = 5.0, std = 6.0}}' for i in range(64))
RECIPE = f"""
name = "digits"
version = 1
batch = 16
width = 32
hidden = 32

[encoders.table]
source = "table"
columns = [{COLUMNS}]

[slots]
pixels = "table"

[tasks.digit]
kind = "classification"
reads = ["pixels"]
labels = [{", ".join(f'"{digit}"' for digit in range(CLASSES))}]
"""


@dataclass(frozen=True)
class School:
    """One virtual device: the share of each class in its lessons [10], and its samples."""

    mix: np.ndarray
    own: Dataset


def make_bundle(folder: Path) -> tuple[Bundle, list[Example], np.ndarray]:
    """A bundle for the digits, every picture as an example, and their classes."""
    from sklearn.datasets import load_digits

    from homeroom_exporter.export.pipeline import export
    from homeroom_exporter.recipe.recipe import parse_recipe

    pixels, digits = load_digits(return_X_y=True)
    rows = [
        {"pixels": {f"p{i:02d}": float(v) for i, v in enumerate(picture)}, "labels": {"digit": str(digit)}}
        for picture, digit in zip(pixels, digits, strict=True)
    ]
    calibration = folder / "calibration.jsonl"
    calibration.write_text("".join(json.dumps(row) + "\n" for row in rows[::9]))
    root, key = new_key(), new_key()
    word = certify(root, "exporter", key, "benchmark")
    made = export(parse_recipe(RECIPE, "digits.toml"), calibration, folder / "bundle", key, word)
    bundle = open_bundle(made.path, root=None)
    stored = [resolve(Sample(**row), bundle.manifest) for row in rows]
    return bundle, examples(None, bundle, Graphs(bundle, threads=1), stored), digits


def deal(bundle: Bundle, pictures: Sequence[Example], digits: np.ndarray, seed: int) -> tuple[list[School], list[int]]:
    """The devices of one seed, and the numbers of the test pictures; a training picture may be on several devices."""
    rng = np.random.default_rng([seed, 0xD16175])
    order = rng.permutation(len(pictures))
    test, train = order[: round(TEST * len(order))], order[round(TEST * len(order)) :]
    by_class = [[int(i) for i in train if digits[i] == c] for c in range(CLASSES)]
    schools = []
    for _ in range(DEVICES):
        shares = rng.dirichlet([MIX] * CLASSES)
        size = round(float(np.exp(rng.uniform(np.log(LEAST), np.log(MOST)))))
        counts = rng.multinomial(size, shares)
        rows = [r for c, n in enumerate(counts) for r in rng.choice(by_class[c], min(n, len(by_class[c])), False)]
        schools.append(School(shares, Dataset(bundle.manifest, [pictures[r] for r in rng.permutation(rows)])))
    return schools, [int(i) for i in test]


def run(bundle: Bundle, pictures: Sequence[Example], digits: np.ndarray, seed: int, rounds: int) -> dict[str, Any]:
    """Accuracy of every device in each setting, and what was chosen for it."""
    graphs = Graphs(bundle, threads=1)
    schools, test = deal(bundle, pictures, digits, seed)
    tested, truth = Dataset(bundle.manifest, [pictures[i] for i in test]), digits[test]

    def accuracy(theta: np.ndarray, school: School) -> float:
        right = outputs_of(graphs, tested, theta)["digit"].argmax(1) == truth
        return float(sum(share * right[truth == c].mean() for c, share in enumerate(school.mix)))

    together = simulate(
        bundle,
        [SchoolData(f"device {i}", school.own) for i, school in enumerate(schools)],
        rounds,
        lambda number: msgspec.structs.replace(
            TOGETHER, learning_rate=ALONE.learning_rate * (1 - number / (rounds + 1))
        ),
        seed=seed,
        graphs=graphs,
        participation=PARTICIPATION,
    )
    shared = together.theta
    found: dict[str, Any] = {name: [] for name in (*SETTINGS, *METHODS, "method", "share", "samples", "seconds")}
    for school in schools:
        train, validation = school.own.split(ALONE.validation, seed)
        alone = fit(graphs, train, validation, bundle.theta(), ALONE).theta
        person, began = Person(graphs, shared, ALONE), time.perf_counter()
        chosen: Choice = choose(person, school.own)
        found["seconds"].append(time.perf_counter() - began)
        thetas = {"shared": shared, "alone": alone, "own": mix(shared, chosen.theta, chosen.share)}
        thetas |= {name: method(person, school.own) for name, method in METHODS.items()}
        for name, theta in thetas.items():
            found[name].append(accuracy(theta, school))
        found["method"].append(chosen.method)
        found["share"].append(chosen.share)
        found["samples"].append(len(school.own))
    return found


def summary(values: Sequence[float]) -> dict[str, float]:
    """Of one setting over the devices of a seed, in points over 100."""
    points = np.sort(100 * np.asarray(values))
    tenth = max(1, len(points) // 10)
    return {
        "mean": float(points.mean()),
        "spread": float(points.std()),
        "min": float(points[0]),
        "worst tenth": float(points[:tenth].mean()),
        "best tenth": float(points[-tenth:].mean()),
        "max": float(points[-1]),
    }


def groups(one: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """The devices by the method that their held-out samples chose: how many, and what it brought, in points."""
    gains = 100 * (np.array(one["own"]) - np.array(one["shared"]))
    found = {}
    for method in sorted(set(one["method"])):
        here = np.array(one["method"]) == method
        samples = float(np.array(one["samples"])[here].mean())
        found[method] = {"devices": int(here.sum()), "mean gain": float(gains[here].mean()), "mean samples": samples}
    return found


def targets(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Medians over the seeds."""
    own, shared, alone = ([np.array(one[name]) for one in runs] for name in ("own", "shared", "alone"))
    better = float(np.median([100 * (o > s).mean() for o, s in zip(own, shared, strict=True)]))
    gain = float(np.median([100 * (o - a).mean() for o, a in zip(own, alone, strict=True)]))
    devices = min(len(o) for o in own)
    return [
        target("virtual devices", devices, ">= 100", devices >= 100),
        target("devices for which the default beats the shared model, percent", better, ">= 80", better >= 80),
        target("the default against local only, mean over devices, points", gain, "> 0", gain > 0),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one seed and fewer rounds; targets are then a hint only")
    options = parser.parse_args()
    seeds, rounds, began = (1, 15, time.monotonic()) if options.quick else (options.seeds, ROUNDS, time.monotonic())
    with TemporaryDirectory(prefix="homeroom-personalization-") as folder:
        bundle, pictures, digits = make_bundle(Path(folder))
        runs = []
        for seed in range(seeds):
            runs.append(run(bundle, pictures, digits, seed, rounds))
            print(f"seed {seed}: " + ", ".join(f"{s} {100 * np.mean(runs[-1][s]):.1f}" for s in SETTINGS), flush=True)
    names = (*SETTINGS, *METHODS)
    document = {
        "settings": {"devices": DEVICES, "mix": MIX, "samples": [LEAST, MOST], "rounds": rounds, "seeds": seeds},
        "parameters": bundle.manifest.layout.size,
        "summary": [{name: summary(one[name]) for name in names} for one in runs],
        "groups": [groups(one) for one in runs],
        "seconds a device": float(np.median([s for one in runs for s in one["seconds"]])),
        "devices": runs,
        "targets": targets(runs),
        "minutes": round((time.monotonic() - began) / 60, 2),
    }
    for name in names:
        shown = {key: np.median([summary(one[name])[key] for one in runs]) for key in summary([0.0])}
        print(f"{name:9}" + "  ".join(f"{key} {value:5.1f}" for key, value in shown.items()))
    for method, facts in groups(runs[0]).items():
        print(f"seed 0, {method}: " + ", ".join(f"{key} {value:.1f}" for key, value in facts.items()))
    finish(document, options.json)


if __name__ == "__main__":
    sys.exit(main())
