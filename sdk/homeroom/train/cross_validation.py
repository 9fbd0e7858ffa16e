"""Cross-validation: folds by subject, and losses on what was left out."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from homeroom.data.tasks.metrics import losses
from homeroom.train.features.dataset import Dataset

FOLD_COUNT = 4  # parts that the samples are dealt into
Outputs = dict[str, np.ndarray]  # float32 [samples, width] by task


def folds(own: Dataset, seed: int) -> Iterator[tuple[Dataset, list[int]]]:
    """(the other samples, rows of a part) for each part; labels are dealt evenly over the parts."""
    order = np.random.default_rng([seed, 0xF01D]).permutation(len(own))
    words = ["/".join(f"{name}{target}" for name, target in sorted(e.targets.items())) for e in own.examples]
    dealt = sorted(order, key=lambda row: words[row])
    for part in range(FOLD_COUNT):
        rows = sorted(int(row) for row in dealt[part::FOLD_COUNT])
        yield own.subset(np.setdiff1d(np.arange(len(own)), rows)), rows


def losses_of(own: Dataset, outputs: Outputs) -> np.ndarray:
    """float64 [samples], whose mean is the mean over tasks of the log-loss on labelled samples."""
    found, tasks = np.zeros(len(own)), 0
    for column, task in enumerate(own.manifest.tasks):
        rows = np.flatnonzero(own.labelled[:, column] > 0)
        if len(rows) and task.name in outputs:
            tasks += 1
            made, targets = outputs[task.name], own.targets[task.name]
            found[rows] += losses(task, made[rows], targets[rows]) * len(own) / len(rows)
    return found / tasks
