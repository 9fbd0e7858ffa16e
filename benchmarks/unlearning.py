"""What unlearning costs and whether it is one: beside a federation that never had what is withdrawn.

    python benchmarks/unlearning.py --data DATA --json unlearning.json     5 seeds
    python benchmarks/unlearning.py --quick --only digits                  1 seed; digits need no data

The lessons of `unlearning_lessons` through the true rounds. All devices but one learn for five rounds. Then the last
one comes, for five rounds; it is withdrawn, and the others go on. Compared, by rounds since then:

    rewind      what Homeroom does: the version of before it came goes on
    hard        the same, but a third of the devices does not come back, and a third of the others' samples has expired
    replay      its updates are left out of the sums (the rule of 0.1.0)
    again       all start over from the bundle
    never       it never came: as many rounds, by another seed of local training

Accuracy is on samples that no device has, of what the others taught. Distance: the norm of the difference of theta to
the federation that never had it, in units of that between two such federations. Membership: the area under the curve of
an attack by the loss (Yeom et al. 2018), which tells withdrawn samples from ones that nobody has. Solved: how far the
estimate of three least-squares attackers (`unlearning_attack`) is from the sum of the withdrawn updates, at its best
scale, from every version that is served ten rounds later: 0 is exact, 1 knows nothing.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Collection, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from homeroom.contract.delta import values_of
from homeroom.contract.round import RoundConfiguration, UnlearningRules
from homeroom.contract.signing import certify, new_key
from homeroom.contract.update_checks import read_admitted
from homeroom.data.tasks import losses
from homeroom.train.evaluate import labelled_outputs
from homeroom.train.features.dataset import Dataset
from homeroom_aggregator.merge.rounds import Rounds
from homeroom_aggregator.simulation.engine import LocalEngine, SchoolData, TrainedUpdate, TrainingTask
from homeroom_aggregator.simulation.round import Federation
from peers.verdict import finish, limited, target
from unlearning_attack import Column, Observation, error, solve
from unlearning_lessons import Case, Lesson, answers_cases, digits_cases, vocabulary_cases

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for the vocabulary lesson of the examples
BEFORE, WITH = 5, 5  # rounds
SINCE = (1, 2, 5, 10)  # rounds
LESSONS = {"digits": digits_cases, "answers": answers_cases, "vocabulary": vocabulary_cases}
WAYS = ("rewind", "hard", "replay", "again", "never")
ATTACKERS = {"member": "one device", "school": "a quarter of the devices", "audit": "none"}  # whose updates each knows
KNOWS_NOTHING = 0.999


class Wiretap:
    """What three attackers see of a federation: each update as it came, and the versions that are served."""

    def __init__(self, rounds: Rounds, engine: LocalEngine, weights: Sequence[float]) -> None:
        self.rounds, self.weights, self._last, self.gone = rounds, weights, 0, len(engine.devices) - 1
        self._member = {one.key.public_key().public_bytes_raw().hex(): n for n, one in enumerate(engine.devices)}
        self.updates = dict[Column, np.ndarray]()
        self.releases: dict[int, list[int]] = {0: []}  # by version, the releases on its way

    def note(self, release: int, base: int) -> None:
        """What came since the last note was released as the newest version, on top of version `base`."""
        layout, scale = self.rounds.rules.layout, 2.0**-self.rounds.configuration.scale_bits
        sql = "SELECT number, device FROM log WHERE kind = 'update' AND number > ? ORDER BY number"
        for number, device in self.rounds.log.database.rows(sql, (self._last,)):
            self._last = number
            if device not in self._member:  # of those that came back with less
                continue
            values = np.zeros(layout.size)
            for name, part in read_admitted(self.rounds.log.body(number), layout).tier_slices.items():
                values[layout.slice_indices(name)] = part * scale
            self.updates[self._member[device], release] = values
        self.releases[self.rounds.state.version] = [*self.releases[base], release]

    def errors(self, without: int = 1 << 60) -> dict[str, float]:
        """By attacker. without: the first version that the last device's updates are left out of the sums of."""
        seen, start = [], self.rounds.bundle.theta().astype(np.float64)
        for number, releases in self.releases.items():
            if number and (body := self.rounds.version(number)) is not None:
                theta = values_of(body, len(start)).astype(np.float64)
                seen.append(Observation(theta - start, self._shares(number, releases, without)))
        gone = [column for column in self.updates if column[0] == self.gone]
        truth = np.sum([self.updates[column] for column in gone], 0)
        known = {"member": range(1), "school": range(self.gone // 4), "audit": range(0)}
        return {name: error(solve(seen, self._known(known[name]), gone), truth) for name in ATTACKERS}

    def _shares(self, number: int, releases: Sequence[int], without: int) -> dict[Column, float]:
        shares = dict[Column, float]()
        for release in releases:
            members = [m for m, r in self.updates if r == release and not (number >= without and m == self.gone)]
            whole = sum(self.weights[member] for member in members)
            shares |= {(member, release): self.weights[member] / whole for member in members}
        return shares

    def _known(self, own: Collection[int]) -> dict[Column, np.ndarray]:
        return {column: update for column, update in self.updates.items() if column[0] in own}


class PartEngine(LocalEngine):
    """Schools of which some are not here."""

    away: Collection[int] = ()

    def train(self, tasks: Sequence[TrainingTask], thetas: Sequence[np.ndarray]) -> Iterable[TrainedUpdate]:  # type: ignore[override]
        return super().train([task for task in tasks if task.index not in self.away], thetas)


def federation(work: Path, data: Lesson, rule: str, unlearns: str, seed: int) -> Federation:
    """A new one, whose log is a file. unlearns: by `rewind` or `replay`."""
    asked = RoundConfiguration(
        bundle_id=data.bundle.bundle_id,
        buffer_size=len(data.devices),
        rule=rule,  # type: ignore[arg-type]
        k_of="schools",
        unlearning=UnlearningRules(rule=unlearns, within_days=0),  # type: ignore[arg-type]
    )
    key, root = new_key(), new_key()
    log = Path(tempfile.mkdtemp(dir=work)) / "log.db"
    rounds = Rounds(log, data.bundle, asked, key, certify(root, "aggregator", key, "benchmark"))
    names = [str(number) for number in range(len(data.devices))]
    return Federation(rounds, names, lambda _: data.settings, seed=seed, participation=1.0, lag=0.0)


def run(work: Path, data: Lesson, rule: str, way: str, seed: int) -> dict[str, Any]:
    """One federation: theta by rounds since the withdrawal, that of before it, and what is left of it."""
    schools = [SchoolData(str(number), one) for number, one in enumerate(data.devices)]
    engine, gone = PartEngine(schools, data.graphs), data.others
    unlearns, other = "replay" if way == "replay" else "rewind", 1000 * (way in ("never", "again"))
    fed = federation(work, data, rule, unlearns, seed + other)
    number, found = 0, dict[str, Any](thetas={})
    rules = fed.aggregator.configuration
    weights = [min(len(one), rules.cap_examples) if rules.rule == "mean" else 1 for one in data.devices]
    wiretap = Wiretap(fed.aggregator, engine, weights)

    def learn(rounds: int) -> np.ndarray:
        nonlocal number
        for _ in range(rounds):
            number, base = number + 1, fed.aggregator.state.version
            fed.round(number, engine, measured=False)
            wiretap.note(number, base)
        return fed.thetas[-1]

    with closing(fed.aggregator) as rounds:
        engine.away = {gone}
        if way != "again":
            learn(BEFORE)
        if way in ("rewind", "hard", "replay"):
            engine.away = ()
            found["before"] = learn(WITH)
            engine.away, withdrawn = {gone}, rounds.state.version
            found["solved_before"] = wiretap.errors()
            sender = engine.devices[gone].key.public_key().public_bytes_raw().hex()
            updates = rounds.withdrawable(sender)
            bodies = [rounds.log.entry(rounds.log.number(one) or 0).body for one in updates]
            for update_id in updates:
                rounds.withdraw(update_id, sender)
            rounds.rewind()
            if way != "replay":
                fed.thetas.append(fed._read(rounds.state.version)[0])
                fed._clip_norms.append(fed._clip_norms[-1])
                wiretap.releases[rounds.state.version] = wiretap.releases[BEFORE]
            files = b"".join(path.read_bytes() for path in rounds.log.database.path.parent.iterdir())
            if way == "hard":
                engine, found["lost"] = without_a_third(data)
            found["left"] = sum(body[-64:] in files for body in bodies)
        for last, since in zip((0, *SINCE), SINCE, strict=False):
            found["thetas"][since] = learn(since - last)
        if way in ("rewind", "replay"):
            found["solved"] = wiretap.errors(withdrawn + 1)
    return found


def without_a_third(data: Lesson) -> tuple[PartEngine, dict[str, int]]:
    """The devices that come back, with what has not expired there; how many devices and samples do not."""
    kept = [one.subset(np.flatnonzero(np.arange(len(one)) % 3)) for one in data.devices]
    engine, away = PartEngine([SchoolData(str(n), one) for n, one in enumerate(kept)], data.graphs), data.others // 3
    engine.away = {data.others, *range(away)}
    whole = sum(map(len, data.devices[:-1]))
    here = sum(len(one) for number, one in enumerate(kept) if number not in engine.away)
    return engine, {"devices": away, "of_devices": data.others, "samples": whole - here, "of_samples": whole}


def losses_of(data: Lesson, some: Dataset, theta: np.ndarray) -> np.ndarray:
    """Loss of each sample by the task that is attacked, float64 [samples]."""
    outputs, targets = labelled_outputs(data.graphs, some, theta)[data.task]
    return losses(data.bundle.manifest.task(data.task), outputs, targets).astype(np.float64)


def attack(data: Lesson, theta: np.ndarray) -> float:
    """Area under the curve: how often a withdrawn sample's loss is below that of one of nobody."""
    members, others = losses_of(data, data.devices[-1], theta), losses_of(data, data.fresh, theta)
    order = np.concatenate([members, others]).argsort().argsort() + 1.0
    ranks = order[: len(members)].sum() - len(members) * (len(members) + 1) / 2
    return float(1 - ranks / (len(members) * len(others)))


def half_width(area: float, members: int, others: int) -> float:
    """Half of the 95 % interval of an area under the curve (Hanley and McNeil 1982)."""
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    spread = area * (1 - area) + (members - 1) * (q1 - area**2) + (others - 1) * (q2 - area**2)
    return float(1.96 * (spread / (members * others)) ** 0.5)


def measure(work: Path, case: Case, seed: int) -> dict[str, Any]:
    data = case.lesson(seed)
    found = {way: run(work, data, case.rule, way, seed) for way in WAYS}
    twin = run(work, data, case.rule, "never", seed + 7)["thetas"]
    never = found["never"]["thetas"]
    row: dict[str, Any] = {"case": case.name, "seed": seed, "accuracy": {}, "distance": {}, "membership": {}}
    for way in WAYS:
        thetas = found[way]["thetas"]
        row["accuracy"][way] = [data.accuracy(thetas[since]) for since in SINCE]
        row["membership"][way] = attack(data, thetas[SINCE[-1]])
        if way != "never":
            far = [np.linalg.norm(thetas[s] - never[s]) / np.linalg.norm(twin[s] - never[s]) for s in SINCE]
            row["distance"][way] = [float(one) for one in far]
    row["membership"]["before"] = attack(data, found["rewind"]["before"])
    sizes = [
        int(labelled_outputs(data.graphs, some, data.bundle.theta())[data.task][0].shape[0])
        for some in (data.devices[-1], data.fresh)
    ]
    row["interval"] = half_width(row["membership"]["never"], *sizes)
    row["solved"] = {way: found[way]["solved"] for way in ("rewind", "replay")}
    row["lost"] = found["hard"]["lost"]
    row["solved"]["before"] = found["rewind"]["solved_before"]
    row["bytes_left"] = {way: found[way]["left"] for way in ("rewind", "replay")}
    return row


def targets(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    made = []
    for case in dict.fromkeys(row["case"] for row in rows):
        of = [row for row in rows if row["case"] == case]
        mean = {way: np.mean([row["accuracy"][way] for row in of], 0) for way in WAYS}
        behind = float(100 * (mean["never"] - mean["rewind"]).max())
        made.append(limited(f"{case}: points behind one that never had it, at most", behind, 1))
        far = float(np.mean([row["distance"]["rewind"] for row in of], 0).max())
        made.append(limited(f"{case}: distance to it, of two such, at most", far, 1.2))
        told = [row for row in of if abs(row["membership"]["before"] - row["membership"]["never"]) > row["interval"]]
        outside = sum(abs(r["membership"]["rewind"] - r["membership"]["never"]) > r["interval"] for r in told)
        says = f"{case}: seeds where membership shows still, of {len(told)} where it did before"
        made.append(target(says, outside, "== 0", outside == 0))
        left = sum(row["bytes_left"]["rewind"] for row in of)
        made.append(target(f"{case}: withdrawn updates whose bytes are in the log", left, "== 0", left == 0))
        solved = min(min(row["solved"]["rewind"].values()) for row in of)
        says = f"{case}: error of the best of three attackers who solve for the withdrawn updates"
        made.append(limited(says, solved, KNOWS_NOTHING, at_least=True))
    return made


def tell(rows: Sequence[dict[str, Any]]) -> None:
    for case in dict.fromkeys(row["case"] for row in rows):
        of = [row for row in rows if row["case"] == case]
        print(f"\n{case}, means of {len(of)} seeds; by rounds since it was withdrawn")
        print(f"{'':8}{'accuracy':>9}{'':{6 * len(SINCE) - 3}}{'distance':>9}")
        print(f"{'':9}" + "".join(f"{since:6}" for since in SINCE) + "  " + "".join(f"{since:6}" for since in SINCE))
        for way in WAYS:
            cells = "".join(f"{one:6.3f}" for one in np.mean([row["accuracy"][way] for row in of], 0))
            far = np.mean([row["distance"][way] for row in of], 0) if way != "never" else []
            area = np.mean([row["membership"][way] for row in of])
            print(f"{way:9}{cells}  {''.join(f'{one:6.2f}' for one in far):24}  membership {area:.3f}")
        lost = of[0]["lost"]
        devices = f"{lost['devices']} of {lost['of_devices']} devices"
        print(f"  hard: {devices} and {lost['samples']} of {lost['of_samples']} samples could not come back")
        for way in ("before", "replay", "rewind"):
            worst = {name: min(row["solved"][way][name] for row in of) for name in ATTACKERS}
            print(f"  solved {way:8}" + ", ".join(f"{name} {one:.2g}" for name, one in worst.items()))
        print(f"{'before':9}{'':50}  membership {np.mean([row['membership']['before'] for row in of]):.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed; its targets are not meant to be met")
    parser.add_argument("--only", choices=LESSONS, action="append", help="some lessons")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="the folder of data sets")
    parser.add_argument("--json", type=Path, help="write every figure here")
    args = parser.parse_args()
    began, rows = time.monotonic(), []
    for name in args.only or LESSONS:
        with tempfile.TemporaryDirectory(prefix="homeroom-unlearning-") as work, LESSONS[name](args.data) as cases:
            for case in cases:
                rows += [measure(Path(work), case, seed) for seed in range(1 if args.quick else 5)]
    tell(rows)
    document = {"rows": rows, "since": SINCE, "targets": targets(rows)}
    document["minutes"] = round((time.monotonic() - began) / 60, 2)
    finish(document, args.json)


if __name__ == "__main__":
    main()
