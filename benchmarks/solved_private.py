"""Private statistics on handwritten digits: one release of class sums by the code of devices and aggregator.

Scikit-learn's digits (UCI, CC BY 4.0), whole pictures. The covariance is of 100 public pictures, which nobody else has:
drawn from all writers, or of one other writer alone. The file holds one writer after another, so its first pictures are
one's; none of that writer's learn or test then.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import msgspec
import numpy as np
from sklearn.datasets import load_digits

from homeroom.contract.manifest import Task
from homeroom.contract.privacy import Privacy, epsilon_spent
from homeroom.contract.statistics.accumulate import BlockVectors
from homeroom.contract.statistics.private import PrivateShape, clipped_sums, private_shape
from homeroom.contract.statistics.sums import GRID_BITS, ONE, Statistics
from homeroom.privacy.discrete_gaussian import discrete_gaussian
from homeroom.train.solve.base import Blocks, Strength
from homeroom.train.solve.directions import solve_directions
from homeroom.train.solve.discriminant import sum_classes
from homeroom.train.solve.task_vectors import TaskVectors
from homeroom_exporter.export.statistics import fit_projection

PUBLIC_PICTURES, TESTED, A_WRITER = 100, 300, 138  # 1,797 pictures of 13 writers
LABELS = tuple(str(digit) for digit in range(10))
WHOLE = Task(name="digit", kind="classification", reads=("picture",), labels=LABELS, width=len(LABELS))
STRENGTH = Strength(0.3, 0.0)
PROMISED_DELTA = 1e-5
DRAWS = 50  # of public pictures, whose class sums tell the clip


@dataclass(frozen=True)
class Promise:
    """One private release. devices: that learn; None where each picture is a pupil, and its promise is by pupil."""

    epsilon: float
    devices: int | None

    @property
    def words(self) -> str:
        return f"{f'{self.devices} devices' if self.devices else 'by pupil'}, epsilon {self.epsilon:g}"


PROMISES = (
    *(Promise(8.0, 40), Promise(8.0, 100), Promise(2.0, 100)),
    *(Promise(2.0, None), Promise(1.0, None), Promise(0.5, None)),
)


@dataclass(frozen=True)
class Pictures:
    """Some pictures on the grid. values: int64 [n, d]; classes: int [n]."""

    values: np.ndarray
    classes: np.ndarray

    def __len__(self) -> int:
        return len(self.classes)

    def of(self, rows: np.ndarray) -> Pictures:
        return Pictures(self.values[rows], self.classes[rows])

    @property
    def vectors(self) -> TaskVectors:
        return TaskVectors((BlockVectors("c" * 64, self.values, np.ones(len(self), bool)),))

    def sums(self) -> Statistics:
        return sum_classes(WHOLE, self.vectors, self.classes)


@dataclass(frozen=True)
class Lesson:
    """Public, learning and test pictures of one seed."""

    public: Pictures
    learn: Pictures
    test: Pictures

    @property
    def blocks(self) -> Blocks:
        return Blocks([("c" * 64, self.public.values.shape[1])])

    @property
    def shape(self) -> PrivateShape:
        return private_shape([WHOLE], {WHOLE.name: self.blocks.asked})

    def accuracy(self, released: Statistics) -> float:
        head = solve_directions(WHOLE, released, self.public.sums(), self.blocks, STRENGTH)
        return float((head.outputs(self.test.vectors).argmax(1) == self.test.classes).mean())


def draw(rng: np.random.Generator, *, other_writer: bool) -> Lesson:
    """Shuffles the pictures; projects all by the principal components of the public ones."""
    pictures, classes = load_digits(return_X_y=True)
    pictures = (pictures / 16).astype(np.float32)
    first = np.arange(PUBLIC_PICTURES)
    rest = rng.permutation(np.arange(A_WRITER, len(classes)))
    if not other_writer:
        order = rng.permutation(len(classes))
        first, rest = order[:PUBLIC_PICTURES], order[PUBLIC_PICTURES:]
    projection = fit_projection(pictures[first], [(pictures.shape[1], 1.0)])
    assert projection
    every = Pictures(projection(pictures), classes)
    return Lesson(every.of(first), every.of(rest[TESTED:]), every.of(rest[:TESTED]))


@cache
def noise_multiplier(epsilon: float) -> float:
    """The least for one release at PROMISED_DELTA, by bisection."""
    low, high = 0.1, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if epsilon_spent([middle], PROMISED_DELTA) <= epsilon else (middle, high)
    return high


def clip_of(public: Pictures, size: int, rng: np.random.Generator) -> float:
    """The usual norm of the class sums of so many public pictures, in samples; nobody's own pictures tell it."""
    drawn = (public.of(rng.choice(len(public), min(size, len(public)), False)).sums() for _ in range(DRAWS))
    shape = private_shape([WHOLE], {WHOLE.name: [("c" * 64, public.values.shape[1])]})
    return float(np.median([np.linalg.norm(shape.vector(one)) for one in drawn])) / ONE


def release(promise: Promise, lesson: Lesson, rng: np.random.Generator) -> Statistics:
    """What an aggregator would release: the devices' clipped sums, with noise."""
    order = rng.permutation(len(lesson.learn))
    units = np.array_split(order, promise.devices or len(order))
    privacy = Privacy(
        clip_norm=clip_of(lesson.public, len(units[0]), rng),
        noise_multiplier=noise_multiplier(promise.epsilon),
        epsilon=promise.epsilon,
        delta=PROMISED_DELTA,
        subjects=msgspec.UNSET if promise.devices else len(order),
    )
    parts = [lesson.learn.of(rows).sums() for rows in units]
    sent = [parts] if promise.devices is None else [[part] for part in parts]
    total = sum((clipped_sums(lesson.shape, some, privacy) for some in sent), np.zeros(lesson.shape.size, np.int64))
    return lesson.shape.statistics(total + discrete_gaussian(privacy.noise_grid(GRID_BITS), len(total)))


def private(seed: int) -> dict[str, dict[str, float]]:
    """Accuracy by promise, with public pictures of all writers and of another writer than those who learn."""
    found = {}
    for name, other in (("public pictures of all writers", False), ("of another writer", True)):
        rng = np.random.default_rng([seed, 3])
        lesson = draw(rng, other_writer=other)
        found[name] = {"without noise": lesson.accuracy(lesson.learn.sums())}
        found[name] |= {promise.words: lesson.accuracy(release(promise, lesson, rng)) for promise in PROMISES}
        found[name]["public pictures alone"] = lesson.accuracy(lesson.public.sums())
    return found
