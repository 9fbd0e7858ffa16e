"""Task heads as pure functions of their parameters: fused, choice, matching, pair of texts, spans, tracing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from homeroom.contract.layout import Parameter, Segment
from homeroom.contract.manifest import Task
from homeroom_exporter.model.ladder import MASKED, Parameters, attention, meaning, relu, rms

HeadKind = Literal["fused", "choice", "matching", "pair", "spans", "tracing"]
UNIT_EPSILON = 1e-6
MEMORIES = (0.002, 0.02, 0.08, 0.3)  # of a tracer: first rates of forgetting, an interaction
COUNTS, UNITS = 2 * len(MEMORIES), 16  # of a skill: right and wrong by each rate; hidden units that read them


def head_segment(task: Task, kind: HeadKind, reads: Sequence[str], width: int, hidden: int) -> Segment:
    """`reads` are the features_ids of the slots that the task reads, in their order."""
    parameters: tuple[Parameter, ...]
    if kind in ("fused", "spans"):
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
    elif kind == "tracing":
        parameters = (
            Parameter("rates", (len(MEMORIES),)),
            Parameter("slopes", (task.width, COUNTS)),
            Parameter("up.weight", (COUNTS, UNITS)),
            Parameter("all.weight", (COUNTS, UNITS)),
            Parameter("up.bias", (UNITS,)),
            Parameter("down.weight", (UNITS, 1)),
            Parameter("memory.weight", (width, len(MEMORIES) * width)),
            Parameter("context", (width, task.width)),
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
    """vector: [batch, width] of the fusion; or tokens [batch, tokens, width], for spans."""
    return vector @ parameters["weight"] + parameters["bias"]


def unit(x: Tensor) -> Tensor:
    """x scaled to length 1 along its last axis; zero stays zero."""
    return x * torch.rsqrt((x * x).sum(-1, keepdim=True) + UNIT_EPSILON)


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
    seen = masks[:, right_of].reshape(rows[0], 1, length)
    aligned = torch.bmm(attention(torch.bmm(ask, right.transpose(1, 2)), seen), right)
    compared = torch.cat([left, aligned, left * aligned], -1) @ parameters["compare.weight"]
    compared = relu(compared + parameters["compare.bias"])
    valid = masks[:, left_of]
    share = valid * (presence[:, right_of].unsqueeze(-1) / valid.sum(-1, keepdim=True).clamp(min=1.0))
    summary = torch.bmm(share.reshape(rows[0], 1, length), compared).reshape(batch, len(left_of) * width)
    both = vectors[reference] * vectors[answer]
    joined = torch.cat([summary, both], -1) @ parameters["join.weight"] + parameters["join.bias"]
    return relu(joined) @ parameters["weight"] + parameters["bias"]


def tracing(parameters: Parameters, answers: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
    """What is to be expected after each token of a sequence, of which it sees those until then: [batch, tokens, n].

    answers: [batch, tokens, 2n], 1.0 for the skill that was answered, wrong or right; tokens: [batch, tokens, width];
    mask: [batch, tokens]. Two readings are added. One counts each skill's own answers, as regression tracers do (PFA,
    Pavlik et al. 2009; Best-LR, Gervet et al. 2020), but with four rates of forgetting; slopes are a skill's own,
    hidden units all skills'. The other sums up the tokens by the same rates, whatever the skill (retention, Sun et al.
    2023, equation 5, without queries: a recurrent tracer, Piech et al. 2015, in which no step waits for the last).
    """
    batch, length, width = tokens.shape
    skills, count = answers.shape[2] // 2, len(MEMORIES)
    distance = torch.arange(length, dtype=torch.float32).reshape(-1, 1) - torch.arange(length, dtype=torch.float32)
    rates = (torch.tensor(MEMORIES) * torch.exp(parameters["rates"])).reshape(1, -1, 1)
    kept = torch.exp(-rates * distance.clamp(min=0.0).unsqueeze(1)) * (distance >= 0).to(torch.float32).unsqueeze(1)
    sums = kept.reshape(length * count, length) @ answers.permute(1, 0, 2).reshape(length, -1)
    sums = sums.reshape(length, count, batch, skills, 2).permute(2, 0, 3, 1, 4).reshape(-1, skills, COUNTS)
    own, every = torch.log(1.0 + sums), torch.log(1.0 + sums.sum(1))
    hidden = (own.reshape(-1, COUNTS) @ parameters["up.weight"]).reshape(-1, skills, UNITS)
    hidden = relu(hidden + (every @ parameters["all.weight"] + parameters["up.bias"]).unsqueeze(1))
    logits = (hidden.reshape(-1, UNITS) @ parameters["down.weight"]).reshape(-1, skills)
    logits = logits + (own * parameters["slopes"]).sum(-1) + parameters["bias"]
    kept = (kept * torch.sqrt(rates)).reshape(length, count * length)  # memories of all lengths vary alike
    seen = (tokens * mask.unsqueeze(-1)).reshape(-1, width) @ parameters["memory.weight"]
    seen = seen.reshape(batch, length, count, width).permute(2, 1, 0, 3).reshape(count * length, batch * width)
    memory = (kept @ seen).reshape(length, batch, width).permute(1, 0, 2).reshape(-1, width)
    return (logits + relu(rms(memory)) @ parameters["context"]).reshape(batch, length, skills)
