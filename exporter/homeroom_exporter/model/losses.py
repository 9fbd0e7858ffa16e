"""The weights of the tasks' losses in their sum."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from homeroom.contract.layout import Parameter, Segment
from homeroom.contract.manifest import Task

Weighting = Literal["fixed", "uncertainty"]  # of the tasks' losses in their sum
LOG_VARIANCE_LIMIT = 4.0  # magnitude of a log-variance: no task's weight leaves e^-4 to e^4


def weighting_segment(task: Task) -> Segment:
    """The log-variance of a task, what `balanced` weighs it by; it tells how noisy labels are, so it stays here."""
    return Segment(
        name=f"weighting.{task.name}",
        parameters=(Parameter("log_variance", (1,)),),
        meaning=f"uncertainty/1 {task.kind}",
        task=task.name,
        scope="personal",
    )


def balanced(sums: Tensor, totals: Tensor, log_variances: Tensor) -> Tensor:
    """The sum over tasks of exp(-s) * loss + s / 2 * weight (Kendall, Gal and Cipolla 2018, equations 7 and 10).

    sums, totals, log_variances: float32 [tasks]. With s = 0 it is the plain sum.
    """
    s = log_variances.clamp(-LOG_VARIANCE_LIMIT, LOG_VARIANCE_LIMIT)
    return (torch.exp(-s) * sums + 0.5 * s * totals).sum()
