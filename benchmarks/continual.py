"""What a device keeps of the digits 0 to 7 when 8 and 9 come, and of each of four terms when its answers have expired.

    python benchmarks/continual.py --json continual.json     5 seeds
    python benchmarks/continual.py --quick --only digits     1 seed; digits need no data

The section *terms* is `continual_terms`. In *digits* a device learns eight digits, installs the bundle with ten labels,
is asked before any training, and learns the two new ones. When they come, most old pictures have expired. Compared:

    no method            all old pictures have expired
    rehearsal            a fifth of the old pictures are within retention, and learned again beside the new
    distillation, 0.3    learning without forgetting (Li and Hoiem 2016), of this weight; all old pictures have expired
    both, 0.3            a fifth are within retention, and answers of before are learned too
    nothing expired      all old pictures are within retention
    joint                a device that had all pictures from the start

Accuracy is on pictures that no device has, of theta alone and of the device's answers (theta and solved heads), old and
new digits apart, all ten labels open. A method is chosen by the mean of both on other pictures, over all seeds; figures
are of the test's. Intervals: 95 %, test pictures drawn anew, the same for both sides. Backward transfer: accuracy on
old digits at the end less that when they were learned (Lopez-Paz and Ranzato 2017); forgetting: the best accuracy on
them at any earlier step less that at the end (Chaudhry et al. 2018).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

import continual_terms
import privacy_digits as digits
from continual_digits import (
    LATER,
    NEW,
    OLD,
    SOON,
    Bundles,
    Pictures,
    Right,
    add,
    copied,
    days_later,
    deal,
    first_term,
    make_bundles,
    opened,
    right,
    settings,
)
from homeroom import Device
from peers.verdict import finish, limited

SEEDS, RESAMPLES = 5, 2000
DATA = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"
WEIGHTS = (0.3, 3.0)  # of distillation


@dataclass(frozen=True)
class Method:
    """days: after the first term, when the new digits come; weight: of distillation."""

    days: int
    weight: float = 0.0


METHODS = {
    "no method": Method(LATER + 1),
    "rehearsal": Method(SOON + 1),
    **{f"distillation, {weight:g}": Method(LATER + 1, weight) for weight in WEIGHTS},
    **{f"both, {weight:g}": Method(SOON + 1, weight) for weight in WEIGHTS},
}
ALL_KEPT, JOINT = "nothing expired", "joint"
ANSWERING = "theta and solved heads"  # what a person sees
BEFORE, INSTALLED = "before", "installed"
PARTS = ("choice", "test")
Answers = dict[str, Right]  # by part


def asked(device: Device, pictures: Pictures) -> Answers:
    return {part: right(device, getattr(pictures, part)) for part in PARTS}


def second_term(place: Path, bundles: Bundles, pictures: Pictures, seed: int, method: Method) -> Answers:
    """Installs the second bundle, adds the new digits some days later, and trains."""
    with days_later(method.days), opened(place, bundles.second) as device:
        add(device, pictures.drawn(NEW))
        device.train(settings=settings(device, seed), distillation=method.weight)
        return asked(device, pictures)


def run(folder: Path, bundles: Bundles, seed: int) -> dict[str, Answers]:
    """What is right of one seed, by method and step."""
    pictures, found = deal(seed), dict[str, Answers]()
    place = first_term(folder / "first", bundles, pictures, seed)
    with opened(place) as device:
        found[BEFORE] = asked(device, pictures)
    with opened(copied(place, "installed"), bundles.second) as device:
        found[INSTALLED] = asked(device, pictures)
    for name, method in {**METHODS, ALL_KEPT: Method(1)}.items():
        found[name] = second_term(copied(place, name.replace(" ", "-")), bundles, pictures, seed, method)
    with opened(folder / JOINT, bundles.second) as device:
        add(device, pictures.device)
        device.train(settings=settings(device, seed))
        found[JOINT] = asked(device, pictures)
    return found


def of_digits(answers: Answers, part: str, who: str, some: range, pictures: Pictures) -> np.ndarray:
    """Whether the answers on a part's pictures of some digits are right."""
    return answers[part][who][np.isin(digits.DIGITS.target[getattr(pictures, part)], some)]


