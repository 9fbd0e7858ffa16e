"""Tracing: after each interaction of one sequence one logit a skill, from memories of what was right and wrong."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from homeroom.contract.layout import Parameter
from homeroom.contract.manifest import Slot, Task
from homeroom.data.preprocess.sequence import FIRST_SKILL_COLUMN
from homeroom_exporter.model.heads import Head, HeadInputs, is_single
from homeroom_exporter.model.ladder import Parameters, relu, rms
from homeroom_exporter.model.tasks.base import ExportedKind, binary_terms
from homeroom_exporter.quantize.compress import INT8_LIMIT

MEMORIES = (0.002, 0.02, 0.08, 0.3)  # of a tracer: first rates of forgetting, an interaction
COUNTS, UNITS = 2 * len(MEMORIES), 16  # of a skill: right and wrong by each rate; hidden units that read them


def _parameters(task: Task, width: int) -> tuple[Parameter, ...]:
    return (
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


def _interactions(features: Tensor) -> Tensor:
    """Of a sequence's features [batch, 1, 1, tokens, dim] what was answered, 0.0 or 1.0 [batch, tokens, 2 skills]."""
    steps = features.reshape(len(features), *features.shape[3:]).to(torch.float32)
    return torch.relu(steps[:, :, FIRST_SKILL_COLUMN:]) * (1 / INT8_LIMIT)


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


def _output(parameters: Parameters, inputs: HeadInputs) -> Tensor:
    (place,) = inputs.places[0]
    return tracing(parameters, _interactions(inputs.features(0)), place.tokens, place.mask)


def _fits(reads: Sequence[Slot]) -> bool:
    return is_single(reads) and [slot.modality for slot in reads] == ["sequence"]


def _loss(output: Tensor, target: Tensor) -> Tensor:
    asked = target.abs()
    return (asked * binary_terms(output, torch.relu(target))).sum((1, 2)) / asked.sum((1, 2)).clamp(min=1.0)


def _width(labels: Sequence[str], reads: Sequence[Slot]) -> int:
    return len(labels) or 1


def _example_target(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    asked = np.eye(shape[-1], dtype=np.float32)[rng.integers(0, shape[-1], shape[:-1])]
    return np.asarray(asked * rng.integers(-1, 2, shape[:-1]).astype(np.float32)[..., None])


TRACING = ExportedKind(
    name="tracing",
    loss=_loss,
    width=_width,
    labels_are_skills=True,
    example_target=_example_target,
    head=Head(
        name="tracing",
        parameters=_parameters,
        output=_output,
        fits=_fits,
        rule="tracing reads one single sequence slot",
    ),
)
