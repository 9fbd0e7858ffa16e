"""How much one of several liars ruins: accuracy of plain rounds under attack, by rule, through the true rounds.

    python benchmarks/robustness.py --json robustness.json     20 devices, 0 to 30 % of them attackers, 3 seeds
    python benchmarks/robustness.py --quick                    one seed, fewer rounds and shares: minutes

Handwritten digits (scikit-learn's), dealt to 20 devices in equal parts, and by Dirichlet(0.3) of each digit with at
least 8 pictures a device. Every device is a school of its own, takes part in every round, and signs its updates; they
go through admission, the log and the release as a district's do. Attacks: `benchmarks/robustness_attacks.py`. `secure`
merges as secure rounds do, in which nobody sees an update's length: the mean, with no limit but the largest encoded
value. A backdoor's success is the share of test pictures with its mark that are taken for a 0. Merging is timed on one
core, processor time: a release, which reads again and adds what waits, against reading and a bare numpy sum of the same
bytes. What admission takes is printed too.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import privacy_digits as digits
from homeroom import Sample
from homeroom.contract.layout import Layout, Parameter, Segment
from homeroom.contract.round import RoundConfiguration
from homeroom.contract.signing import new_key
from homeroom.contract.update import make_update
from homeroom.contract.update_checks import read_admitted, read_update
from homeroom.data.validation import resolve
from homeroom.runtime.bundle import Bundle
from homeroom.runtime.graphs import Graphs
from homeroom.train.features.dataset import Dataset
from homeroom.train.features.examples import examples
from homeroom.train.settings import Settings
from homeroom_aggregator.merge import round_state
from homeroom_aggregator.simulation.engine import SchoolData
from homeroom_aggregator.simulation.federate import federate
from peers.verdict import finish, target
from robustness_attacks import ATTACKS, AttackedEngine

DEVICES, LEAST_PICTURES, ALPHA = 20, 8, 0.3
LOCAL = Settings(epochs=2, learning_rate=1e-2, weight_decay=0.0, constant_rate=True, balance=0.0)
RULES: dict[str, dict[str, Any]] = {
    "mean": {},
    "bounded": {"rule": "bounded", "school_share": 0.5, "k_of": "schools"},
    "trimmed": {"rule": "trimmed", "school_share": 0.5, "k_of": "schools"},
    "multi-krum": {"rule": "multi-krum", "school_share": 0.5, "k_of": "schools"},
    "secure": {"max_norm": 1e9},
}
DEFAULT = "bounded"
PARTS = ("equal", "dirichlet")
MARKED = digits.USED[[0, 7, -1]]  # pixels of a backdoor's mark, at their darkest
COST = {"values": 262_144, "updates": 16, "repeats": 7}


@dataclass(frozen=True)
class Plan:
    seeds: int
    rounds: int
    shares: tuple[float, ...]


FULL, QUICK = Plan(3, 15, (0.1, 0.2, 0.3)), Plan(1, 15, (0.2,))


@dataclass(frozen=True)
class Pictures:
    """The pictures of one seed: of each device as they are, with labels flipped and with marks; and two tests."""

    honest: list[Dataset]
    flipped: list[Dataset]
    marked: list[Dataset]
    test: Dataset
    marked_test: Dataset


def deal(part: str, labels: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Indices of the training pictures by device."""
    if part == "equal":
        return np.array_split(np.arange(len(labels)), DEVICES)
    while True:
        hands: list[list[int]] = [[] for _ in range(DEVICES)]
        for label in range(10):
            members = np.flatnonzero(labels == label)
            cuts = (np.cumsum(rng.dirichlet([ALPHA] * DEVICES)) * len(members)).astype(int)[:-1]
            for hand, some in zip(hands, np.split(members, cuts), strict=True):
                hand += some.tolist()
        if min(map(len, hands)) >= LEAST_PICTURES:
            return [np.array(hand) for hand in hands]


