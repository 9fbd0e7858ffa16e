"""Cross-validation: folds by subject, and losses on what was left out."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from homeroom.data.tasks import losses
from homeroom.train.features.dataset import Dataset

FOLD_COUNT = 4
Outputs = dict[str, np.ndarray]  # float32 [samples, width] by task


def folds(dataset: Dataset, seed: int, *, whole_groups: bool = False) -> Iterator[tuple[Dataset, list[int]]]:
    """Yields (the other samples, rows of a fold) for each fold; labels are dealt evenly over the folds.

    whole_groups: keep samples of one group in one fold, where there are as many groups as folds
    """
    if whole_groups and (fold_of := _deal_groups(dataset, seed)) is not None:
        for fold in range(FOLD_COUNT):
            yield dataset.subset(np.flatnonzero(fold_of != fold)), np.flatnonzero(fold_of == fold).tolist()
        return
    order = np.random.default_rng([seed, 0xF01D]).permutation(len(dataset))
    keys = ["/".join(f"{name}{target}" for name, target in sorted(e.targets.items())) for e in dataset.examples]
    by_label = sorted(order, key=lambda row: keys[row])
    for fold in range(FOLD_COUNT):
        rows = sorted(int(row) for row in by_label[fold::FOLD_COUNT])
        yield dataset.subset(np.setdiff1d(np.arange(len(dataset)), rows)), rows


def _deal_groups(dataset: Dataset, seed: int) -> np.ndarray | None:
    """int32 [examples]: a fold for each, whole groups, the largest first; None without groups, or with too few."""
    units = dataset.whole_units()
    sizes = np.bincount(units)
    if len(sizes) < FOLD_COUNT or not any(example.group for example in dataset.examples):
        return None
    filled, fold_of = np.zeros(FOLD_COUNT), np.zeros(len(sizes), np.int32)
    order = np.random.default_rng([seed, 0xF01D]).permutation(len(sizes))
    for unit in sorted(order, key=lambda unit: -sizes[unit]):
        fold_of[unit] = filled.argmin()
        filled[fold_of[unit]] += sizes[unit]
    return np.asarray(fold_of[units])


def losses_of(dataset: Dataset, outputs: Outputs) -> np.ndarray:
    """float64 [samples], whose mean is the mean over tasks of the log-loss on labelled samples."""
    total, tasks = np.zeros(len(dataset)), 0
    for column, task in enumerate(dataset.manifest.tasks):
        rows = np.flatnonzero(dataset.labelled[:, column] > 0)
        if len(rows) and task.name in outputs:
            tasks += 1
            task_losses = losses(task, outputs[task.name][rows], dataset.targets[task.name][rows])
            total[rows] += task_losses * len(dataset) / len(rows)
    return total / tasks
