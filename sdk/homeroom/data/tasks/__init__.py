"""Task kinds: one module a kind, registered here; whatever differs between kinds is asked of the kind."""

from __future__ import annotations

import numpy as np

from homeroom.contract.continuation import growths_of, masked_columns
from homeroom.contract.manifest import Manifest, Task
from homeroom.data.samples import Label
from homeroom.data.tasks.base import TaskKind
from homeroom.data.tasks.choice import CHOICE
from homeroom.data.tasks.classification import CLASSIFICATION
from homeroom.data.tasks.matching import MATCHING
from homeroom.data.tasks.metrics import Score
from homeroom.data.tasks.multilabel import MULTILABEL
from homeroom.data.tasks.ordinal import ORDINAL
from homeroom.data.tasks.regression import REGRESSION
from homeroom.data.tasks.spans import TEXT_SPANS
from homeroom.data.tasks.tracing import TRACING
from homeroom.errors import BundleError

KINDS: dict[str, TaskKind] = {
    kind.name: kind for kind in (CLASSIFICATION, ORDINAL, MULTILABEL, REGRESSION, CHOICE, MATCHING, TEXT_SPANS, TRACING)
}


def register(kind: TaskKind) -> None:
    """Adds a kind, which bundles may then use; ValueError if there is one of that name."""
    if KINDS.setdefault(kind.name, kind) is not kind:
        raise ValueError(f"there is a task kind {kind.name!r} already")


def kind_of(task: Task) -> TaskKind:
    """The kind of a task."""
    return KINDS[task.kind]


def check_tasks(manifest: Manifest) -> None:
    """BundleError for a task of a kind that is not known here, or that does not read what its kind reads."""
    where, counts = "manifest.json", {slot.name: slot.count for slot in manifest.slots}
    for task in manifest.tasks:
        if task.kind not in KINDS:
            what = f"task {task.name} is of an unknown kind {task.kind!r}"
            raise BundleError(what, where=where, remedy="update homeroom")
        if kind_of(task).per_token and [counts[name] for name in task.reads] != [1]:
            what = f"task {task.name} does not read one single slot"
            raise BundleError(what, where=where, remedy="export the bundle again")
    growing = {task.name for task in manifest.tasks if kind_of(task).grows}
    heads = (growth.segment.removeprefix("head.") for growth in growths_of(manifest.continues))
    if fixed := {*heads, *manifest.masked} - growing:
        what = f"task {min(fixed)} cannot have more labels than before"
        raise BundleError(what, where=where, remedy="export the bundle again")


def needs_no_label(manifest: Manifest) -> bool:
    """Whether samples without a label can train something."""
    return bool(manifest.objectives) or any(kind_of(task).teaches_unlabelled for task in manifest.tasks)


def target(task: Task, label: Label) -> np.ndarray:
    """The label as the target of the task's loss, float32 [width]; tasks per token have `token_target`."""
    make = kind_of(task).target
    assert make is not None
    return make(task, label)


def probabilities(task: Task, outputs: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Probabilities of outputs float32 [n, width], calibrated by a temperature.

    Classification, choice, spans and ordinal (over its levels, [n, width + 1]): a row sums to 1. Multilabel, matching
    and tracing: one probability a column. Of numbers: the number, in units of the task's scale.
    """
    kind = kind_of(task)
    shut = masked_columns(outputs) if kind.grows else np.zeros(0, bool)
    if shut.any() and not shut.all():  # exactly 0, and the others as they are without it
        chances = np.zeros(outputs.shape)
        chances[:, ~shut] = probabilities(task, np.ascontiguousarray(outputs[:, ~shut]), temperature)
        return chances
    return kind.probabilities(np.asarray(outputs, np.float64) / temperature if kind.calibrated else outputs)


def losses(task: Task, outputs: np.ndarray, targets: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Loss of each sample, float [n]: log-loss; of a regression the absolute error in units of the task's scale.

    outputs, targets: as of `score`.
    """
    return kind_of(task).losses(probabilities(task, outputs, temperature), targets)


def score(task: Task, outputs: np.ndarray, targets: np.ndarray, temperature: float = 1.0) -> Score:
    """Scores one task, calibrated by a temperature.

    outputs, targets: float32 [n, width] of labelled samples; of tasks per token as the kind's `token_pairs` gives them.
    """
    if not len(outputs):
        return Score(n=0)
    return kind_of(task).score(task, probabilities(task, outputs, temperature), targets)
