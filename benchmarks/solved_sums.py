"""The arithmetic of `benchmarks/solved.py` on handwritten digits: exactness, growth, liars, cost.

Scikit-learn's digits (UCI, CC BY 4.0). The upper and the lower half of a picture stand for two modalities; a third of
the samples lacks one of them. Projections are fitted on 100 public pictures, which nobody else has.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

from homeroom.contract.manifest import Task
from homeroom.contract.statistics.accumulate import BlockVectors, to_grid
from homeroom.contract.statistics.encoding import encode, read
from homeroom.contract.statistics.sums import Statistics, check_total, merge, subtract
from homeroom.train.solve.base import Blocks, Strength
from homeroom.train.solve.discriminant import solve_classes, sum_classes
from homeroom.train.solve.kinds import SOLVERS
from homeroom.train.solve.task_vectors import TaskVectors, joined
from homeroom.train.solve.vectors.raw import mean_of_taps
from homeroom_exporter.export.statistics import fit_projection

CLASSES, PUBLIC, TEST, VALIDATION = 10, 100, 400, 200
TASK = Task(
    name="digit",
    kind="classification",
    reads=("upper", "lower"),
    labels=tuple(str(digit) for digit in range(CLASSES)),
    width=CLASSES,
)
BLOCKS = ("a" * 64, "b" * 64)
STRENGTHS = [Strength(shrinkage, power) for shrinkage in (0.03, 0.1, 0.3, 1.0) for power in (0.0, 0.5)]
SCHOOLS, LIARS = 20, 4


@dataclass(frozen=True)
class Digits:
    """One seed's draw: vectors and classes of the public, learning and test pictures, and the strength chosen."""

    public: tuple[TaskVectors, np.ndarray]
    learn: tuple[TaskVectors, np.ndarray]
    test: tuple[TaskVectors, np.ndarray]
    strength: Strength

    def sums(self, rows: np.ndarray) -> Statistics:
        """Of the learning pictures with these numbers."""
        vectors, classes = self.learn
        return sum_classes(TASK, vectors.subset(rows), classes[rows])

    def accuracy(self, total: Statistics) -> float:
        """On the test pictures."""
        return accuracy(total, *self.test, self.strength)


def widths(vectors: TaskVectors) -> Blocks:
    return Blocks([(block.statistics_id, block.values.shape[1]) for block in vectors.blocks])


def accuracy(total: Statistics, vectors: TaskVectors, classes: np.ndarray, strength: Strength) -> float:
    logits = solve_classes(TASK, total, widths(vectors), strength).logits(vectors)
    return float((logits.argmax(1) == classes).mean())


def draw(seed: int) -> Digits:
    """Shuffles, projects, leaves a half out of a third of the pictures, and chooses the strength on validation."""
    pictures, classes = load_digits(return_X_y=True)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(classes))
    pictures, classes = pictures[order] / 16, classes[order]
    present = np.ones((len(classes), 2), bool)
    lacking = rng.random(len(classes)) < 1 / 3
    present[lacking, rng.integers(0, 2, lacking.sum())] = False
    blocks = []
    for b, name in enumerate(BLOCKS):
        half = pictures[:, 32 * b : 32 * (b + 1)].astype(np.float32)
        projection = fit_projection(half[:PUBLIC], [(32, 1.0)])
        assert projection
        blocks.append(BlockVectors(name, projection(half) * present[:, b : b + 1], present[:, b]))
    vectors = TaskVectors(tuple(blocks))
    cuts = np.cumsum([0, PUBLIC, TEST, VALIDATION, len(classes)])
    public, test, validation, train = (np.arange(first, min(last, len(classes))) for first, last in pairwise(cuts))
    fitted = sum_classes(TASK, vectors.subset(train), classes[train])
    judged = vectors.subset(validation), classes[validation]
    strength = max(STRENGTHS, key=lambda each: accuracy(fitted, *judged, each))
    learn = np.concatenate([validation, train])
    parts = [(vectors.subset(rows), classes[rows]) for rows in (public, learn, test)]
    return Digits(*parts, strength)


