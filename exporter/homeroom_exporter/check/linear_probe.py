"""A linear probe: how well frozen features tell labels apart, before and after quantization; numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from homeroom.contract.manifest import Task
from homeroom.data.samples import StoredSample
from homeroom.errors import InputError

FOLDS = 4
PROBED = ("classification", "ordinal")  # kinds of task that a linear probe can try
WITH_CLASSES = (*PROBED, "multilabel")  # kinds whose labels must not be all the same
LEAST = 40  # labelled samples below which a probe says nothing
RIDGE = 0.1  # on the diagonal of the kernel, whose entries are near 1
DROP = 0.02  # accuracy that quantization may cost beyond twice the standard error of the difference


@dataclass(frozen=True)
class Probe:
    """Accuracy over `samples` held-out predictions (four folds); `majority`: that of the commonest label."""

    task: str
    samples: int
    majority: float
    float32: float
    int8: float
    error: float  # standard error of the difference

    @property
    def worse(self) -> bool:
        return self.float32 - self.int8 > DROP + 2 * self.error


def compare(task: str, reference: np.ndarray, quantized: np.ndarray, labels: np.ndarray) -> Probe | None:
    """reference, quantized: [n, features] of the same samples; labels: int [n]. None if there are too few."""
    if len(labels) < LEAST or len(np.unique(labels)) < 2:
        return None
    first, second = (held_out(x, labels) == labels for x in (reference, quantized))
    return Probe(
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
        said = [sample.labels[task.name] for sample in samples if task.name in sample.labels]
        if task.kind in WITH_CLASSES and said and all(one == said[0] for one in said):
            raise InputError(
                f"{task.name}: every label is {said[0]!r}, so nothing here shows whether it can be learned",
                where=file,
                remedy="add samples of other labels, or leave this task's labels out",
            )


def joined(parts: Sequence[Sequence[np.ndarray]], width: int) -> np.ndarray:
    """One sample's row: the mean of each slot's vectors [width], zeros where it has none; the last two's product."""
    means = [np.mean(vectors, 0) if len(vectors) else np.zeros(width) for vectors in parts]
    if len(means) > 1:
        means.append(means[-1] * means[-2])
    return np.concatenate(means)


def held_out(x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Predicted labels [n], each by a ridge classifier (one against the rest) that did not see the row."""
    fold = np.random.default_rng(0).permutation(len(labels)) % FOLDS
    wanted = np.eye(int(labels.max()) + 1)[labels]
    predicted = np.zeros(len(labels), int)
    for held in range(FOLDS):
        train = fold != held
        mean, std = x[train].mean(0), x[train].std(0) + 1e-6
        z = (x - mean) / std
        kernel = z @ z[train].T / z.shape[1]  # in the dual: there are more features than samples
        solved = np.linalg.solve(kernel[train] + RIDGE * np.eye(train.sum()), wanted[train] - wanted[train].mean(0))
        predicted[~train] = (kernel[~train] @ solved + wanted[train].mean(0)).argmax(1)
    return predicted
