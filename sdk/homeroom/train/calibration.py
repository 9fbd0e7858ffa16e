"""Temperature scaling (Guo et al. 2017, section 4.2), one temperature a task."""

from __future__ import annotations

import numpy as np

from homeroom.contract.manifest import Task
from homeroom.data.tasks import kind_of, losses
from homeroom.runtime.graphs import Graphs
from homeroom.train.evaluate import labelled_outputs
from homeroom.train.features.dataset import Dataset

TEMPERATURE_GRID = np.exp(np.linspace(np.log(0.25), np.log(8.0), 41))
SHRINKAGE_SAMPLES = 20  # validation samples at which the fitted temperature counts as much as 1


def temperature(task: Task, outputs: np.ndarray, targets: np.ndarray) -> float:
    """Temperature with the least log-loss on validation outputs [n, width], shrunk towards 1 where n is small.

    outputs, targets: as `tasks.score` takes them.
    """
    if not kind_of(task).calibrated or not len(outputs):
        return 1.0
    means = [float(losses(task, outputs, targets, float(t)).mean()) for t in TEMPERATURE_GRID]
    best = float(TEMPERATURE_GRID[int(np.argmin(means))])
    return float(best ** (len(outputs) / (len(outputs) + SHRINKAGE_SAMPLES)))


def calibrate(graphs: Graphs, train: Dataset, validation: Dataset | None, theta: np.ndarray) -> dict[str, float]:
    """Temperature of each task that has labels in `train`; 1.0 where no validation sample has its label."""
    tasks = train.manifest.tasks
    temperatures = {task.name: 1.0 for column, task in enumerate(tasks) if train.labelled[:, column].any()}
    if validation is not None:
        pairs = labelled_outputs(graphs, validation, theta)
        for task in tasks:
            if task.name in temperatures and len(pairs[task.name][0]):
                temperatures[task.name] = temperature(task, *pairs[task.name])
    return temperatures
