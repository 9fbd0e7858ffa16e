"""Training targets: labels as arrays."""

from __future__ import annotations

import numpy as np

from homeroom.contract.manifest import Task
from homeroom.data.samples import Label


def target(task: Task, label: Label) -> np.ndarray:
    """The label as the target of the task's loss, float32 [width].

    One-hot for classification and choice, many-hot for multilabel; ones up to the level for ordinal; (value - offset) /
    scale for regression; 1.0 or 0.0 for matching. Tasks per token have their own: `train.features.token_targets`.
    """
    values = np.zeros(task.width, np.float32)
    if task.kind == "classification":
        values[task.labels.index(str(label))] = 1.0
    elif task.kind == "ordinal":
        values[: task.labels.index(str(label))] = 1.0
    elif task.kind == "multilabel":
        assert isinstance(label, list)
        values[[task.labels.index(str(name)) for name in label]] = 1.0
    elif task.kind == "choice":
        values[int(label)] = 1.0  # type: ignore[arg-type]
    elif task.kind == "regression":
        values[0] = (float(label) - task.offset) / task.scale  # type: ignore[arg-type]
    else:
        values[0] = float(bool(label))
    return values
