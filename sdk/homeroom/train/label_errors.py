"""Label errors: finds labels that are probably wrong, by cross-validation; a person decides about them.

A label is suspect where another class is, on held-out samples, several times as probable. A second pass learns without
the suspects of the first, so that wrong labels do not vouch for each other. On the vocabulary lesson this found more at
about the same precision, or about as many at a better one, than confident learning (Northcutt, Jiang and Chuang 2021,
equations 1 and 2): `docs/quality.md`. Tasks with one class a sample are judged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

import msgspec
import numpy as np

from homeroom.contract.manifest import Task
from homeroom.data.tasks import kind_of, probabilities
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
SUSPECT_RATIO = 3  # of the most probable class's probability to that of the label
LEAST_LABELLED_SAMPLES = 20  # of a task that is judged


@dataclass(frozen=True)
class SuspectLabel:
    """A label that is probably wrong.

    row: number of the example
    instead: the class that it looks like; probability: of that class, on held-out samples
    """

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
    """Quarantines the samples of the examples `ready` with a suspect label, but for those released before.

    Returns their ids. Raises TrainError as `suspect_labels`.
    """
    reasons: dict[str, str] = {}
    for suspect in suspect_labels(graphs, bundle.theta(), Dataset(bundle.manifest, ready), settings, stop):
        sample_id = ready[suspect.row].sample_id
        reasons[sample_id] = "; ".join(filter(None, (reasons.get(sample_id), str(suspect))))
    return store.quarantine(reasons)


def suspect_labels(
    graphs: Graphs, start: np.ndarray, dataset: Dataset, settings: Settings, stop: Callable[[], bool] = bool
) -> list[SuspectLabel]:
    """The suspect labels of a dataset, in its order.

    start: float32 [P], a theta that was not trained on these samples
    stop: asked before every batch whether the budget has ended

    Raises TrainError where the budget ends first, or no task has samples enough.
    """
    columns = zip(dataset.manifest.tasks, dataset.labelled.T, strict=True)
    labelled = [(task, np.flatnonzero(column)) for task, column in columns]
    tasks = [(task, rows) for task, rows in labelled if kind_of(task).classes and len(rows) >= LEAST_LABELLED_SAMPLES]
    if not tasks:
        raise TrainError(
            "no label was judged: too few samples",
            remedy=f"a task needs {LEAST_LABELLED_SAMPLES} labelled samples, of classes or levels",
        )
    short = msgspec.structs.replace(
        settings, epochs=CROSS_VALIDATION_EPOCHS, balance=0.0, clip_norm=0.0, distillation=0.0
    )
    suspects: list[SuspectLabel] = []
    for _ in range(PASSES):
        suspect_rows = [suspect.row for suspect in suspects]
        held_out = {task.name: np.zeros((len(dataset), len(task.labels))) for task, _ in tasks}
        for _, rows in folds(dataset, settings.seed):
            train = dataset.subset(np.setdiff1d(np.arange(len(dataset)), [*rows, *suspect_rows]))
            result = fit(graphs, train, None, start, short, stop=stop)
            if not result.finished:
                raise TrainError("the time ended before the labels were judged", remedy="give it more minutes")
            outputs = outputs_of(graphs, dataset.subset(rows), result.theta)
            for task, _ in tasks:
                held_out[task.name][rows] = probabilities(task, outputs[task.name])
        by_task = (_suspects(task, held_out[task.name], dataset.targets[task.name], rows) for task, rows in tasks)
        suspects = list(chain.from_iterable(by_task))
    return sorted(suspects, key=lambda suspect: suspect.row)


def _suspects(task: Task, held_out: np.ndarray, targets: np.ndarray, rows: np.ndarray) -> list[SuspectLabel]:
    """The suspect labels of one task.

    held_out: probabilities [examples, classes]
    targets: [examples, width]
    rows: numbers of the examples with a label
    """
    classes_of = kind_of(task).classes
    assert classes_of is not None  # only such tasks are judged
    labels = classes_of(targets[rows])
    chances, classes = held_out[rows], np.unique(labels)  # a class that no label names is never what a sample is
    likeliest = classes[chances[:, classes].argmax(1)]
    numbers = np.arange(len(labels))
    suspect = chances[numbers, labels] * SUSPECT_RATIO < chances[numbers, likeliest]
    return [
        SuspectLabel(int(rows[i]), task.name, task.labels[labels[i]], task.labels[other], float(chances[i, other]))
        for i, other in zip(numbers[suspect], likeliest[suspect], strict=True)
    ]
