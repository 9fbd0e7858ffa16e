"""Regression: (value - offset) / scale, learned by Huber's loss."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from homeroom_exporter.model.tasks.base import ExportedKind, one

HUBER_ERROR = 1.0  # |error|, in units of the task's scale, where the loss turns from square to linear


def _loss(output: Tensor, target: Tensor) -> Tensor:
    error = (output - target).abs()
    small = error.clamp(max=HUBER_ERROR)
    return (small * (error - 0.5 * small)).sum(-1)


def _example_target(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.standard_normal(shape, dtype=np.float32) * 2


REGRESSION = ExportedKind(name="regression", loss=_loss, width=one, example_target=_example_target)
