"""Choice: one logit an option, the scaled cosine of the query with it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from homeroom.contract.layout import Parameter
from homeroom.contract.manifest import Slot, Task
from homeroom_exporter.model.heads import Head, HeadInputs, cosine_parameters, unit
from homeroom_exporter.model.ladder import MASKED, Parameters
from homeroom_exporter.model.tasks.base import ExportedKind, cross_entropy, distribution_agreement, one_hot


def choice(parameters: Parameters, query: Tensor, options: Tensor, presence: Tensor) -> Tensor:
    """Scaled cosine of a query [batch, width] with options [batch, n, width]; an absent option gets -1e4.

    presence: [batch, n] of the options. Returns logits [batch, n].
    """
    left = unit(query @ parameters["left.weight"]) * parameters["sharpness"]
    right = unit(options @ parameters["right.weight"])
    return (right @ left.unsqueeze(-1)).squeeze(-1) + (presence - 1.0) * -MASKED


def _parameters(task: Task, width: int) -> tuple[Parameter, ...]:
    return cosine_parameters(width)


def _output(parameters: Parameters, inputs: HeadInputs) -> Tensor:
    options = torch.stack([place.vector for place in inputs.places[1]], 1)
    here = inputs.presence[:, inputs.columns[1]]
    return choice(parameters, inputs.places[0][0].vector, options, here)


def _fits(reads: Sequence[Slot]) -> bool:
    return len(reads) == 2 and reads[0].count == 1 < reads[1].count


def _width(labels: Sequence[str], reads: Sequence[Slot]) -> int:
    return reads[-1].count


CHOICE = ExportedKind(
    name="choice",
    loss=cross_entropy,
    width=_width,
    example_target=one_hot,
    agreement=distribution_agreement,
    head=Head(
        name="choice",
        parameters=_parameters,
        output=_output,
        fits=_fits,
        rule="choice reads one single slot and one slot of several places",
        remedy='"image[4]"',
    ),
)
