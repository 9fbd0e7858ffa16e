"""The ladder of a modality and the fusion of modalities, as pure functions of their parameters.

Both are small and made of few, large operations: the step is run by a plain graph runtime on a small machine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor

from homeroom.contract.layout import Parameter, Segment
from homeroom.contract.manifest import ABSENT_SCORE, Modality

NORM_EPSILON = 1e-5
MASKED = -ABSENT_SCORE
FAINT = 50.0
STEEP = 1e30
POSITIONS_LIMIT = 16  # a modality of at most so many tokens, a fixed number, learns one vector for each place

Parameters = Mapping[str, Tensor]


def meaning(kind: str, **settings: object) -> str:
    """The kind of a module and its settings as one canonical string; part of the segment's identity."""
    return f"{kind} {json.dumps(settings, sort_keys=True, separators=(',', ':'))}"


class _Rms(torch.autograd.Function):  # type: ignore[misc]
    """Root-mean-square normalisation with its gradient by hand: half the passes over x that autograd's takes."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        inverse = torch.rsqrt((x * x).mean(-1, keepdim=True) + NORM_EPSILON)
        return x * inverse, inverse

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(*output)
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> Tensor:
        normal, inverse = ctx.saved_tensors
        return inverse * (gradient - normal * (gradient * normal).mean(-1, keepdim=True))


def rms(x: Tensor) -> Tensor:
    """Root-mean-square normalisation of the last axis (Zhang and Sennrich 2019), without a gain of its own."""
    return cast(Tensor, _Rms.apply(x)[0])


class _Gate(torch.autograd.Function):  # type: ignore[misc]
    """ReLU whose gradient is a product with 0 or 1: onnxruntime's Where and Sign are several times slower than Mul."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.relu(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (output,) = ctx.saved_tensors
        return gradient * (output * STEEP).clamp(max=1.0)


def relu(x: Tensor) -> Tensor:
    """max(x, 0), see `_Gate`."""
    return cast(Tensor, _Gate.apply(x))


def block(parameters: Parameters, x: Tensor) -> Tensor:
    """A residual block of two layers on x [..., width]."""
    inner = relu(rms(x) @ parameters["up.weight"] + parameters["up.bias"])
    return x + inner @ parameters["down.weight"]


def has_positions(modality: Modality) -> bool:
    """Whether a modality learns one vector for each of its tokens."""
    return modality.name == "image" and modality.buckets[-1] <= POSITIONS_LIMIT


def columns(x: Tensor) -> list[Tensor]:
    """x [batch, n, ...] as n tensors [batch, ...]; one Split, whose gradient is one Concat."""
    return [one.squeeze(1) for one in torch.split(x, 1, 1)]


def ladder_segment(modality: Modality, width: int, hidden: int) -> Segment:
    """A modality's segment of theta."""
    positions = modality.buckets[-1] if has_positions(modality) else 0
    return Segment(
        name=f"ladder.{modality.name}",
        parameters=(
            Parameter("in.weight", (len(modality.taps) * modality.dim, width)),
            Parameter("in.bias", (width,)),
            *((Parameter("positions", (positions, width)),) if positions else ()),
            Parameter("up.weight", (width, hidden)),
            Parameter("up.bias", (hidden,)),
            Parameter("down.weight", (hidden, width)),
            Parameter("pool.weight", (width, 1)),
            Parameter("out.weight", (width, width)),
            Parameter("out.bias", (width,)),
        ),
        meaning=meaning("ladder/1", width=width, hidden=hidden, positions=positions),
        reads=(modality.features_id,),
        modality=modality.name,
    )


def climb(parameters: Parameters, features: Tensor, scale: Tensor) -> Tensor:
    """Features int8 [rows, taps, tokens, dim] to ladder tokens float32 [rows, tokens, width].

    scale: float32 [taps, dim]. It is folded into the first weight, so that no dequantised copy is made.
    """
    rows, taps, tokens, dim = features.shape
    x = features.permute(0, 2, 1, 3).reshape(rows * tokens, taps * dim).to(torch.float32)
    h = x @ (parameters["in.weight"] * scale.reshape(-1, 1)) + parameters["in.bias"]
    if "positions" in parameters:
        h = (h.reshape(rows, -1) + parameters["positions"].reshape(-1)).reshape(rows * tokens, -1)
    return block(parameters, rms(h)).reshape(rows, tokens, -1)


def pool(parameters: Parameters, h: Tensor, mask: Tensor, presence: Tensor) -> Tensor:
    """Tokens h [rows, tokens, width] to one vector a row [rows, width]: attention with one learned query.

    mask: [rows, tokens]; presence: [rows, 1]. An absent row gives zeros, and no gradient.
    """
    weights = attention((h @ parameters["pool.weight"]).squeeze(-1), mask).unsqueeze(1)
    pooled = (weights @ h).squeeze(1)
    return rms(pooled @ parameters["out.weight"] + parameters["out.bias"]) * presence


def attention(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the last axis, of those that `mask` has; 0 for the others.

    These are made faint first, not nothing: the exponential of -10,000 is a denormal number, which processors are slow
    with. Where a third of the tokens was padding, a training step took 4 % longer for such numbers.
    """
    return torch.softmax(scores + (mask - 1.0) * FAINT, -1) * mask


def fusion_segment(width: int, hidden: int) -> Segment:
    """The fusion's segment of theta."""
    return Segment(
        name="fusion",
        parameters=(
            Parameter("query", (width, 1)),
            Parameter("up.weight", (width, hidden)),
            Parameter("up.bias", (hidden,)),
            Parameter("down.weight", (hidden, width)),
        ),
        meaning=meaning("fusion/1", width=width, hidden=hidden),
    )


def fuse(parameters: Parameters, pooled: Tensor, presence: Tensor, members: Tensor) -> Tensor:
    """Pooled inputs [batch, inputs, width] to one vector for each set of inputs, [batch, sets, width].

    presence: [batch, inputs]; members: [sets, inputs], 1.0 where a set reads an input. Any subset may be present; with
    none the result is zero before the block. A presence of 1 + ln(w) / ABSENT multiplies an input's attention by w.
    """
    scores = (pooled @ parameters["query"]).transpose(1, 2)
    mask = presence.unsqueeze(1) * members
    weights = torch.softmax(scores + (mask - 1.0) * -MASKED, -1) * mask
    return block(parameters, weights @ pooled)
