"""How often theta is right on samples of each label, beside the version before: a mean over labels hides forgetting."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from homeroom.contract.manifest import Task
from homeroom.data.tasks import kind_of, probabilities
from homeroom.runtime.graphs import Graphs
from homeroom.system.printable import counted
from homeroom.train.evaluate import labelled_outputs
from homeroom.train.features.dataset import Dataset

MOST_SHOWN = 8  # labels of a task in a line


@dataclass(frozen=True)
class LabelScore:
    """Validation samples with one label.

    n: how many; right: the share that theta alone answers rightly; before: that of the version before, None without one
    """

    n: int
    right: float
    before: float | None

    def __str__(self) -> str:
        was = "" if self.before is None else f" ({self.before:.0%})"
        return f"{self.right:.0%} of {self.n}{was}"


def by_label(
    graphs: Graphs, dataset: Dataset, theta: np.ndarray, before: np.ndarray | None
) -> dict[str, dict[str, LabelScore]]:
    """Scores by task and label, of tasks with one label a sample; labels that no sample has are left out.

    theta: float32 [P]; before: that of the version before, which may have learned from some of these samples; or None
    """
    now = labelled_outputs(graphs, dataset, theta)
    was = now if before is None else labelled_outputs(graphs, dataset, before)
    found = dict[str, dict[str, LabelScore]]()
    for task in filter(has_labels, dataset.manifest.tasks):
        classes_of = kind_of(task).classes
        assert classes_of is not None  # of `has_labels`
        classes = classes_of(now[task.name][1])
        right, right_before = (probabilities(task, one[task.name][0]).argmax(1) == classes for one in (now, was))
        scores = dict[str, LabelScore]()
        for number in np.unique(classes):
            rows = classes == number
            earlier = None if before is None else float(right_before[rows].mean())
            scores[task.labels[number]] = LabelScore(int(rows.sum()), float(right[rows].mean()), earlier)
        if scores:
            found[task.name] = scores
    return found


def has_labels(task: Task) -> bool:
    """Whether a task has one of its named labels a sample."""
    return kind_of(task).classes is not None and len(task.labels) > 1


def unheld(dataset: Dataset) -> Iterator[str]:
    """For a person, by task: labels of which no sample is left or was ever here. dataset: all that is held."""
    for column, task in enumerate(dataset.manifest.tasks):
        rows = dataset.labelled[:, column] > 0
        classes_of = kind_of(task).classes
        if not has_labels(task) or classes_of is None or not rows.any():
            continue
        held = set(classes_of(dataset.targets[task.name][rows]).tolist())
        missing = [label for number, label in enumerate(task.labels) if number not in held]
        if missing:
            yield (
                f"{task.name}: no sample of {_first(missing)} is here: whether what was learned of it before "
                "still holds is not known"
            )


def label_line(scores: Mapping[str, LabelScore]) -> str:
    """A task's labels for a person, those that fell the most first where there are many."""
    names = sorted(scores, key=lambda name: scores[name].right - (scores[name].before or 0.0))
    shown = list(scores) if len(names) <= MOST_SHOWN else names[:MOST_SHOWN]
    more = len(names) - len(shown)
    cells = ", ".join(f"{name} {scores[name]}" for name in shown)
    return cells + (f", … and {counted(more, 'more label')}" if more else "")


def _first(labels: Sequence[str]) -> str:
    more = len(labels) - MOST_SHOWN
    return ", ".join(labels[:MOST_SHOWN]) + (f" and {more} more" if more > 0 else "")
