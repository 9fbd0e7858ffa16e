"""Loss of each kind of task, a row at a time; torch."""

from __future__ import annotations

import torch
from torch import Tensor

from homeroom.contract.manifest import TaskKind

HUBER = 1.0  # |error|, in units of the task's scale, where the loss turns from square to linear


def loss(kind: TaskKind, output: Tensor, target: Tensor) -> Tensor:
    """output, target: float32 [batch, width] as the manifest's Task says; returns [batch]."""
    if kind in ("classification", "choice"):
        return -(target * torch.log_softmax(output, -1)).sum(-1)
    if kind == "regression":
        error = (output - target).abs()
        small = error.clamp(max=HUBER)
        return (small * (error - 0.5 * small)).sum(-1)
    # BCE with logits: max(x, 0) - x*y + log(1 + exp(-|x|))
    cross = torch.relu(output) - output * target + torch.log(1.0 + torch.exp(-output.abs()))
    return cross.mean(-1)
