"""A linear probe: how well frozen features tell labels apart, before and after quantization."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from homeroom.contract.manifest import Task
from homeroom.data.samples import StoredSample
from homeroom.data.tasks import kind_of
from homeroom.errors import InputError

FOLDS = 4
LEAST_PROBE_SAMPLES, MOST_PROBE_SAMPLES = 40, 240  # labelled ones: with fewer a probe says nothing
RIDGE_SHARE = 0.1  # the ridge penalty, as a share of the number of features
PROBE_DROP_LIMIT = 0.02  # accuracy that quantization may cost beyond twice the standard error of the difference


def is_probed(task: Task) -> bool:
    """Whether a linear probe can try the task: one class a sample."""
    return kind_of(task).classes is not None


@dataclass(frozen=True)
class LinearProbe:
    """Accuracy over `samples` held-out predictions; `majority`: that of the commonest label; `error`: standard error
    of the difference between the two precisions.
    """

    task: str
    samples: int
    majority: float
    float32: float
    int8: float
    error: float

    @property
    def worse(self) -> bool:
        """Whether quantization cost more accuracy than chance explains."""
        return self.float32 - self.int8 > PROBE_DROP_LIMIT + 2 * self.error


def compare(task: str, reference: np.ndarray, quantized: np.ndarray, labels: np.ndarray) -> LinearProbe | None:
    """Probes both precisions. reference, quantized: float [n, features] of the same samples; labels: int [n].

    None where there are too few samples, or only one label.
    """
    if len(labels) < LEAST_PROBE_SAMPLES or len(np.unique(labels)) < 2:
        return None
    first, second = (held_out(x, labels) == labels for x in (reference, quantized))
    return LinearProbe(
        task=task,
        samples=len(labels),
        majority=float(np.bincount(labels).max() / len(labels)),
        float32=float(first.mean()),
        int8=float(second.mean()),
        error=float(np.sqrt((first != second).sum()) / len(labels)),
    )


def refuse_one_class(tasks: Sequence[Task], samples: Sequence[StoredSample], file: str) -> None:
    """InputError for a task whose labels in the samples are all the same; without labels it is fine."""
    for task in tasks:
        labels = [sample.labels[task.name] for sample in samples if task.name in sample.labels]
        named = task.labels and not kind_of(task).per_token
        if named and labels and all(label == labels[0] for label in labels):
            fault = f"{task.name}: every label is {labels[0]!r}, so nothing here shows whether it can be learned"
            remedy = "add samples of other labels, or leave this task's labels out"
            raise InputError(fault, where=file, remedy=remedy)


def sample_row(slots: Sequence[Sequence[np.ndarray]], width: int) -> np.ndarray:
    """One sample's row: the mean of each slot's vectors [width], zeros where it has none; the last two's product."""
    means = [np.mean(vectors, 0) if len(vectors) else np.zeros(width) for vectors in slots]
    if len(means) > 1:
        means.append(means[-1] * means[-2])
    return np.concatenate(means)


def held_out(x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Predicted labels int [n], each by a ridge classifier that did not see the row. x: [n, features]."""
    fold = np.random.default_rng(0).permutation(len(labels)) % FOLDS
    classifier = make_pipeline(StandardScaler(), RidgeClassifier(RIDGE_SHARE * x.shape[1]))
    predicted = cross_val_predict(classifier, x.astype(np.float64), labels, cv=PredefinedSplit(fold))
    return np.asarray(predicted)