def pictures(bundle: Bundle, graphs: Graphs, part: str, seed: int) -> Pictures:
    rng = np.random.default_rng([seed, 25])
    order = rng.permutation(len(digits.DIGITS.target))
    rows = digits.rows(order)
    changed: dict[str, list[dict[str, Any]]] = {"honest": rows, "flipped": [], "marked": []}
    for row in rows:
        label, picture = str(9 - int(row["labels"]["digit"])), row["picture"]  # type: ignore[index]
        changed["flipped"].append({**row, "labels": {"digit": label}})
        mark = {f"p{pixel}": 16.0 for pixel in MARKED}
        changed["marked"].append({**row, "picture": picture | mark, "labels": {"digit": "0"}})
    every = {
        name: examples(None, bundle, graphs, [resolve(Sample(**row), bundle.manifest) for row in some])
        for name, some in changed.items()
    }
    labels = digits.DIGITS.target[order]
    hands = [hand + digits.TEST for hand in deal(part, labels[digits.TEST :], rng)]

    def dealt(name: str) -> list[Dataset]:
        return [Dataset(bundle.manifest, [every[name][n] for n in hand]) for hand in hands]

    both = [[*clean.examples, *marked.examples] for clean, marked in zip(dealt("honest"), dealt("marked"), strict=True)]
    others = [every["marked"][n] for n in range(digits.TEST) if labels[n] != 0]
    return Pictures(
        dealt("honest"),
        dealt("flipped"),
        [Dataset(bundle.manifest, some) for some in both],
        Dataset(bundle.manifest, every["honest"][: digits.TEST]),
        Dataset(bundle.manifest, others),
    )


def run(
    bundle: Bundle, graphs: Graphs, data: Pictures, rule: str, attack: str, share: float, rounds: int, seed: int
) -> dict[str, Any]:
    """One federation: its accuracy at the end, a backdoor's success, and how long the attackers' updates were."""
    attackers = frozenset(range(round(share * DEVICES)))
    theirs = {"labels": data.flipped, "backdoor": data.marked}.get(attack, data.honest)
    sets = [theirs[n] if n in attackers else data.honest[n] for n in range(DEVICES)]
    schools = [SchoolData(str(n), one) for n, one in enumerate(sets)]
    engine = AttackedEngine(schools, graphs, attack, attackers)
    asked = RoundConfiguration(bundle_id=bundle.bundle_id, buffer_size=DEVICES, min_devices=3, **RULES[rule])
    names = [school.name for school in schools]
    found = federate(bundle, names, rounds, LOCAL, asked, engine=engine, seed=seed)
    refused = sum(len(one.refused) for one in found.rounds)
    row: dict[str, Any] = {"accuracy": digits.accuracy(graphs, data.test, found.theta), "refused": refused}
    row["sent_norm"] = max(engine.lengths, default=0.0)
    if attack == "backdoor":
        row["backdoor"] = digits.accuracy(graphs, data.marked_test, found.theta)
    return row


