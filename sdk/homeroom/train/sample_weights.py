"""Sample weights: how much each sample counts in the loss of each task."""

from __future__ import annotations

import numpy as np

from homeroom.data.tasks import kind_of
from homeroom.train.features.dataset import Dataset
from homeroom.train.settings import Settings


def sample_weights(dataset: Dataset, settings: Settings) -> np.ndarray:
    """float32 [examples, tasks + objectives], scaled so that the weighted loss summed over a mean batch is its mean.

    A class has the weight (n / (classes * n_class)) ** balance, scaled to a mean of 1. A sample of a task per token
    counts in proportion to its tokens with a target. Sequences whose answers are all right, or all wrong, have nothing
    to tell apart and weigh 0.
    """
    weights = dataset.labelled.copy()
    for column, task in enumerate(dataset.manifest.tasks):
        rows = weights[:, column] > 0
        if not rows.any():
            continue
        if dataset.one_sided(task):
            weights[:, column] = 0.0
            continue
        if settings.balance and (classes_of := kind_of(task).classes):
            classes = classes_of(dataset.targets[task.name][rows])
            counts = np.bincount(classes)
            factor = (len(classes) / (np.count_nonzero(counts) * counts[classes])) ** settings.balance
            weights[rows, column] *= factor / factor.mean()
        if kind_of(task).per_token:
            tokens = dataset.compared_tokens(task)
            weights[rows, column] *= tokens[rows] / tokens[rows].mean()
        task_weight = settings.task_weights.get(task.name, 1.0)
        weights[:, column] *= task_weight * len(dataset) / rows.sum()
    aligned = dataset.aligned.copy()
    for column, objective in enumerate(dataset.manifest.objectives):
        aligned[:, column] *= objective.weight * len(dataset) / max(1, int(np.count_nonzero(aligned[:, column])))
    return np.hstack([weights, aligned])
