"""Task heads as pure functions of their parameters: fused, a pair of texts; those of one kind are with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
import torch
from torch import Tensor

from homeroom.contract.graph_io import FEATURES, named
from homeroom.contract.layout import Parameter, Segment
from homeroom.contract.manifest import Slot, Task
from homeroom_exporter.model.ladder import Parameters, attention, meaning, relu

UNIT_EPSILON = 1e-6


class EncodedInput(NamedTuple):
    """One input of every row after its ladder: tokens [batch, tokens, width], mask, pooled vector [batch, width]."""

    tokens: Tensor
    mask: Tensor
    vector: Tensor


@dataclass(frozen=True)
class HeadInputs:
    """The tensors that a task's head may read.

    places: of each slot that the task reads, in their order
    columns: of presence, as of `places`
    presence: [batch, inputs]
    fused: the fusion's vector [batch, width], for fused heads
    """

    reads: Sequence[str]
    places: Sequence[Sequence[EncodedInput]]
    columns: Sequence[Sequence[int]]
    presence: Tensor
    feeds: Mapping[str, Tensor]
    fused: Tensor | None

    def features(self, number: int) -> Tensor:
        """int8 [batch, count, taps, tokens, dim] of one of the slots."""
        return self.feeds[named(self.reads[number], FEATURES)]


def fits_any(reads: Sequence[Slot]) -> bool:
    """Any slots fit."""
    return True


@dataclass(frozen=True, kw_only=True)
class Head:
    """One head.

    parameters: (task, width of the model) to its parameters
    output: (parameters, inputs) to the task's output
    asked: (parameters, inputs, target) to what a loss reads of that output, [batch, tokens]; its target is one number
        a token (`graph_io.step_inputs`). None where a loss reads the whole output
    fits: whether it can read these slots; else `rule` says what it reads, with a remedy
    reads_text_tokens: it reads every token of a text, not only its vector
    """

    name: str
    parameters: Callable[[Task, int], tuple[Parameter, ...]]
    output: Callable[[Parameters, HeadInputs], Tensor]
    asked: Callable[[Parameters, HeadInputs, Tensor], Tensor] | None = None
    fits: Callable[[Sequence[Slot]], bool] = fits_any
    rule: str = ""
    remedy: str = ""
    reads_text_tokens: bool = False


def head_segment(task: Task, head: Head, reads: Sequence[str], width: int, added: Sequence[int] = ()) -> Segment:
    """`reads` are the features_ids of the slots that the task reads, in their order.

    added: numbers of labels that came later, each time with parameters of their own behind the others, so that the
        outputs of before are computed as before, bit for bit.
    """
    first = msgspec.structs.replace(task, width=task.width - sum(added))
    further = [
        Parameter(f"more{number}.{one.name}", (*one.shape[:-1], labels))
        for number, labels in enumerate(added)
        for one in head.parameters(first, width)[-2:]
    ]
    return Segment(
        name=f"head.{task.name}",
        parameters=(*head.parameters(first, width), *further),
        meaning=meaning(
            f"{head.name}/1",
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


def is_single(reads: Sequence[Slot]) -> bool:
    """Whether each slot holds one input."""
    return all(slot.count == 1 for slot in reads)


def linear_parameters(task: Task, width: int) -> tuple[Parameter, ...]:
    """Of a linear map from a vector to the output."""
    return Parameter("weight", (width, task.width)), Parameter("bias", (task.width,))


def cosine_parameters(width: int) -> tuple[Parameter, ...]:
    """Of the scaled cosine of two vectors."""
    return (
        Parameter("left.weight", (width, width)),
        Parameter("right.weight", (width, width)),
        Parameter("sharpness", (1,)),
    )


def fused(parameters: Parameters, vector: Tensor) -> Tensor:
    """vector: [batch, width] of the fusion; or tokens [batch, tokens, width]."""
    number, outputs = 0, [vector @ parameters["weight"] + parameters["bias"]]
    while f"more{number}.weight" in parameters:
        outputs.append(vector @ parameters[f"more{number}.weight"] + parameters[f"more{number}.bias"])
        number += 1
    return torch.cat(outputs, -1) if number else outputs[0]


def unit(x: Tensor) -> Tensor:
    """x scaled to length 1 along its last axis; zero stays zero."""
    return x * torch.rsqrt((x * x).sum(-1, keepdim=True) + UNIT_EPSILON)


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
    return fused(parameters, relu(joined))


def _fused_output(parameters: Parameters, inputs: HeadInputs) -> Tensor:
    assert inputs.fused is not None
    return fused(parameters, inputs.fused)


def _pair_parameters(task: Task, width: int) -> tuple[Parameter, ...]:
    directions = len(task.reads)
    return (
        Parameter("attend.weight", (width, width)),
        Parameter("compare.weight", (3 * width, width)),
        Parameter("compare.bias", (width,)),
        Parameter("join.weight", ((directions + 1) * width, width)),
        Parameter("join.bias", (width,)),
        *linear_parameters(task, width),
    )


def _pair_output(parameters: Parameters, inputs: HeadInputs) -> Tensor:
    here = inputs.presence[:, [columns[0] for columns in inputs.columns]]
    masks = torch.stack([one[0].mask for one in inputs.places], 1)
    tokens, vectors = [one[0].tokens for one in inputs.places], [one[0].vector for one in inputs.places]
    return pair(parameters, tokens, masks, here, vectors)


def _is_pair(reads: Sequence[Slot]) -> bool:
    return is_single(reads) and [slot.modality for slot in reads] in (["text"] * 2, ["text"] * 3)


FUSED = Head(name="fused", parameters=linear_parameters, output=_fused_output)
PAIR = Head(
    name="pair",
    parameters=_pair_parameters,
    output=_pair_output,
    fits=_is_pair,
    rule="a pair head reads two or three single texts",
    remedy="([question,] reference, answer)",
    reads_text_tokens=True,
)
