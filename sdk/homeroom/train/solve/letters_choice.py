"""Whether a head reads the letters of its texts: it does unless validation samples clearly say otherwise."""

from __future__ import annotations

import numpy as np

from homeroom.contract.manifest import Task
from homeroom.data.tasks import losses
from homeroom.train.calibration import temperature
from homeroom.train.solve.paired import ENOUGH_SAMPLES, clearly_lower


def better_without(task: Task, lettered: np.ndarray, unlettered: np.ndarray, targets: np.ndarray) -> bool:
    """Whether losses without letters are lower by more than the standard error of the paired difference.

    Never of fewer than ENOUGH_SAMPLES. lettered, unlettered: outputs [n, width] of heads that did not learn from these
    samples, each judged at its own temperature.
    """
    if len(targets) < ENOUGH_SAMPLES:
        return False
    first, second = (losses(task, one / temperature(task, one, targets), targets) for one in (lettered, unlettered))
    return clearly_lower(first - second)
