"""Targets of labels, as arrays."""

from __future__ import annotations

import numpy as np

from homeroom.contract.manifest import Task
from homeroom.data.samples import Label


def target(task: Task, label: Label) -> np.ndarray:
    """What the training graph compares with: float32 [width], as `Task` and the losses say.

    Not for tasks that answer for each token: see `tokens.target`.
    """
    values = np.zeros(task.width, np.float32)
    if task.kind == "classification":
        values[task.labels.index(str(label))] = 1.0
    elif task.kind == "ordinal":
        values[: task.labels.index(str(label))] = 1.0
    elif task.kind == "multilabel":
        assert isinstance(label, list)
        values[[task.labels.index(str(one)) for one in label]] = 1.0
    elif task.kind == "choice":
        values[int(label)] = 1.0  # type: ignore[arg-type]
    elif task.kind == "regression":
        values[0] = (float(label) - task.offset) / task.scale  # type: ignore[arg-type]
    else:
        values[0] = float(bool(label))
    return values
