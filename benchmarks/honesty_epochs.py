"""The section *epochs* of `benchmarks/honesty.py`: which epoch is kept, beside the rule of 0.1.0.

0.1.0 kept the earliest epoch with the best score and ended `patience` epochs later; today the log-loss decides between
epochs that score alike. Both rules train with the same seeds on the same samples. Figures are of samples that neither
learned from nor chose by: whole questions, speakers and articles of others, single pictures, and rows of the tests'
lesson with six kinds of task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from homeroom import Sample
from homeroom.data.validation import resolve
from homeroom.runtime.bundle import open_bundle
from homeroom.runtime.graphs import Graphs
from homeroom.train.evaluate import evaluate
from homeroom.train.features.dataset import Dataset
from homeroom.train.features.examples import examples
from homeroom.train.fit import fit
from homeroom.train.settings import Settings
from homeroom.train.state import Epoch
from peers.verdict import limited

SEEDS = 3
RULES = ("score alone", "score, then log-loss")
MOST_LOSS = 0.01  # by which a lesson's mean log-loss may rise: a hundredth of a guess's among three labels
Parts = tuple[Graphs, np.ndarray, Dataset, Dataset, Dataset, int]  # theta, to learn, to judge, to test, epochs


@contextmanager
def by_score_alone() -> Iterator[None]:
    """As 0.1.0 ranked epochs."""
    today = Epoch.rank
    Epoch.rank = property(lambda epoch: (epoch.value, 0.0))  # type: ignore[assignment]
    try:
        yield
    finally:
        Epoch.rank = today  # type: ignore[method-assign]


def tiny_lesson(_: Path) -> Callable[[int], Parts]:
    """Six tasks at once on the tests' tiny bundle."""
    import tiny

    bundle = open_bundle(tiny.bundle().path, root=None)
    graphs = Graphs(bundle, threads=1)

    def parts(seed: int) -> Parts:
        def side(count: int, draw: int) -> Dataset:
            rows = [resolve(Sample(**row), bundle.manifest) for row in tiny.samples(count, draw)]
            return Dataset(bundle.manifest, examples(None, bundle, graphs, rows))

        return graphs, bundle.theta(), side(120, seed), side(40, 50 + seed), side(160, 100 + seed), 30

    return parts


def real_lesson(name: str, data: Path, work: Path) -> Callable[[int], Parts]:
    """A lesson of `solved_lessons`."""
    import solved_lessons as lessons

    made_by = {
        "digits": lessons.handwritten_digits,
        "spoken digits": lambda: lessons.spoken_digits(data),
        "short answers": lambda: lessons.short_answers(data, "beetle"),
        "reading level": lambda: lessons.reading_level(data),
    }
    made = lessons.prepare(made_by[name](), work)

    def parts(seed: int) -> Parts:
        sides = [
            Dataset(made.bundle.manifest, [made.ready[i] for i in rows]) for rows in lessons.split(made.lesson, seed)
        ]
        return made.graphs, made.bundle.theta(), sides[0], sides[1], sides[2], made.lesson.epochs

    return parts


LESSONS = ("six tasks", "digits", "spoken digits", "short answers", "reading level")


def compared(parts: Parts, seed: int) -> dict[str, dict[str, float]]:
    """By rule: the mean score and log-loss over the tasks on the test samples, the best epoch and how many were run."""
    graphs, theta, train, validation, test, epochs = parts
    settings, found = Settings(epochs=epochs, seed=seed, weight_decay=3e-2), {}
    for rule in RULES:
        if rule == RULES[0]:
            with by_score_alone():
                result = fit(graphs, train, validation, theta, settings)
        else:
            result = fit(graphs, train, validation, theta, settings)
        scores = evaluate(graphs, test, result.theta, result.temperatures).values()
        losses = [score.log_loss for score in scores if score.log_loss is not None]
        found[rule] = {
            "score": float(np.mean([score.value for score in scores if score.n])),
            "log-loss": float(np.mean(losses)),
            "best epoch": result.best_epoch,
            "epochs": len(result.history),
        }
    return found


def epochs(work: Path, data: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Both rules on each lesson, three seeds."""
    document, targets = dict[str, Any](), []
    for name in LESSONS:
        parts = tiny_lesson(work) if name == "six tasks" else real_lesson(name, data, work / name.replace(" ", "-"))
        seeds = [compared(parts(seed), seed) for seed in range(SEEDS)]
        mean = {rule: {k: float(np.mean([one[rule][k] for one in seeds])) for k in seeds[0][rule]} for rule in RULES}
        document[name] = {"mean": mean, "seeds": seeds}
        before, now = (mean[rule] for rule in RULES)
        print(f"{name}: {mean}", flush=True)
        targets += [
            limited(f"{name}: score less that of the rule of 0.1.0", now["score"] - before["score"], 0, at_least=True),
            limited(
                f"{name}: log-loss less that of the rule of 0.1.0", now["log-loss"] - before["log-loss"], MOST_LOSS
            ),
        ]
    return document, targets
