"""Ordinal: one logit for each label but the first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from homeroom.contract.manifest import Slot
from homeroom_exporter.model.tasks.base import ExportedKind, binary_cross_entropy, column_agreement


def _width(labels: Sequence[str], reads: Sequence[Slot]) -> int:
    return len(labels) - 1


def _example_target(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return (np.arange(shape[1]) < rng.integers(0, shape[1] + 1, (shape[0], 1))).astype(np.float32)


ORDINAL = ExportedKind(
    name="ordinal",
    loss=binary_cross_entropy,
    width=_width,
    least_labels=2,
    example_target=_example_target,
    agreement=column_agreement,
)
