"""Task heads as pure functions of their parameters: fused, choice, matching and the pair of texts; torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from homeroom.contract.layout import Parameter, Segment
from homeroom.contract.manifest import Task
from homeroom_exporter.ladder import MASKED, Parameters, meaning, relu

HeadKind = Literal["fused", "choice", "matching", "pair"]
EPSILON = 1e-6


def head_segment(task: Task, kind: HeadKind, reads: Sequence[str], width: int, hidden: int) -> Segment:
    """`reads` are the features_ids of the slots that the task reads, in their order."""
    parameters: tuple[Parameter, ...]
    if kind == "fused":
        parameters = (Parameter("weight", (width, task.width)), Parameter("bias", (task.width,)))
    elif kind == "pair":
        directions = len(task.reads)
        parameters = (
            Parameter("attend.weight", (width, width)),
            Parameter("compare.weight", (3 * width, width)),
            Parameter("compare.bias", (width,)),
            Parameter("join.weight", ((directions + 1) * width, width)),
            Parameter("join.bias", (width,)),
            Parameter("weight", (width, task.width)),
            Parameter("bias", (task.width,)),
        )
    else:
        parameters = (
            Parameter("left.weight", (width, width)),
            Parameter("right.weight", (width, width)),
            Parameter("sharpness", (1,)),
            *((Parameter("bias", (1,)),) if kind == "matching" else ()),
        )
    return Segment(
        name=f"head.{task.name}",
        parameters=parameters,
        meaning=meaning(
            f"{kind}/1",
            task=task.kind,
            slots=task.reads,
            labels=task.labels,
            offset=task.offset,
            scale=task.scale,
            width=width,
        ),
        reads=tuple(dict.fromkeys(reads)),
        task=task.name,
    )


def fused(parameters: Parameters, vector: Tensor) -> Tensor:
    """vector: [batch, width] of the fusion."""
    return vector @ parameters["weight"] + parameters["bias"]


def unit(x: Tensor) -> Tensor:
    """x scaled to length 1 along its last axis; zero stays zero."""
    return x * torch.rsqrt((x * x).sum(-1, keepdim=True) + EPSILON)


def choice(parameters: Parameters, query: Tensor, options: Tensor, presence: Tensor) -> Tensor:
    """Scaled cosine of a query [batch, width] with options [batch, n, width]; an absent option gets -1e4.

    presence: [batch, n] of the options. Returns logits [batch, n].
    """
    left = unit(query @ parameters["left.weight"]) * parameters["sharpness"]
    right = unit(options @ parameters["right.weight"])
    return (right @ left.unsqueeze(-1)).squeeze(-1) + (presence - 1.0) * -MASKED


def matching(parameters: Parameters, left: Tensor, right: Tensor) -> Tensor:
    """Scaled cosine of two inputs [batch, width] as one logit [batch, 1]."""
    left = unit(left @ parameters["left.weight"]) * parameters["sharpness"]
    right = unit(right @ parameters["right.weight"])
    return (left * right).sum(-1, keepdim=True) + parameters["bias"]


def pair(
    parameters: Parameters, tokens: Sequence[Tensor], masks: Tensor, presence: Tensor, vectors: Sequence[Tensor]
) -> Tensor:
    """Attend, compare and pool two or three texts (after Parikh et al. 2016, "decomposable attention").

    tokens: ([question,] reference, answer), each [batch, tokens, width]; masks: [batch, texts, tokens]; presence:
    [batch, texts]; vectors: pooled texts, each [batch, width]. Reference and answer read each other, the answer reads
    the question too. Where a text is absent, what it would be compared with contributes zeros. Returns logits
    [batch, n].
    """
    reference, answer = len(tokens) - 2, len(tokens) - 1
    left_of = [reference, answer] + [answer] * (len(tokens) - 2)
    right_of = [answer, reference] + [0] * (len(tokens) - 2)
    batch, length, width = tokens[0].shape
    rows = (batch * len(left_of), length)  # three axes from here on: a transposed product of four is no single product
    left = torch.stack([tokens[i] for i in left_of], 1).reshape(*rows, width)
    right = torch.stack([tokens[i] for i in right_of], 1).reshape(*rows, width)
    ask = left @ (parameters["attend.weight"] * width**-0.5)
    hidden = (masks[:, right_of].reshape(rows[0], 1, length) - 1.0) * -MASKED
    attention = torch.softmax(torch.bmm(ask, right.transpose(1, 2)) + hidden, -1)
    aligned = torch.bmm(attention, right)
    compared = torch.cat([left, aligned, left * aligned], -1) @ parameters["compare.weight"]
    compared = relu(compared + parameters["compare.bias"])
    valid = masks[:, left_of]
    share = valid * (presence[:, right_of].unsqueeze(-1) / valid.sum(-1, keepdim=True).clamp(min=1.0))
    summary = torch.bmm(share.reshape(rows[0], 1, length), compared).reshape(batch, len(left_of) * width)
    both = vectors[reference] * vectors[answer]
    joined = torch.cat([summary, both], -1) @ parameters["join.weight"] + parameters["join.bias"]
    return relu(joined) @ parameters["weight"] + parameters["bias"]
