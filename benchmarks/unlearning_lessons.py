"""What `benchmarks/unlearning.py` withdraws: parts of three lessons, each the last of a federation's devices.

Handwritten digits (scikit-learn's): one of 21 devices, or a school of 44 % with a digit of its own. Short answers
(Beetle): one of 11 schools, each with questions of its own. The vocabulary lesson: one of its five schools.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

import privacy_digits as digits
import solved_lessons
from homeroom import Sample
from homeroom.data.validation import resolve
from homeroom.inference import golden
from homeroom.runtime.bundle import Bundle, open_bundle
from homeroom.runtime.graphs import Graphs
from homeroom.train.evaluate import evaluate
from homeroom.train.features.dataset import Dataset
from homeroom.train.features.examples import examples
from homeroom.train.settings import Settings

LOCAL = Settings(epochs=2, learning_rate=1e-2, weight_decay=0.0, constant_rate=True, balance=0.0)
DIGITS_DEVICES, ANSWERS_SCHOOLS = 20, 10  # that stay
VOCABULARY_SCHOOL = "Lavande"  # the only one whose words are French


@dataclass(frozen=True)
class Lesson:
    """One seed of a case.

    settings: of local training
    task: whose loss a membership attack looks at
    devices: their samples, the withdrawn one's last
    test: samples of nobody, of what the others taught
    fresh: samples of nobody, as the withdrawn one's
    """

    bundle: Bundle
    graphs: Graphs
    settings: Settings
    task: str
    devices: list[Dataset]
    test: Dataset
    fresh: Dataset

    @property
    def others(self) -> int:
        """How many devices stay; the withdrawn one's number."""
        return len(self.devices) - 1

    def accuracy(self, theta: np.ndarray) -> float:
        """Of the test, the mean over tasks."""
        return float(np.mean([score.accuracy for score in evaluate(self.graphs, self.test, theta).values()]))


@dataclass(frozen=True)
class Case:
    """What is withdrawn. rule: how updates are merged; lesson: by seed"""

    name: str
    rule: str
    lesson: Callable[[int], Lesson]


@contextmanager
def digits_cases(_: Path) -> Iterator[Sequence[Case]]:
    with TemporaryDirectory(prefix="homeroom-unlearning-") as folder:
        bundle = digits.make_bundle(Path(folder))
        graphs = digits.open_graphs(bundle)
        yield (
            Case("a device", "bounded", partial(of_digits, bundle, graphs, 0.05)),
            Case("a school of 44 %", "bounded", partial(of_digits, bundle, graphs, 0.44)),
            # there its digit is learned, since its pictures weigh more
            Case("the same, by the mean", "mean", partial(of_digits, bundle, graphs, 0.44)),
        )


def of_digits(bundle: Bundle, graphs: Graphs, share: float, seed: int) -> Lesson:
    """share: of the pictures, the withdrawn one's; above a tenth it has a digit that nobody else has"""
    order = np.random.default_rng([seed, 26]).permutation(len(digits.DIGITS.target))
    labels = digits.DIGITS.target[order]
    stored = [resolve(Sample(**row), bundle.manifest) for row in digits.rows(order)]  # type: ignore[arg-type]
    every = examples(None, bundle, graphs, stored)
    train, test = np.arange(digits.TEST, len(order)), np.arange(digits.TEST)
    own = train[labels[train] == 9] if share > 0.1 else train[:0]
    rest = np.setdiff1d(train, own)
    count = round(share * len(train)) - len(own)
    mine, theirs = np.concatenate([own, rest[:count]]), rest[count:]

    def taken(some: Sequence[int] | np.ndarray) -> Dataset:
        return Dataset(bundle.manifest, [every[n] for n in some])

    others = test[labels[test] != 9] if len(own) else test
    devices = [*map(taken, np.array_split(theirs, DIGITS_DEVICES)), taken(mine)]
    return Lesson(bundle, graphs, LOCAL, "digit", devices, taken(others), taken(test))


@contextmanager
def answers_cases(data: Path) -> Iterator[Sequence[Case]]:
    with TemporaryDirectory(prefix="homeroom-unlearning-") as folder:
        made = solved_lessons.prepare(solved_lessons.short_answers(data, "beetle"), Path(folder) / "beetle")
        yield (Case("questions of short answers", "bounded", partial(of_answers, made)),)


def of_answers(made: solved_lessons.Ready, seed: int) -> Lesson:
    known = np.array(made.lesson.always_test)
    groups = np.array(made.lesson.groups)
    taught = np.setdiff1d(np.arange(len(groups)), known)
    names = np.random.default_rng([seed, 26]).permutation(np.unique(groups[taught]))
    parts = np.array_split(names, ANSWERS_SCHOOLS + 1)

    def taken(some: np.ndarray, questions: np.ndarray) -> Dataset:
        return Dataset(made.bundle.manifest, [made.ready[n] for n in some[np.isin(groups[some], questions)]])

    return Lesson(
        made.bundle,
        made.graphs,
        Settings(epochs=2, weight_decay=3e-2, constant_rate=True),
        "label",
        [taken(taught, questions) for questions in parts],
        taken(known, np.concatenate(parts[:-1])),
        taken(known, parts[-1]),
    )


@contextmanager
def vocabulary_cases(_: Path) -> Iterator[Sequence[Case]]:
    from examples.vocabulary import lesson
    from examples.vocabulary.bundle import make_bundle
    from examples.vocabulary.splits import lesson_stamps
    from examples.vocabulary.stamps import cache_folder
    from federation import FeatureCache, load

    pairs = lesson_stamps()
    with TemporaryDirectory(prefix="homeroom-unlearning-") as folder:
        bundle = open_bundle(make_bundle(pairs, Path(folder), lambda _: None), root=None)
        graphs = Graphs(bundle, golden.choose_precision(bundle), threads=1)

        def of_vocabulary(seed: int) -> Lesson:
            data = load(bundle, graphs, FeatureCache(cache_folder() / "vocabulary-features"), pairs, seed)
            names = sorted(data.tests, key=lambda name: name == VOCABULARY_SCHOOL)
            joined = [example for name in names[:-1] for example in data.tests[name].examples]
            return Lesson(
                bundle,
                graphs,
                lesson.changed(lesson.ALONE, epochs=lesson.LOCAL_EPOCHS, learning_rate=1e-3, constant_rate=True),
                "category",
                [data.parts[name][0] for name in names],
                Dataset(bundle.manifest, joined),
                data.tests[names[-1]],
            )

        yield (Case("a school of the vocabulary lesson", "bounded", of_vocabulary),)