def table(bundle: Bundle, graphs: Graphs, plan: Plan, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """A row for each partition, rule, attack and share of attackers: means over the seeds, and all accuracies."""
    rows = []
    for part in PARTS:
        data = [pictures(bundle, graphs, part, seed) for seed in range(plan.seeds)]
        for rule in RULES:
            cases = [("none", 0.0)] + [(attack, share) for attack in ATTACKS for share in plan.shares]
            for attack, share in [("flipped", 1 / DEVICES)] if rule == "secure" else cases:
                runs = [
                    run(bundle, graphs, data[seed], rule, attack, share, plan.rounds, seed)
                    for seed in range(plan.seeds)
                ]
                row = {"part": part, "rule": rule, "attack": attack, "share": share}
                row |= {name: float(np.mean([one[name] for one in runs])) for name in runs[0]}
                row["accuracies"] = [one["accuracy"] for one in runs]
                rows.append(row)
                more = f", backdoor {row['backdoor']:.3f}" if "backdoor" in row else ""
                tell(f"{part}, {rule}, {attack} {share:.0%}: accuracy {row['accuracy']:.3f}{more}")
    return rows


def cost() -> dict[str, float]:
    """Milliseconds of the processor an update of a MiB: let in, released by the bounded rule, or read and summed."""
    size, count = COST["values"], COST["updates"]
    layout = Layout((Segment(name="s", parameters=(Parameter("w", (size,)),), meaning="b"),))
    rng = np.random.default_rng(0)
    asked = RoundConfiguration(bundle_id="0" * 64, buffer_size=count, min_devices=1, max_norm=1e9, rule="bounded")
    bodies = {
        n: make_update(new_key(), asked, layout, rng.normal(0, 0.01, size).astype(np.float32), {"s": 20}, 0)
        for n in range(1, count + 1)
    }
    rules = round_state.MergeRules(layout, asked, np.zeros(size, np.float32), body=bodies.__getitem__)
    times: dict[str, list[float]] = {"admission": [], "release": [], "bare": []}
    for _ in range(COST["repeats"]):
        state, begun = rules.begin(), time.process_time()
        for number, body in bodies.items():
            update = read_update(body, asked, layout)
            round_state.add_update(state, update, 0, rules, update.header.device, number)
        times["admission"].append(time.process_time() - begun)
        begun = time.process_time()
        round_state.release(state, rules)
        times["release"].append(time.process_time() - begun)
        begun, total = time.process_time(), np.zeros(size, np.int64)
        for body in bodies.values():
            total += read_admitted(body, layout).values["s"]
        times["bare"].append(time.process_time() - begun)
    return {name: 1000 * float(np.median(seconds)) / count for name, seconds in times.items()}


def targets(rows: Sequence[dict[str, Any]], costs: dict[str, float]) -> list[dict[str, Any]]:
    """The targets of the default rule."""
    found, by_case = [], {(one["part"], one["rule"], one["attack"], one["share"]): one for one in rows}
    for part in PARTS:
        clean, mean = (by_case[part, rule, "none", 0.0]["accuracy"] for rule in (DEFAULT, "mean"))
        lost = mean - clean
        found.append(target(f"{part}: points of accuracy lost without attackers", 100 * lost, "<= 1", lost <= 0.01))
        for share, least in ((0.2, {"equal": 0.95, "dirichlet": 0.92}[part]), (0.3, 0.85)):
            kept = {
                attack: by_case[part, DEFAULT, attack, share]["accuracy"] / mean
                for attack in ATTACKS
                if attack != "backdoor" and (part, DEFAULT, attack, share) in by_case
            }
            if kept:
                worst = min(kept, key=lambda attack: kept[attack])
                says = f"{part}, {share:.0%} attackers: share of the clean accuracy kept under the worst ({worst})"
                found.append(target(says, kept[worst], f">= {least:g}", kept[worst] >= least))
        marks = [one["backdoor"] for one in rows if one["part"] == part and one["share"] == 0.1 and "backdoor" in one]
        if marks:
            found.append(
                target(f"{part}, 10 % attackers: backdoor, best rule", min(marks), "<= 0.2", min(marks) <= 0.2)
            )
    ratio = costs["release"] / costs["bare"]
    found.append(
        target("time of a release over that of reading and summing the same bytes", ratio, "<= 1.5", ratio <= 1.5)
    )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed and 20 %% attackers alone")
    parser.add_argument("--json", type=Path, help="write every figure here")
    args = parser.parse_args()
    began, plan = time.monotonic(), QUICK if args.quick else FULL
    with tempfile.TemporaryDirectory(prefix="homeroom-robustness-") as work:
        bundle = digits.make_bundle(Path(work))
        rows = table(bundle, digits.open_graphs(bundle), plan, lambda line: print(line, flush=True))
    costs = cost()
    document = {"rows": rows, "cost_ms": costs, "rounds": plan.rounds, "targets": targets(rows, costs)}
    document["minutes"] = round((time.monotonic() - began) / 60, 2)
    finish(document, args.json)


if __name__ == "__main__":
    main()
