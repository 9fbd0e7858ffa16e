"""Learning without forgetting (Li and Hoiem 2016): what theta answered before is learned beside the labels.

Each step adds, with a weight, the loss between what theta answers to the samples of now and what it answered when the
training began (their equation 3, at a temperature of 1), for each task it had learned. Labels that it did not know then
are masked there, so that only old ones are compared with one another. Samples of before need not be here. It does not
hold where no sample of now is like those of before: nothing then says that a new label is wrong for an old sample.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from homeroom.contract.manifest import Manifest, Task
from homeroom.data.tasks import kind_of
from homeroom.runtime.graphs import Graphs
from homeroom.train.evaluate import outputs_of
from homeroom.train.features.dataset import Dataset
from homeroom.train.settings import Settings


@dataclass(frozen=True)
class Distillation:
    """The answers of before, as targets.

    theta: float32 [P of the tier], of before
    targets: float32 [examples, width] by task
    weights: float32 [examples, tasks + objectives]; 0 where there is no answer to keep
    """

    theta: np.ndarray
    targets: Mapping[str, np.ndarray]
    weights: np.ndarray


def kept_tasks(manifest: Manifest, learned: Collection[str] | None) -> list[Task]:
    """The tasks whose answers can be kept. learned: those that theta ever learned; None for all."""
    known = [task for task in manifest.tasks if learned is None or task.name in learned]
    return [task for task in known if kind_of(task).soft_target is not None]


def answers_before(
    graphs: Graphs, train: Dataset, theta: np.ndarray, settings: Settings, learned: Collection[str] | None = None
) -> Distillation | None:
    """What theta float32 [P of the tier] answers to a dataset; None where `settings.distillation` is 0.

    learned: the tasks that it had learned; None for all
    """
    if not settings.distillation:
        return None
    tasks, outputs = train.manifest.tasks, outputs_of(graphs, train, theta)
    example_weights = np.array([example.weight for example in train.examples], np.float32)
    weights = np.zeros((len(train), len(tasks) + len(train.manifest.objectives)), np.float32)
    targets = dict[str, np.ndarray]()
    for task in kept_tasks(train.manifest, learned):
        column, soft_target = tasks.index(task), kind_of(task).soft_target
        answered = train.usable(task, train.presence)
        if soft_target is None or not answered.any():
            continue
        targets[task.name] = soft_target(outputs[task.name]).astype(np.float32)
        scale = settings.distillation * settings.task_weights.get(task.name, 1.0) * len(train) / answered.sum()
        weights[:, column] = scale * answered * example_weights
    return Distillation(theta, targets, weights)
