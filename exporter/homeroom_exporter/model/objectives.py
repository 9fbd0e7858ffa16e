"""Objectives without labels, a row at a time: alignment, masked features, consistency."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from homeroom.contract.layout import Parameter, Segment
from homeroom.contract.manifest import Modality, Objective, Task
from homeroom_exporter.model.heads import unit
from homeroom_exporter.model.ladder import MASKED, Parameters, meaning
from homeroom_exporter.model.tasks import kind_of

TEMPERATURE = 0.1  # of the alignment's cosines
SHARPER = 2.0  # factor of the logits that others are to agree with


def alignment(vectors: Sequence[Tensor], presence: Tensor) -> Tensor:
    """InfoNCE between the inputs of a sample (van den Oord et al. 2018; both ways as Radford et al. 2021): [batch].

    vectors: one [batch, width] an input; presence: [batch, inputs]. A row's loss is the mean over its pairs of inputs;
    the other candidates are the same inputs of the batch's other rows. A row with fewer than two inputs gets 0.
    """
    units = [unit(vector) for vector in vectors]
    same = torch.eye(len(presence))
    total, pairs = torch.zeros(len(presence)), torch.zeros(len(presence))
    for a, b in itertools.combinations(range(len(units)), 2):
        here = presence[:, a] * presence[:, b]
        logits = units[a] @ units[b].t() / TEMPERATURE
        others = (here.unsqueeze(0) - 1.0) * -MASKED
        ways = [torch.log_softmax(one + others, 1) for one in (logits, logits.t())]
        total = total - here * ((ways[0] + ways[1]) * same).sum(1) * 0.5
        pairs = pairs + here
    return total / pairs.clamp(min=1.0)


def masked_segment(objective: Objective, modalities: Sequence[Modality], width: int) -> Segment:
    """What predicts the features of each modality from the model's vector."""
    parameters = [
        Parameter(f"{m.name}.{name}", shape)
        for m in modalities
        for name, shape in (("weight", (width, len(m.taps) * m.dim)), ("bias", (len(m.taps) * m.dim,)))
    ]
    return Segment(
        name=objective.segment,
        parameters=tuple(parameters),
        meaning=meaning("masked/1", slots=objective.reads, width=width),
        reads=tuple(m.features_id for m in modalities),
    )


def masked(
    parameters: Parameters,
    inputs: Sequence[tuple[str, Tensor, Tensor, Tensor]],
    vectors: Sequence[Tensor],
    presence: Tensor,
) -> Tensor:
    """Mean squared error of hidden features, predicted from what was left of all inputs (He et al. 2022): [batch].

    inputs: of each the modality, its features int8 [batch, taps, tokens, dim], the same with a part hidden (zeros), and
    the scale [taps, dim] that brings their mean square near 1; vectors: one [batch, width] an input, of the latter;
    presence: [batch, inputs]. A row's inputs share one prediction, whatever the token: the frozen encoder has put what
    a token is about into its neighbours too.
    """
    here = presence / presence.sum(1, keepdim=True).clamp(min=1.0)
    vector = (torch.stack(list(vectors), 1) * here.unsqueeze(-1)).sum(1)
    wrong, count = torch.zeros(len(presence)), torch.zeros(len(presence))
    for modality, features, rest, scale in inputs:
        batch, taps, _, dim = features.shape
        whole = features.to(torch.float32)
        hidden = (whole - rest.to(torch.float32)).abs().clamp(max=1.0)
        guess = vector @ parameters[f"{modality}.weight"] + parameters[f"{modality}.bias"]
        error = whole * scale.reshape(1, taps, 1, dim) - guess.reshape(batch, taps, 1, dim)
        wrong = wrong + (hidden * error * error).sum((1, 2, 3))
        count = count + hidden.sum((1, 2, 3))
    return wrong / count.clamp(min=1.0)


def consistency(tasks: Sequence[Task], outputs: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> Tensor:
    """How far answers with a part hidden (`others`) are from the whole input's, mean over tasks: [batch].

    The whole input's are sharpened, and no gradient enters them (Xie et al. 2020, UDA). A row counts by how sure they
    are: from 0 where no answer has a half of the collision probability, sum p^2, to 1.
    """
    losses = []
    for task in tasks:
        logits = outputs[task.name].detach() * SHARPER
        kind = kind_of(task)
        assert kind.agreement is not None  # only such tasks are compared
        target, sure = kind.agreement(logits)
        losses.append(sure * kind.loss(others[task.name], target))
    return torch.stack(losses).mean(0)
