"""Four terms of one task for `benchmarks/continual.py`: each with questions of its own, whose answers then expire.

    no method          only the term's answers are left
    rehearsal          and a fifth of each earlier term's, within retention
    distillation, 1    learning without forgetting (Li and Hoiem 2016), of this weight; only the term's answers are left
    both, 1            both
    joint              all answers from the start

Short answers right or wrong (Beetle, Dzikovska et al. 2013, CC BY-SA 3.0). Theta goes on from term to term as a device
trains it, on features of the real encoder; accuracy is on other pupils' answers to the questions of each term, of
theta alone, of theta and solved heads of the answers that are left (as a device does it), and of such heads whose sums
stay when the answers expire (which no device does). A method is chosen on further answers to the terms' questions, over
all seeds.
Backward transfer (Lopez-Paz and Ranzato 2017): accuracy at the end less that when a term was learned, the mean over
earlier terms; forgetting (Chaudhry et al. 2018): the best at any earlier step less that at the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import solved_lessons as lessons
from homeroom.train.features.dataset import Dataset
from homeroom.train.fit import fit
from homeroom.train.settings import Settings
from homeroom.train.solve.combine import SOLVED_WEIGHT, Mix, answered
from peers.verdict import limited

TERMS, CHOICE, WITHIN_RETENTION = 4, 0.2, 0.2
STRENGTH = lessons.Strength(1.0, 0.0)  # of solved heads, as a device has it at first
# the share of earlier answers within retention, and the weight of distillation
METHODS: dict[str, tuple[float, float]] = {
    "no method": (0.0, 0.0),
    "rehearsal": (WITHIN_RETENTION, 0.0),
    "distillation, 1": (0.0, 1.0),
    "distillation, 3": (0.0, 3.0),
    "both, 1": (WITHIN_RETENTION, 1.0),
    "both, 3": (WITHIN_RETENTION, 3.0),
}
JOINT = "joint"
WHO = ("theta", "theta and solved heads", "the same, sums that stay")


@dataclass(frozen=True)
class Term:
    """Numbers of a term's samples: what the device learns, what a method is chosen by, and what it is judged by."""

    learn: np.ndarray
    choice: np.ndarray
    test: np.ndarray


def terms(made: lessons.Ready, seed: int) -> list[Term]:
    """The questions in four parts."""
    rng, groups = np.random.default_rng([seed, 27]), np.array(made.lesson.groups)
    known = np.array(made.lesson.always_test)
    pool = np.setdiff1d(np.arange(len(groups)), known)
    found = []
    for questions in np.array_split(rng.permutation(np.unique(groups[known])), TERMS):
        own = rng.permutation(pool[np.isin(groups[pool], questions)])
        cut = round(CHOICE * len(own))
        found.append(Term(own[cut:], own[:cut], known[np.isin(groups[known], questions)]))
    return found


def learned(made: lessons.Ready, rows: np.ndarray, theta: np.ndarray, seed: int, weight: float) -> np.ndarray:
    data = Dataset(made.bundle.manifest, [made.ready[i] for i in rows])
    settings = Settings(epochs=made.lesson.epochs, seed=seed, weight_decay=3e-2, distillation=weight)
    return fit(made.graphs, data, None, theta, settings).theta


def right(
    made: lessons.Ready, theta: np.ndarray, held: np.ndarray, ever: np.ndarray, rows: np.ndarray
) -> dict[str, Any]:
    """By who answers, whether each answer is right: theta, and with heads of the samples held or of all ever held."""
    outputs, vectors = lessons.theta_outputs(made, rows, theta), made.vectors.subset(rows)
    found = {WHO[0]: outputs}
    for who, some in zip(WHO[1:], (held, ever), strict=True):
        solved = lessons.solve(made, some, STRENGTH).outputs(vectors)
        found[who] = answered(Mix(SOLVED_WEIGHT), outputs, lessons._all_known(solved))
    return {who: lessons.probabilities(made.task, one).argmax(1) == made.classes[rows] for who, one in found.items()}


Matrix = list[list[dict[str, dict[str, np.ndarray]]]]  # by step and term: by part, by who answers, bool [n]


def run(made: lessons.Ready, parts: Sequence[Term], seed: int, share: float, weight: float) -> Matrix:
    """What is right of every term after each."""
    theta, held, ever, found = made.bundle.theta(), np.zeros(0, int), np.zeros(0, int), []
    for step, term in enumerate(parts):
        held, ever = np.concatenate([held, term.learn]), np.concatenate([ever, term.learn])
        theta = learned(made, held, theta, seed, weight if step else 0.0)
        found.append([_asked(made, theta, held, ever, one) for one in parts])
        earlier = held[: len(held) - len(term.learn)]
        held = np.concatenate([earlier, term.learn[: round(share * len(term.learn))]])
    return found


