"""Matching: one logit, the scaled cosine of two inputs."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from homeroom.contract.layout import Parameter
from homeroom.contract.manifest import Slot, Task
from homeroom_exporter.model.heads import Head, HeadInputs, cosine_parameters, is_single, unit
from homeroom_exporter.model.ladder import Parameters
from homeroom_exporter.model.tasks.base import ExportedKind, binary_cross_entropy, column_agreement, many_hot, one


def _parameters(task: Task, width: int) -> tuple[Parameter, ...]:
    return *cosine_parameters(width), Parameter("bias", (1,))


def _output(parameters: Parameters, inputs: HeadInputs) -> Tensor:
    """Scaled cosine of two inputs [batch, width] as one logit [batch, 1]."""
    left = unit(inputs.places[0][0].vector @ parameters["left.weight"]) * parameters["sharpness"]
    right = unit(inputs.places[1][0].vector @ parameters["right.weight"])
    return (left * right).sum(-1, keepdim=True) + parameters["bias"]


def _fits(reads: Sequence[Slot]) -> bool:
    return is_single(reads) and len(reads) == 2


MATCHING = ExportedKind(
    name="matching",
    loss=binary_cross_entropy,
    width=one,
    example_target=many_hot,
    agreement=column_agreement,
    head=Head(
        name="matching", parameters=_parameters, output=_output, fits=_fits, rule="matching reads two single slots"
    ),
)
