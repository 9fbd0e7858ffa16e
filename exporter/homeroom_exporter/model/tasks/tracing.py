"""Tracing: after each interaction of one sequence one logit a skill, from memories of what was right and wrong."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

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


def _steps(features: Tensor) -> Tensor:
    """Of a sequence's features [batch, 1, 1, tokens, dim] the steps, INT8_LIMIT for 1.0 [batch, tokens, dim]."""
    return features.reshape(len(features), *features.shape[3:]).to(torch.float32)


def _interactions(features: Tensor) -> Tensor:
    """Of a sequence's features what was answered, 0.0 or 1.0 [batch, tokens, 2 skills]."""
    return torch.relu(_steps(features)[:, :, FIRST_SKILL_COLUMN:]) * (1 / INT8_LIMIT)


def tracing(parameters: Parameters, answers: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
    """What is to be expected after each token of a sequence, of which it sees those until then: [batch, tokens, n].

    answers: [batch, tokens, 2n], 1.0 for the skill that was answered, wrong or right; tokens: [batch, tokens, width];
    mask: [batch, tokens]. Two readings are added. One counts each skill's own answers, as regression tracers do (PFA,
    Pavlik et al. 2009; Best-LR, Gervet et al. 2020), but with four rates of forgetting; slopes are a skill's own,
    hidden units all skills'. The other sums up the tokens by the same rates, whatever the skill (retention, Sun et al.
    2023, equation 5, without queries: a recurrent tracer, Piech et al. 2015, in which no step waits for the last).
    """
    batch, length, _ = tokens.shape
    skills, count = answers.shape[2] // 2, len(MEMORIES)
    kept = _kept(_rates(parameters), length)
    sums = kept.reshape(length * count, length) @ answers.permute(1, 0, 2).reshape(length, -1)
    sums = sums.reshape(length, count, batch, skills, 2).permute(2, 0, 3, 1, 4).reshape(-1, skills, COUNTS)
    own, every = torch.log(1.0 + sums), torch.log(1.0 + sums.sum(1))
    hidden = (own.reshape(-1, COUNTS) @ parameters["up.weight"]).reshape(-1, skills, UNITS)
    hidden = relu(hidden + (every @ parameters["all.weight"] + parameters["up.bias"]).unsqueeze(1))
    logits = (hidden.reshape(-1, UNITS) @ parameters["down.weight"]).reshape(-1, skills)
    logits = logits + (own * parameters["slopes"]).sum(-1) + parameters["bias"]
    memory = _memory(parameters, tokens, mask)
    return (logits + memory @ parameters["context"]).reshape(batch, length, skills)


def traced(parameters: Parameters, steps: Tensor, tokens: Tensor, mask: Tensor, asked: Tensor) -> Tensor:
    """`tracing` at one skill a token alone, [batch, tokens]; nothing is computed of the others.

    steps: [batch, tokens, first columns + 2n], `answers` last, at most one a token and INT8_LIMIT in place of 1.0;
    asked: the skill's number from 1, [batch, tokens]; where it is 0, the value has no meaning. Others as of `tracing`.
    """
    batch, length, width = tokens.shape
    skills, count = len(parameters["bias"]), len(MEMORIES)
    kept = _kept(_rates(parameters), length)
    number, outcome = torch.arange(1.0, skills + 1).repeat_interleave(2), torch.eye(2).repeat(skills, 1)
    columns = torch.cat([number.unsqueeze(1) * outcome, outcome], 1)
    columns = torch.cat([torch.zeros(FIRST_SKILL_COLUMN, 4), columns], 0)
    answered = steps.reshape(batch * length, -1) @ columns
    answered = answered.reshape(batch, length, 2, 2).permute(2, 1, 0, 3).reshape(2, length, 2 * batch)
    wanted = (asked * INT8_LIMIT).t().unsqueeze(-1).expand(length, batch, 2).reshape(length, 1, 2 * batch)
    same = torch.relu(1.0 - (answered[0] - wanted).abs())  # [asked at, answered at, row and outcome]: 1.0 or 0.0
    own, every = torch.bmm(kept, same), kept.reshape(length * count, length) @ (answered[1] * (1 / INT8_LIMIT))
    own, every = (
        torch.log(1.0 + sums.reshape(length, count, batch, 2).permute(2, 0, 1, 3).reshape(-1, COUNTS))
        for sums in (own, every)
    )
    hidden = own @ parameters["up.weight"] + every @ parameters["all.weight"] + parameters["up.bias"]
    logits = (relu(hidden) @ parameters["down.weight"]).reshape(-1)
    table = [parameters["slopes"], parameters["bias"].unsqueeze(1), parameters["context"].t()]
    chosen = torch.relu(1.0 - (asked.reshape(-1, 1) - torch.arange(1.0, skills + 1)).abs()) @ torch.cat(table, 1)
    slopes, bias, context = chosen.split([COUNTS, 1, width], 1)
    logits = logits + (own * slopes).sum(-1) + bias.reshape(-1)
    memory = _memory(parameters, tokens, mask)
    return (logits + (memory * context).sum(-1)).reshape(batch, length)


def _rates(parameters: Parameters) -> Tensor:
    """Rates of forgetting, [1, rates, 1]."""
    return (torch.tensor(MEMORIES) * torch.exp(parameters["rates"])).reshape(1, -1, 1)


def _kept(rates: Tensor, length: int) -> Tensor:
    """What each token keeps of those until it, [length, rates, length]."""
    distance = torch.arange(length, dtype=torch.float32).reshape(-1, 1) - torch.arange(length, dtype=torch.float32)
    return torch.exp(-rates * distance.clamp(min=0.0).unsqueeze(1)) * (distance >= 0).to(torch.float32).unsqueeze(1)


def _memory(parameters: Parameters, tokens: Tensor, mask: Tensor) -> Tensor:
    """What the tokens until each one leave, whatever the skill: [batch * tokens, width].

    Summed up in chunks, and from chunk to chunk: of all pairs of tokens half are of no order, and most are far apart.
    """
    batch, length, width = tokens.shape
    size = _chunk(length)
    chunks, columns = length // size, length // size * batch * width
    inputs = (tokens * mask.unsqueeze(-1)).reshape(batch, chunks, size, width).permute(2, 1, 0, 3).reshape(-1, width)
    rates = _rates(parameters)
    scale = torch.sqrt(rates)  # memories of all lengths vary alike
    within = _kept(rates, size) * scale
    seen = [(inputs @ weight).reshape(size, columns) for weight in parameters["memory.weight"].split(width, 1)]
    sums = [within[:, rate] @ one for rate, one in enumerate(seen)]
    ends = [torch.mm(within[size - 1 :, rate], one).reshape(chunks, -1) for rate, one in enumerate(seen)]
    steps = torch.arange(1.0, size + 1).reshape(1, size, 1, 1)
    before = torch.arange(chunks, dtype=torch.float32)
    before = (before.reshape(-1, 1) - before - 1.0).reshape(chunks, 1, 1, chunks)  # whole chunks between
    carried = torch.exp(-rates.unsqueeze(0) * (before.clamp(min=0.0) * size + steps)) * (before >= 0).to(torch.float32)
    carried = carried.permute(1, 0, 2, 3).reshape(length, -1) @ torch.cat(ends, 0)
    memory = reduce(torch.add, sums, carried.reshape(size, columns)).reshape(size, chunks, batch, width)
    return relu(rms(memory.permute(2, 1, 0, 3).reshape(-1, width)))


def _chunk(length: int) -> int:
    """The divisor of a length that is nearest to its root."""
    return min((n for n in range(1, length + 1) if length % n == 0), key=lambda n: abs(n - length**0.5))


def _output(parameters: Parameters, inputs: HeadInputs) -> Tensor:
    (place,) = inputs.places[0]
    return tracing(parameters, _interactions(inputs.features(0)), place.tokens, place.mask)


def _asked(parameters: Parameters, inputs: HeadInputs, target: Tensor) -> Tensor:
    (place,) = inputs.places[0]
    return traced(parameters, _steps(inputs.features(0)), place.tokens, place.mask, target.abs())


def _fits(reads: Sequence[Slot]) -> bool:
    return is_single(reads) and [slot.modality for slot in reads] == ["sequence"]


def _loss(output: Tensor, target: Tensor) -> Tensor:
    """output, target: [batch, tokens]; mean over what was asked."""
    asked, right = target.abs().clamp(max=1.0), torch.relu(target).clamp(max=1.0)
    return (asked * binary_terms(output, right)).sum(1) / asked.sum(1).clamp(min=1.0)


def _width(labels: Sequence[str], reads: Sequence[Slot]) -> int:
    return len(labels) or 1


def _example_target(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    *tokens, skills = shape
    return np.asarray(rng.integers(1, skills + 1, tokens) * rng.integers(-1, 2, tokens), np.float32)


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
        asked=_asked,
        fits=_fits,
        rule="tracing reads one single sequence slot",
    ),
)
