"""A task kind as the exporter knows it: its loss, its output's width, its labels and its usual head; torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from homeroom.contract.manifest import Slot
from homeroom_exporter.model.heads import FUSED, Head


@dataclass(frozen=True, kw_only=True)
class ExportedKind:
    """One kind of task; `homeroom.data.tasks` has the same kind as the device knows it.

    loss: (output, target), both float32 [batch, width], to the loss of each row [batch]; of a kind per token
        [batch, tokens, width], or [batch, tokens] of a head that computes the asked column alone; a row's loss is then
        the mean over what is compared
    width: (labels, slots that it reads) to the length of the output
    example_target: (random numbers, shape) to targets float32 that a device could make, to trace and check graphs with;
        shape: (batch, width), or (batch, tokens, width) of a kind per token
    agreement: logits of a consistency objective to the target that others are to agree with, and how sure it is
        [batch]; None for kinds whose answers are not compared so
    least_labels: that a recipe must name; 0 where it names none
    labels_are_skills: the labels are the skills of the sequence
    head: that every task of the kind has; other kinds have a fused head, or one that the recipe names
    """

    name: str
    loss: Callable[[Tensor, Tensor], Tensor]
    example_target: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
    width: Callable[[Sequence[str], Sequence[Slot]], int]
    agreement: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None
    least_labels: int = 0
    labels_are_skills: bool = False
    head: Head = FUSED


def one(labels: Sequence[str], reads: Sequence[Slot]) -> int:
    """A single output."""
    return 1


def one_a_label(labels: Sequence[str], reads: Sequence[Slot]) -> int:
    """An output for each label."""
    return len(labels)


def cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    """Of logits and distributions, [batch]."""
    return -(target * torch.log_softmax(output, -1)).sum(-1)


def binary_terms(output: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy of each logit: max(x, 0) - x*y + log(1 + exp(-|x|))."""
    return torch.relu(output) - output * target + torch.log(1.0 + torch.exp(-output.abs()))


def binary_cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    """Mean over the logits of a row, [batch]."""
    return binary_terms(output, target).mean(-1)


def one_hot(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Targets with one class a row, float32 [rows, classes]."""
    return np.asarray(np.eye(shape[1], dtype=np.float32)[rng.integers(0, shape[1], shape[0])])


def many_hot(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Targets with any of the columns, float32."""
    return (rng.random(shape) < 0.5).astype(np.float32)


def distribution_agreement(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Sure from 0 where no answer has a half of the collision probability, sum p^2, to 1."""
    target = torch.softmax(logits, -1)
    return target, torch.relu((target * target).sum(-1) * 2.0 - 1.0)


def column_agreement(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Sure from 0 where every column is at 0.5, to 1."""
    target = 1.0 / (1.0 + torch.exp(-logits))
    return target, ((target * 2.0 - 1.0) * (target * 2.0 - 1.0)).mean(-1)


def token_cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    """Mean over the tokens with a target, [batch]; output, target: [batch, tokens, width]."""
    return -(target * torch.log_softmax(output, -1)).sum((1, 2)) / target.sum((1, 2)).clamp(min=1.0)
