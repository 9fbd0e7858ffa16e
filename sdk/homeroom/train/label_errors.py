"""Labels that look wrong: what models that never saw a sample make of its label; a person decides. It may import store.

A label is doubted where another class is, in cross-validation, several times as probable. A second pass learns without
what the first doubted, so that wrong labels do not vouch for each other. On the vocabulary lesson this found more at
about the same precision, or about as many at a better one, than confident learning (Northcutt, Jiang and Chuang 2021,
equations 1 and 2): `docs/quality.md`. Tasks with one class a sample are judged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from homeroom.contract.manifest import Task
from homeroom.data.tasks.metrics import probabilities
from homeroom.errors import TrainError
from homeroom.runtime.bundle import Bundle
from homeroom.runtime.graphs import Graphs
from homeroom.store import Store
from homeroom.train.cross_validation import folds
from homeroom.train.evaluate import outputs_of
from homeroom.train.features.dataset import Dataset, Example
from homeroom.train.fit import fit
from homeroom.train.settings import Settings

CROSS_VALIDATION_EPOCHS = 10  # few: a model that is trained for long learns wrong labels too
PASSES = 2
DOUBT_RATIO = 3  # as probable as its label must be what a sample looks like
LEAST_LABELLED_SAMPLES = 20  # labelled samples of a task that is judged


@dataclass(frozen=True)
class SuspectLabel:
    """`row`: the number of the example; `probability`, held out, of the label that it looks like."""

    row: int
    task: str
    label: str
    instead: str
    probability: float

    def __str__(self) -> str:
        return f"{self.task}: said to be {self.label!r}, but looks like {self.instead!r} ({self.probability:.0%})"


def quarantine_suspects(
    store: Store, bundle: Bundle, graphs: Graphs, ready: Sequence[Example], settings: Settings, stop: Callable[[], bool]
) -> list[str]:
    """Keep examples' samples with a doubtful label out of training; return their ids. Those put back before stay."""
    reasons: dict[str, str] = {}
    for doubt in suspect_labels(graphs, bundle.theta(), Dataset(bundle.manifest, ready), settings, stop):
        sample_id = ready[doubt.row].sample_id
        reasons[sample_id] = "; ".join(filter(None, (reasons.get(sample_id), str(doubt))))
    return store.put_aside(reasons)


def suspect_labels(
    graphs: Graphs, start: np.ndarray, own: Dataset, settings: Settings, stop: Callable[[], bool] = bool
) -> list[SuspectLabel]:
    """The doubts about the labels of a dataset, in its order; TrainError where the budget ends first.

    start: float32 [P], a theta that was not trained on these samples.
    """
    tasks = [
        (column, task)
        for column, task in enumerate(own.manifest.tasks)
        if task.kind in ("classification", "ordinal")
        and np.count_nonzero(own.labelled[:, column]) >= LEAST_LABELLED_SAMPLES
    ]
    if not tasks:
        raise TrainError(
            "no label was judged: too few samples",
            remedy=f"a task needs {LEAST_LABELLED_SAMPLES} labelled samples, of classes or levels",
        )
    short = msgspec.structs.replace(settings, epochs=CROSS_VALIDATION_EPOCHS, balance=0.0, clip_norm=0.0)
    doubts: list[SuspectLabel] = []
    for _ in range(PASSES):
        doubted = [doubt.row for doubt in doubts]
        held = {task.name: np.zeros((len(own), len(task.labels))) for _, task in tasks}
        for _, rows in folds(own, settings.seed):
            train = own.subset(np.setdiff1d(np.arange(len(own)), [*rows, *doubted]))
            found = fit(graphs, train, None, start, short, stop=stop)
            if not found.finished:
                raise TrainError("the time ended before the labels were judged", remedy="give it more minutes")
            outputs = outputs_of(graphs, own.subset(rows), found.theta)
            for _, task in tasks:
                held[task.name][rows] = probabilities(task, outputs[task.name])
        doubts = [
            doubt
            for column, task in tasks
            for doubt in _judged(task, held[task.name], own.targets[task.name], np.flatnonzero(own.labelled[:, column]))
        ]
    return sorted(doubts, key=lambda doubt: doubt.row)


def _judged(task: Task, chances: np.ndarray, targets: np.ndarray, rows: np.ndarray) -> list[SuspectLabel]:
    """chances: [examples, classes], held out; targets: as the task's; rows: those with a label."""
    said = targets[rows].sum(1).round().astype(int) if task.kind == "ordinal" else targets[rows].argmax(1)
    chances, occurs = chances[rows], np.unique(said)  # a class that nobody has is never what a sample looks like
    looks = occurs[chances[:, occurs].argmax(1)]
    numbers = np.arange(len(said))
    doubted = chances[numbers, said] * DOUBT_RATIO < chances[numbers, looks]
    return [
        SuspectLabel(int(rows[i]), task.name, task.labels[said[i]], task.labels[looks[i]], float(chances[i, looks[i]]))
        for i in np.flatnonzero(doubted)
    ]