class Table:
    """What is right by seed, and figures of it."""

    def __init__(self, runs: Sequence[Mapping[str, Answers]]) -> None:
        self.runs = [(deal(seed), one) for seed, one in enumerate(runs)]

    def each(self, step: str, some: range, who: str = ANSWERING, part: str = "test") -> list[np.ndarray]:
        """By seed, whether each answer is right."""
        return [of_digits(one[step], part, who, some, pictures) for pictures, one in self.runs]

    def accuracy(self, step: str, some: range, who: str = ANSWERING, part: str = "test") -> float:
        """The mean over seeds."""
        return float(np.mean([one.mean() for one in self.each(step, some, who, part)]))

    def lost(self, before: str, after: str, some: range, who: str = ANSWERING) -> tuple[float, float, float]:
        """Points of accuracy lost between two steps, the mean over seeds, and its paired bootstrap interval."""
        pairs = zip(self.each(before, some, who), self.each(after, some, who), strict=True)
        gaps = [100.0 * (was.astype(float) - now) for was, now in pairs]
        rng = np.random.default_rng(27)
        drawn = np.mean([rng.choice(one, (RESAMPLES, len(one))).mean(1) for one in gaps], 0)
        low, high = np.quantile(drawn, [0.025, 0.975])
        return float(np.mean([one.mean() for one in gaps])), float(low), float(high)

    def figures(self, method: str, who: str) -> dict[str, float]:
        """Accuracy on both kinds of digits, backward transfer and forgetting, on the test pictures."""
        steps = [self.accuracy(step, OLD, who) for step in (BEFORE, INSTALLED, method)]
        return {
            "old": steps[-1],
            "new": self.accuracy(method, NEW, who),
            "backward_transfer": steps[-1] - steps[0],
            "forgetting": max(steps[:-1]) - steps[-1],
        }

    def chosen(self) -> str:
        """The method with the best mean of old and new digits on the pictures for choosing."""
        return max(METHODS, key=lambda name: sum(self.accuracy(name, some, part="choice") for some in (OLD, NEW)))


def targets(table: Table, chosen: str) -> list[dict[str, Any]]:
    moved = max(
        abs(100.0 * (was.mean() - now.mean()))
        for who in ("theta", ANSWERING)
        for was, now in zip(table.each(BEFORE, OLD, who), table.each(INSTALLED, OLD, who), strict=True)
    )
    made = [limited("old digits right after install: points moved, the worst of all seeds", moved, 0.5)]
    for name, before, some in (("old digits", BEFORE, OLD), ("new digits, against joint training", JOINT, NEW)):
        lost, low, high = table.lost(before, chosen, some)
        made.append(limited(f"{name}: points lost with {chosen} (95 %: {low:.1f} to {high:.1f})", lost, 2))
    return made


def tell(table: Table, document: Mapping[str, Any]) -> None:
    print(f"chosen on other pictures: {document['chosen']}")
    for who, rows in document["figures"].items():
        print(f"\n{who}, means of {len(table.runs)} seeds: old digits {document['before'][who]:.3f} when learned")
        print(f"{'':17} {'old':>6} {'new':>6} {'backward transfer':>18} {'forgetting':>11}")
        for name, row in rows.items():
            tail = f"{row['backward_transfer']:18.3f} {row['forgetting']:11.3f}" if name != JOINT else ""
            print(f"{name:17} {row['old']:6.3f} {row['new']:6.3f} {tail}")
    print()


def two_more_digits(data: Path, folder: Path, seeds: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The figures of the section digits, and its targets."""
    bundles, runs = make_bundles(folder), []
    for seed in range(seeds):
        (folder / str(seed)).mkdir()
        runs.append(run(folder / str(seed), bundles, seed))
        print(f"seed {seed} is done", flush=True)
    table = Table(runs)
    chosen = table.chosen()
    document: dict[str, Any] = {
        "seeds": len(runs),
        "chosen": chosen,
        "before": {who: table.accuracy(BEFORE, OLD, who) for who in ("theta", ANSWERING)},
        "figures": {
            who: {name: table.figures(name, who) for name in (*METHODS, ALL_KEPT, JOINT)}
            for who in ("theta", ANSWERING)
        },
    }
    tell(table, document)
    return document, targets(table, chosen)


SECTIONS = {"digits": two_more_digits, "terms": continual_terms.measure}


def main() -> None:
    parser = argparse.ArgumentParser(description="what is kept when a lesson grows")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--quick", action="store_true", help="one seed")
    parser.add_argument("--only", choices=SECTIONS, help="one section alone")
    options = parser.parse_args()
    began, document = time.monotonic(), dict[str, Any](targets=[])
    for name in [options.only] if options.only else SECTIONS:
        with TemporaryDirectory(prefix="homeroom-continual-") as folder:
            seeds = 1 if options.quick else options.seeds
            document[name], made = SECTIONS[name](options.data, Path(folder), seeds)
            document["targets"] += made
    document["minutes"] = round((time.monotonic() - began) / 60, 1)
    finish(document, options.json)


if __name__ == "__main__":
    main()