def _asked(made: lessons.Ready, theta: np.ndarray, held: np.ndarray, ever: np.ndarray, term: Term) -> dict[str, Any]:
    return {part: right(made, theta, held, ever, rows) for part, rows in (("choice", term.choice), ("test", term.test))}


def joint(made: lessons.Ready, parts: Sequence[Term], seed: int) -> Matrix:
    """A device that had all answers from the start."""
    every = np.concatenate([term.learn for term in parts])
    theta = learned(made, every, made.bundle.theta(), seed, 0.0)
    return [[_asked(made, theta, every, every, one) for one in parts]] * TERMS


Weighted = tuple[np.ndarray, float]  # what each answer lost, and how much its mean weighs


def lost_old(found: Matrix, who: str, part: str = "test") -> Iterator[Weighted]:
    """By term: what its answers lost after it was learned, the mean over later steps, weighed by their number."""
    for term in range(TERMS - 1):
        now = [found[step][term][part][who].astype(float) for step in range(term + 1, TERMS)]
        yield found[term][term][part][who] - np.mean(now, 0), float(len(now))


def lost_new(found: Matrix, reference: Matrix, who: str, part: str = "test") -> Iterator[Weighted]:
    """By later term: what its answers lack, when it was just learned, of joint training."""
    for term in range(1, TERMS):
        yield reference[term][term][part][who].astype(float) - found[term][term][part][who], 1.0


def interval(seeds: Sequence[Sequence[Weighted]]) -> tuple[float, float, float]:
    """Points lost, the mean over seeds, and its 95 % interval: test answers drawn anew, the same for both sides."""
    rng, means, drawn = np.random.default_rng(27), list[float](), list[np.ndarray]()
    for one in seeds:
        whole = sum(weight for _, weight in one)
        means.append(100 * sum(float(gap.mean()) * weight for gap, weight in one) / whole)
        draws = (rng.choice(gap, (2000, len(gap))).mean(1) * weight for gap, weight in one)
        drawn.append(100 * np.sum(list(draws), 0) / whole)
    low, high = np.quantile(np.mean(drawn, 0), [0.025, 0.975])
    return float(np.mean(means)), float(low), float(high)


def figures(runs: Sequence[Matrix], who: str) -> dict[str, float]:
    """Accuracy when learned and at the end, backward transfer and forgetting: means over seeds and terms."""
    r = np.mean([[[cell["test"][who].mean() for cell in row] for row in one] for one in runs], 0)
    old, each = range(TERMS - 1), np.array([[[c["test"][who].mean() for c in row] for row in one] for one in runs])
    best = each[:, :-1].max(1)[:, : TERMS - 1]
    return {
        "when_learned": float(np.mean([r[term, term] for term in range(TERMS)])),
        "at_the_end": float(r[-1].mean()),
        "backward_transfer": float(np.mean([r[-1, term] - r[term, term] for term in old])),
        "forgetting": float((best - each[:, -1, : TERMS - 1]).mean()),
    }


def _by_choice(runs: Sequence[Matrix], who: str) -> float:
    """The accuracy of each term when it was just learned, and of all at the end, on the answers for choosing."""
    new = [one[step][step]["choice"][who].mean() for one in runs for step in range(TERMS)]
    return float(np.mean(new) + np.mean([cell["choice"][who].mean() for one in runs for cell in one[-1]]))


def measure(data: Path, work: Path, seeds: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """All methods on so many seeds, and the targets of the chosen one."""
    made = lessons.prepare(lessons.short_answers(data, "beetle"), work / "lesson")
    runs: dict[str, list[Matrix]] = {name: [] for name in (*METHODS, JOINT)}
    for seed in range(seeds):
        parts = terms(made, seed)
        for name, (share, weight) in METHODS.items():
            runs[name].append(run(made, parts, seed, share, weight))
        runs[JOINT].append(joint(made, parts, seed))
    who = WHO[1]
    chosen = max(METHODS, key=lambda name: _by_choice(runs[name], who))
    document = {
        "seeds": seeds,
        "chosen": chosen,
        "figures": {each: {name: figures(some, each) for name, some in runs.items()} for each in WHO},
    }
    for each, rows in document["figures"].items():
        print(f"\nfour terms, {each}: when learned, at the end, backward transfer, forgetting; chosen: {chosen}")
        for name, row in rows.items():
            print(f"{name:16} " + " ".join(f"{value:7.3f}" for value in row.values()))
    pairs = list(zip(runs[chosen], runs[JOINT], strict=True))
    targets = []
    for what, gaps in (
        ("earlier terms, mean over steps", [list(lost_old(one, who)) for one, _ in pairs]),
        (
            "each new term, against joint training",
            [list(lost_new(one, all_at_once, who)) for one, all_at_once in pairs],
        ),
    ):
        lost, low, high = interval(gaps)
        name = f"four terms, {what}: points lost with {chosen} (95 %: {low:.1f} to {high:.1f})"
        targets.append(limited(name, lost, 2))
    return document, targets
