"""Who is served: accuracy at the worst tenth of schools beside the mean, by how a release weighs schools.

    python benchmarks/equity.py --json equity.json     30 schools, 10 seeds, paired
    python benchmarks/equity.py --quick                2 seeds: minutes

Handwritten digits (scikit-learn's). 30 schools of very unequal sizes (Zipf, from 1 device to a dozen, a dozen pictures
a device) and class mixes (Dirichlet 0.3 a school, drawn until the training pictures suffice). A school's accuracy is
that on one common test set, each picture weighted by the school's mix of its class: so schools differ by what they
teach and not by the luck of their test. Devices train, sign and send through admission, the log and the release, and
are members of their schools. Weights: `examples` (the mean, as claimed), `devices` (bounded, a school at most half),
`schools` (bounded, each school the same). The objective is chosen on a common validation set over all seeds, the
highest worst tenth whose mean is at most a point below that of `examples`; test figures are of it alone.

The same runs count answers of each school as a federated evaluation does, on validation pictures of its own mix, and
compare the sum with the counts over all of these pictures pooled.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import privacy_digits as digits
from homeroom import Sample
from homeroom.contract.evaluation_counts import GroupCounts, accuracy, add_counts, worst_tenth
from homeroom.contract.round import RoundConfiguration
from homeroom.contract.signing import certify, new_key
from homeroom.data.validation import resolve
from homeroom.federation.evaluation_shape import task_shapes
from homeroom.runtime.bundle import Bundle
from homeroom.runtime.graphs import Graphs
from homeroom.train.evaluate import count_answers, labelled_outputs
from homeroom.train.features.dataset import Dataset
from homeroom.train.features.examples import examples
from homeroom.train.settings import Settings
from homeroom_aggregator.merge.evaluation_tally import TaskTally
from homeroom_aggregator.merge.rounds import Rounds
from homeroom_aggregator.simulation.engine import AGGREGATOR_NAME, LocalEngine, SchoolData
from homeroom_aggregator.simulation.round import Federation
from homeroom_aggregator.state.members import StoredInvitation
from peers.verdict import finish, target

SCHOOLS, MOST_DEVICES, PICTURES_A_DEVICE, ALPHA = 30, 12, 12, 0.3
VALIDATION = 300  # common pictures beside the test's
ROUNDS = 15
LOCAL = Settings(epochs=2, learning_rate=1e-2, weight_decay=0.0, constant_rate=True, balance=0.0)
BASELINE = "examples"
WEIGHTS: dict[str, dict[str, Any]] = {
    "examples": {},
    "devices": {"rule": "bounded", "school_share": 0.5, "k_of": "schools"},
    "schools": {"rule": "bounded", "school_share": 0.0, "k_of": "schools"},
}
LEAST_GAIN, MOST_COST = 3.0, 1.0  # points


@dataclass(frozen=True)
class Town:
    """The schools of one seed. school_of: of each device. mixes: float64 [schools, 10], each a distribution."""

    devices: list[Dataset]
    school_of: list[int]
    mixes: np.ndarray
    own: list[Dataset]  # validation pictures of each school's mix
    validation: Dataset
    test: Dataset


def device_counts(rng: np.random.Generator) -> np.ndarray:
    """Devices of each school, int [schools]: by Zipf's law from the largest, in a random order."""
    counts = np.maximum(1, MOST_DEVICES // np.arange(1, SCHOOLS + 1))
    return rng.permutation(counts)


def deal(labels: np.ndarray, mixes: np.ndarray, counts: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Indices of training pictures by device, of its school's mix as long as there are any of a class."""
    left = {label: rng.permutation(np.flatnonzero(labels == label)).tolist() for label in range(10)}
    hands: list[np.ndarray] = []
    for school in rng.permutation(SCHOOLS):
        for _ in range(counts[school]):
            hand = list[int]()
            while len(hand) < PICTURES_A_DEVICE:
                there = np.array([bool(left[label]) for label in range(10)])
                chances = (mixes[school] + 1e-9) * there
                hand.append(left[int(rng.choice(10, p=chances / chances.sum()))].pop())
            hands.append(np.array([school, *hand]))
    return hands


def town(bundle: Bundle, graphs: Graphs, seed: int) -> Town:
    rng = np.random.default_rng([seed, 26])
    order = rng.permutation(len(digits.DIGITS.target))
    every = examples(None, bundle, graphs, [resolve(Sample(**row), bundle.manifest) for row in digits.rows(order)])  # type: ignore[arg-type]
    labels = digits.DIGITS.target[order]
    first = digits.TEST + VALIDATION
    mixes, counts = rng.dirichlet([ALPHA] * 10, SCHOOLS), device_counts(rng)
    hands = deal(labels[first:], mixes, counts, rng)
    by_class = [digits.TEST + np.flatnonzero(labels[digits.TEST : first] == label) for label in range(10)]
    own = []
    for school in range(SCHOOLS):
        drawn = [int(rng.choice(by_class[label])) for label in rng.choice(10, 25, p=mixes[school])]
        own.append(Dataset(bundle.manifest, [every[n] for n in drawn]))
    return Town(
        [Dataset(bundle.manifest, [every[first + n] for n in hand[1:]]) for hand in hands],
        [int(hand[0]) for hand in hands],
        mixes,
        own,
        Dataset(bundle.manifest, every[digits.TEST : first]),
        Dataset(bundle.manifest, every[: digits.TEST]),
    )


def learned(bundle: Bundle, graphs: Graphs, data: Town, weights: str, seed: int) -> np.ndarray:
    """Theta after all rounds."""
    names = [f"device {number}" for number in range(len(data.devices))]
    engine = LocalEngine([SchoolData(name, one) for name, one in zip(names, data.devices, strict=True)], graphs)
    asked = RoundConfiguration(bundle_id=bundle.bundle_id, buffer_size=len(names), min_devices=3, **WEIGHTS[weights])
    key, root = new_key(), new_key()
    certificate = certify(root, "aggregator", key, AGGREGATOR_NAME)
    rounds = Rounds(Path(":memory:"), bundle, asked, key, certificate)
    try:
        for device, school in zip(engine.devices, data.school_of, strict=True):
            name = device.key.public_key().public_bytes_raw().hex()
            rounds.members.join(name, StoredInvitation(name, school=f"school {school}"))
        federation = Federation(rounds, names, lambda _: LOCAL, seed=seed, participation=1.0, lag=0.0)
        for number in range(1, ROUNDS + 1):
            facts = federation.round(number, engine, measured=False)
            if facts.refused:
                raise AssertionError(facts.refused)
        return facts.theta
    finally:
        rounds.close()


def by_school(graphs: Graphs, common: Dataset, theta: np.ndarray, mixes: np.ndarray) -> np.ndarray:
    """Accuracy of each school, float64 [schools]: that of each class, by the school's mix."""
    outputs, targets = labelled_outputs(graphs, common, theta)["digit"]
    right, truth = outputs.argmax(1) == targets.argmax(1), targets.argmax(1)
    of_class = np.array([right[truth == label].mean() for label in range(10)])
    return np.asarray(mixes @ of_class)


def worst(shares: np.ndarray) -> float:
    """Mean of the worst tenth of schools."""
    return float(np.sort(shares)[: SCHOOLS // 10].mean())


def counted(bundle: Bundle, graphs: Graphs, data: Town, theta: np.ndarray) -> dict[str, Any]:
    """The evaluation's sum over schools beside the pooled counts, and what the bins say beside the exact figures."""
    shape, start = task_shapes(bundle.manifest)["digit"], bundle.theta()
    parts, tally = {}, TaskTally(shape)
    for number, one in enumerate(data.own):
        now, before = (count_answers(graphs, one, each)["digit"] for each in (theta, start))
        parts[f"{number}"] = [
            GroupCounts(*group, tuple(now[group].tolist()), tuple(before[group].tolist())) for group in now
        ]
    for name, groups in parts.items():
        tally.add(name, groups, 0)
    shown = tally.sum(3, len)
    assert shown is not None
    pooled_set = Dataset(bundle.manifest, [one for part in data.own for one in part.examples])
    equal = True
    for name, each in (("now", theta), ("before", start)):
        pooled = add_counts((v.tolist() for v in count_answers(graphs, pooled_set, each)["digit"].values()), shape.size)
        equal &= add_counts((getattr(group, name) for group in shown.groups), shape.size) == pooled
    shares = np.array([accuracy(shape, add_counts((g.now for g in some), shape.size)).share for some in parts.values()])
    low, high = worst_tenth(shown.now) or (0.0, 0.0)
    return {"equal": equal, "worst_exact": worst(shares), "worst_bounds": [low, high]}


def chosen(rows: Sequence[dict[str, Any]]) -> str:
    """The weights with the highest worst tenth on validation whose mean costs at most a point."""
    means = {
        name: (
            np.mean([r[name]["validation_worst"] for r in rows]),
            np.mean([r[name]["validation_mean"] for r in rows]),
        )
        for name in WEIGHTS
    }
    allowed = [name for name in WEIGHTS if means[name][1] >= means[BASELINE][1] - MOST_COST / 100]
    return max(allowed, key=lambda name: means[name][0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2 seeds")
    parser.add_argument("--json", type=Path, help="write every figure here")
    args = parser.parse_args()
    began, rows = time.monotonic(), list[dict[str, Any]]()
    with tempfile.TemporaryDirectory(prefix="homeroom-equity-") as work:
        bundle = digits.make_bundle(Path(work))
        graphs = digits.open_graphs(bundle)
        for seed in range(2 if args.quick else 10):
            data, row = town(bundle, graphs, seed), dict[str, Any](seed=seed)
            for name in WEIGHTS:
                theta = learned(bundle, graphs, data, name, seed)
                sets = {"validation": data.validation, "test": data.test}
                shares = {which: by_school(graphs, one, theta, data.mixes) for which, one in sets.items()}
                row[name] = {f"{which}_worst": worst(one) for which, one in shares.items()}
                row[name] |= {f"{which}_mean": float(one.mean()) for which, one in shares.items()}
                row[name] |= {"counts": counted(bundle, graphs, data, theta)}
                figures = ", ".join(f"{which} {row[name][which]:.3f}" for which in ("test_mean", "test_worst"))
                print(f"seed {seed}, {name}: {figures}", flush=True)
            rows.append(row)
    best = chosen(rows)
    gains = [100 * (row[best]["test_worst"] - row[BASELINE]["test_worst"]) for row in rows]
    costs = [100 * (row[BASELINE]["test_mean"] - row[best]["test_mean"]) for row in rows]
    counts = [row[name]["counts"] for row in rows for name in WEIGHTS]
    within = [one["worst_bounds"][0] - 1e-9 <= one["worst_exact"] <= one["worst_bounds"][1] + 1e-9 for one in counts]
    gain, cost = float(np.mean(gains)), float(np.mean(costs))
    document = {
        "rows": rows,
        "chosen": best,
        "gain": {"mean": gain, "standard_error": _error(gains), "by_seed": gains},
        "cost": {"mean": cost, "standard_error": _error(costs), "by_seed": costs},
        "targets": [
            target(
                "sums of counts that equal the pooled counts",
                sum(one["equal"] for one in counts),
                f"= {len(counts)}",
                all(one["equal"] for one in counts),
            ),
            target("worst tenths within the bounds that ten bins tell", sum(within), f"= {len(counts)}", all(within)),
            target(f"worst tenth, {best} beside {BASELINE}, points", gain, f">= {LEAST_GAIN:g}", gain >= LEAST_GAIN),
            target(f"mean, {best} beside {BASELINE}, points lost", cost, f"<= {MOST_COST:g}", cost <= MOST_COST),
        ],
        "minutes": round((time.monotonic() - began) / 60, 2),
    }
    finish(document, args.json)


def _error(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1) / len(values) ** 0.5) if len(values) > 1 else 0.0


if __name__ == "__main__":
    main()
