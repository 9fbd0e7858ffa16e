"""The loss of each kind of task, a row at a time, and the weights of tasks in their sum."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from homeroom.contract.layout import Parameter, Segment
from homeroom.contract.manifest import Task, TaskKind

Weighting = Literal["fixed", "uncertainty"]  # of the tasks' losses in their sum
HUBER_ERROR = 1.0  # |error|, in units of the task's scale, where the loss turns from square to linear
LOG_VARIANCE_LIMIT = 4.0  # magnitude of a log-variance: no task's weight leaves e^-4 to e^4


def loss(kind: TaskKind, output: Tensor, target: Tensor) -> Tensor:
    """output, target: float32 [batch, width] as the manifest's Task says; returns [batch].

    Of a task per token [batch, tokens, width]; a row's loss is then the mean over what is compared.
    """
    if kind == "spans":
        return -(target * torch.log_softmax(output, -1)).sum((1, 2)) / target.sum((1, 2)).clamp(min=1.0)
    if kind == "tracing":
        asked = target.abs()
        return (asked * _cross(output, torch.relu(target))).sum((1, 2)) / asked.sum((1, 2)).clamp(min=1.0)
    if kind in ("classification", "choice"):
        return -(target * torch.log_softmax(output, -1)).sum(-1)
    if kind == "regression":
        error = (output - target).abs()
        small = error.clamp(max=HUBER_ERROR)
        return (small * (error - 0.5 * small)).sum(-1)
    return _cross(output, target).mean(-1)


def _cross(output: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy of logits: max(x, 0) - x*y + log(1 + exp(-|x|))."""
    return torch.relu(output) - output * target + torch.log(1.0 + torch.exp(-output.abs()))


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