def schools_of(classes: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Unequal schools: Dirichlet 0.3 over SCHOOLS for each class."""
    shares = rng.dirichlet([0.3] * SCHOOLS, CLASSES)
    home = np.array([rng.choice(SCHOOLS, p=shares[c]) for c in classes])
    return [np.flatnonzero(home == school) for school in range(SCHOOLS)]


def exactness(seed: int) -> dict[str, Any]:
    """Schools in any order, over a wire and with one taken away, against all data in one place."""
    digits, rng = draw(seed), np.random.default_rng([seed, 1])
    _, classes = digits.learn
    homes = schools_of(classes, rng)
    parts = [read(encode(digits.sums(rows))) for rows in homes]
    whole = digits.sums(np.arange(len(classes)))
    order = rng.permutation(SCHOOLS)
    total = merge([parts[i] for i in order])
    rest = np.setdiff1d(np.arange(len(classes)), homes[3])
    alone = [digits.accuracy(part) for part in parts if part.cells]
    return {
        "together_equals_one_place": encode(total) == encode(whole),
        "taken_away_equals_never_there": encode(subtract(total, parts[3])) == encode(digits.sums(rest)),
        "bytes": len(encode(total)),
        "alone": float(np.mean(alone)),
        "together": digits.accuracy(total),
        "strength": [digits.strength.shrinkage, digits.strength.prior_power],
    }


def growth(seed: int) -> dict[str, Any]:
    """Eight digits, then two more: old logits while they are masked, and the end against all from the start."""
    digits = draw(seed)
    (_, classes), (test, expected) = digits.learn, digits.test
    old, new = np.flatnonzero(classes < 8), np.flatnonzero(classes >= 8)
    fewer = Task(name=TASK.name, kind=TASK.kind, reads=TASK.reads, labels=TASK.labels[:8], width=8)
    eight = digits.sums(old)
    masked = solve_classes(TASK, eight, widths(test), digits.strength).logits(test)
    plain = solve_classes(fewer, eight, widths(test), digits.strength).logits(test)
    grown, start = merge([eight, digits.sums(new)]), digits.sums(np.arange(len(classes)))
    few = np.flatnonzero(expected < 8)
    return {
        "old_logits_unchanged": bool(np.array_equal(masked[:, :8], plain) and (masked[:, 8:] < -5000).all()),
        "taught_equals_from_the_start": encode(grown) == encode(start),
        "eight": accuracy(eight, test.subset(few), expected[few], digits.strength),
        "ten": digits.accuracy(grown),
    }


Lie = Callable[[TaskVectors, np.ndarray], Statistics]


def _shown(vectors: TaskVectors, classes: np.ndarray, directions: np.ndarray) -> Statistics:
    """The sums of samples that show directions [n, D] at the bound instead of themselves."""
    blocks, start = [], 0
    for block in vectors.blocks:
        width = block.values.shape[1]
        part = directions[:, start : start + width]
        part = part / np.maximum(np.linalg.norm(part, axis=1), 1e-12)[:, None]
        blocks.append(BlockVectors(block.statistics_id, to_grid(part) * block.present[:, None], block.present))
        start += width
    return sum_classes(TASK, TaskVectors(tuple(blocks)), classes)


def lies(means: np.ndarray, rng: np.random.Generator) -> dict[str, Lie]:
    """Liars whose sums any samples within the bounds could have. means: [classes, D] of the honest."""
    near = ((means[:, None] - means[None]) ** 2).sum(2) + np.where(np.eye(len(means)) > 0, np.inf, 0)

    def noise(vectors: TaskVectors, classes: np.ndarray) -> Statistics:
        return _shown(vectors, classes, rng.normal(size=(len(classes), means.shape[1])))

    def one_point(vectors: TaskVectors, classes: np.ndarray) -> Statistics:
        return _shown(vectors, classes, np.tile(rng.normal(size=means.shape[1]), (len(classes), 1)))

    return {
        "labels flipped": lambda vectors, classes: sum_classes(TASK, vectors, 9 - classes),
        "all of one class": lambda vectors, classes: sum_classes(TASK, vectors, np.full(len(classes), 3)),
        "noise at the bound": noise,
        "wrong moments": one_point,
        "opposite means with moments that fit": lambda vectors, classes: _shown(vectors, classes, -means[classes]),
        "adaptive: each class shows its nearest other": lambda vectors, classes: _shown(
            vectors, classes, means[near.argmin(1)[classes]] - means[classes]
        ),
    }


def robustness(seed: int) -> dict[str, Any]:
    """LIARS of SCHOOLS equal schools, nothing but bounded samples: accuracy with each lie, and without the liars."""
    digits, rng = draw(seed), np.random.default_rng([seed, 2])
    vectors, classes = digits.learn
    parts = np.array_split(rng.permutation(len(classes)), SCHOOLS)
    honest = [digits.sums(rows) for rows in parts]
    clean = digits.accuracy(merge(honest))
    x = joined(vectors.blocks)
    means = np.stack([x[classes == c].mean(0) for c in range(CLASSES)])
    result: dict[str, Any] = {"clean": clean, "without_them": digits.accuracy(merge(honest[LIARS:]))}
    shares = {}
    for name, lie in lies(means, rng).items():
        sums = [lie(vectors.subset(rows), classes[rows]) for rows in parts[:LIARS]]
        for each in sums:
            check_total(each)  # no bound refuses them
        shares[name] = digits.accuracy(merge([*sums, *honest[LIARS:]])) / clean
    return {**result, "of_clean": shares}


def cost(samples: int = 1500, repeats: int = 5) -> dict[str, Any]:
    """Seconds to sum and solve samples of three modalities from cached features: [3, 24, 64] int8 each, 10 classes.

    The best of some repeats, since others use this machine too; of the process's own time.
    """
    rng = np.random.default_rng(0)
    features = rng.integers(-90, 90, (3, samples, 3, 24, 64), np.int8)
    raw = [np.stack([mean_of_taps(one) for one in some[:480]]) for some in features]
    projections = [fit_projection(some, [(192, 1.0)]) for some in raw]
    targets = np.eye(CLASSES, dtype=np.float32)[rng.integers(0, CLASSES, samples)]
    present = np.ones(samples, bool)
    took = []
    for _ in range(repeats):
        began = time.process_time()
        blocks = []
        for name, some, projection in zip("abc", features, projections, strict=True):
            assert projection
            values = projection(np.stack([mean_of_taps(one) for one in some]))
            blocks.append(BlockVectors(name * 64, values, present))
        vectors = TaskVectors(tuple(blocks))
        solver = SOLVERS["classification"]
        total = solver.sums(TASK, vectors, targets)
        solver.head(TASK, total, widths(vectors), Strength()).outputs(vectors.subset(np.arange(1)))
        took.append(time.process_time() - began)
    dimensions = [block.values.shape[1] for block in blocks]
    return {"seconds": min(took), "dimensions": dimensions, "bytes": len(encode(total))}


def mean_over(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds of numbers, conjunctions of truths; of mappings by key."""
    result: dict[str, Any] = {}
    for key, first in found[0].items():
        values = [one[key] for one in found]
        if isinstance(first, bool):
            result[key] = all(values)
        elif isinstance(first, dict):
            result[key] = mean_over(values)
        else:
            result[key] = np.mean(values, 0).tolist()
    return result
