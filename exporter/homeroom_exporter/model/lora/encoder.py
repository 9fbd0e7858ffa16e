"""A frozen transformer encoder with LoRA inside, forward and backward by hand.

Why by hand: a traced autograd step keeps what it does not need and passes over each activation a dozen times. Here W
and its LoRA product are one matrix, the sums of a backward pass are the additive term of the next multiplication,
constant factors are the multiplication's own, and the softmax's backward needs one sum of the small output (Dao et al.
2022, section 3.1, "D"). `check` compares all of it with torch's autograd of the plain textbook form.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from homeroom_exporter.model.lora.architectures import LINEARS, EncoderShape
from homeroom_exporter.model.lora.frozen_weights import matrix, rows_of
from homeroom_exporter.model.lora.unpadded_rows import UnpaddedRows

Weights = Mapping[str, Tensor]
Factors = Mapping[str, tuple[Tensor, Tensor]]  # by linear layer: A [rank, in], and B [out, rank] times its scaling
Saved = dict[str, Any]


def embed(shape: EncoderShape, weights: Weights, inputs: Tensor, rows: UnpaddedRows) -> Tensor:
    """What the first block reads, [n, width]. inputs: ids int64 [rows, tokens], or patches as `patched`."""
    if shape.modality == "image":
        count, patches, values = inputs.shape
        flat = inputs.reshape(count * patches, values)
        x = torch.addmm(weights["patches.bias"], flat, matrix(weights, "patches", flat).t())
        first = weights["first"].unsqueeze(0).expand(count, 1, shape.width)
        x = torch.cat([first, x.reshape(count, patches, -1)], 1) + weights["places"]
        return x.reshape(-1, shape.width)
    words = rows_of(weights, "words", rows.pack(inputs.reshape(-1)))
    return _norm(shape, weights, "norm.0", words + torch.embedding(weights["places"], rows.position))[0]


def forward(
    shape: EncoderShape, weights: Weights, factors: Factors, x: Tensor, rows: UnpaddedRows, *, keep: bool
) -> tuple[Tensor, list[Saved]]:
    """All blocks on x [n, width]; the last hidden states, and what `backward` needs of each block.

    keep: False saves one matrix [n, width] of each block, to compute the rest again; of the last block, which is needed
    at once, everything.
    """
    saved = []
    for i in range(shape.layers):
        y, kept = _block(shape, weights, factors, i, x, rows)
        if not keep and i < shape.layers - 1:
            kept = {name: kept[name] for name in (("x",) if shape.before else ("x", "norm.2")[i > 0 :])}
        saved.append(kept)
        x = y
    if shape.before:
        x, last = _norm(shape, weights, "norm.0", x)
        saved.append(last)
    return x, saved


def backward(
    shape: EncoderShape,
    weights: Weights,
    factors: Factors,
    saved: list[Saved],
    rows: UnpaddedRows,
    dx: Tensor,
    each: int | None = None,
) -> tuple[dict[str, tuple[Tensor, Tensor]], Tensor]:
    """Gradients of each A and of each scaled B, by linear layer, and of what the first block read; dx: of the result.

    each: so many samples that the rows belong to, in order; gradients are then each sample's own, [each, ...].
    """
    gradients: dict[str, tuple[Tensor, Tensor]] = {}
    if shape.before:
        dx = _norm_back(weights, "norm.0", saved[-1], dx)
    for i in reversed(range(shape.layers)):
        kept = saved[i]
        if "whole" not in kept:
            x = _again(shape, weights, saved, i, after=dx)
            kept = {**_block(shape, weights, factors, i, x, rows)[1], **kept}
        dx = _block_back(shape, weights, factors, i, kept, rows, dx, gradients, each)
    return gradients, dx


def _again(shape: EncoderShape, weights: Weights, saved: list[Saved], i: int, after: Tensor) -> Tensor:
    """What block i read, once `after` is there and not before: what the block before gave, which was not saved itself
    where a norm makes it of what was.
    """
    ready = 0.0 * after[:1, :1]
    if "x" in saved[i]:
        return torch.add(saved[i]["x"], ready)
    return _norm(shape, weights, f"{i - 1}.norm.2", saved[i - 1]["norm.2"]["x"] + ready)[0]


def _block(
    shape: EncoderShape, weights: Weights, factors: Factors, i: int, x: Tensor, rows: UnpaddedRows
) -> tuple[Tensor, Saved]:
    matrices: dict[str, Tensor] = {}
    kept: Saved = {"x": x, "whole": matrices}

    def linear(kind: str, value: Tensor, scale: float = 1.0) -> Tensor:
        """scale times the layer's product and bias."""
        name = f"{i}.{kind}"
        matrices[kind] = _whole(weights, factors, name, value)
        return torch.addmm(weights[f"{name}.bias"], value, matrices[kind].t(), beta=scale, alpha=scale)

    inside = x
    if shape.before:
        inside, kept["norm.1"] = _norm(shape, weights, f"{i}.norm.1", x)
    kept["inside"] = inside
    q = rows.split(linear("query", inside, _sharpness(shape)))
    k, v = (rows.split(linear(kind, inside)) for kind in ("key", "value"))
    scores = q @ k.transpose(-1, -2)
    if rows.bias is not None:
        scores = (scores.reshape(rows.count, -1, *scores.shape[1:]) + rows.bias).reshape(scores.shape)
    p = torch.softmax(scores, -1)
    context = p @ v
    kept |= {"q": q, "k": k, "v": v, "p": p, "context": context, "merged": rows.merge(context)}
    x = linear("out", kept["merged"]) + x
    if shape.before:
        inside, kept["norm.2"] = _norm(shape, weights, f"{i}.norm.2", x)
    else:
        x, kept["norm.1"] = _norm(shape, weights, f"{i}.norm.1", x)
        inside = x
    kept["middle"] = inside
    # GELU(z) = z Phi(z) = sqrt(1/2) u (1 + erf(u)), where u = sqrt(1/2) z.
    kept["u"] = linear("up", inside, math.sqrt(0.5))
    kept["e"] = torch.erf(kept["u"]) + 1.0
    matrices["down"] = _whole(weights, factors, f"{i}.down", kept["u"])
    down = kept["u"] * kept["e"], matrices["down"].t()
    x = torch.addmm(weights[f"{i}.down.bias"], *down, alpha=math.sqrt(0.5)) + x
    if not shape.before:
        x, kept["norm.2"] = _norm(shape, weights, f"{i}.norm.2", x)
    return x, kept


def _block_back(
    shape: EncoderShape,
    weights: Weights,
    factors: Factors,
    i: int,
    kept: Saved,
    rows: UnpaddedRows,
    dy: Tensor,
    gradients: dict[str, tuple[Tensor, Tensor]],
    each: int | None,
) -> Tensor:
    def learn(kind: str, value: Tensor, dy: Tensor, scale: float = 1.0) -> None:
        """The gradient of a layer's factors, where it has some; `scale` of the layer's product."""
        if f"{i}.{kind}" in factors:
            a, b = factors[f"{i}.{kind}"]
            da, db = _product(dy @ b, value, rows, each), _product(dy, value @ a.t(), rows, each)
            gradients[f"{i}.{kind}"] = (da, db) if scale == 1.0 else (da * scale, db * scale)

    def linear(kind: str, value: Tensor, dy: Tensor, plus: Tensor | None = None, scale: float = 1.0) -> Tensor:
        """The gradient of a layer's input, added to `plus`."""
        learn(kind, value, dy, scale)
        if plus is not None:
            return torch.addmm(plus, dy, kept["whole"][kind], alpha=scale)
        dx = dy @ kept["whole"][kind]
        return dx if scale == 1.0 else dx * scale

    if not shape.before:
        dy = _norm_back(weights, f"{i}.norm.2", kept["norm.2"], dy)
    u, e = kept["u"], kept["e"]
    learn("down", u * e, dy, math.sqrt(0.5))
    slope = e + u * torch.exp(math.log(2 / math.sqrt(math.pi)) - u * u)
    inner = (dy @ kept["whole"]["down"]) * slope  # lacks sqrt(1/2), which the next product has in its place
    if shape.before:
        inner = linear("up", kept["middle"], inner, scale=0.5)
        dx = dy + _norm_back(weights, f"{i}.norm.2", kept["norm.2"], inner)
    else:
        dx = _norm_back(weights, f"{i}.norm.1", kept["norm.1"], linear("up", kept["middle"], inner, dy, 0.5))
    q, k, v, p, context = (kept[name] for name in ("q", "k", "v", "p", "context"))
    dcontext = rows.split(linear("out", kept["merged"], dx), zeros=True)
    dv = p.transpose(-1, -2) @ dcontext
    dscores = p * (dcontext @ v.transpose(-1, -2) - (dcontext * context).sum(-1, keepdim=True))
    dq, dk = dscores @ k, dscores.transpose(-1, -2) @ q
    plus = None if shape.before else dx
    for kind, value, scale in (("key", dk, 1.0), ("value", dv, 1.0), ("query", dq, _sharpness(shape))):
        plus = linear(kind, kept["inside"], rows.merge(value), plus, scale)
    assert plus is not None
    return dx + _norm_back(weights, f"{i}.norm.1", kept["norm.1"], plus) if shape.before else plus


def _product(dy: Tensor, x: Tensor, rows: UnpaddedRows, each: int | None) -> Tensor:
    """dy^T x over all tokens, or over those of each sample: from its low-rank factors, one small product a sample."""
    if each is None:
        return dy.t() @ x
    dy, x = (rows.unpack(one).reshape(each, -1, one.shape[1]) for one in (dy, x))
    return dy.transpose(1, 2) @ x


def _sharpness(shape: EncoderShape) -> float:
    return float((shape.width // shape.heads) ** -0.5)


def _whole(weights: Weights, factors: Factors, name: str, after: Tensor) -> Tensor:
    """W + B A, float32 [out, in]: theta is added to what was dequantized and never quantized itself."""
    w = matrix(weights, name, after)
    if name not in factors:
        return w
    a, b = factors[name]
    return torch.addmm(w, b, a)


def _heads(shape: EncoderShape, x: Tensor, rows: int) -> Tensor:
    """[rows * tokens, width] -> [rows, heads, tokens, width / heads]."""
    return x.reshape(rows, -1, shape.heads, shape.width // shape.heads).transpose(1, 2)


def _norm(shape: EncoderShape, weights: Weights, name: str, x: Tensor) -> tuple[Tensor, Saved]:
    y, mean, rstd = torch.native_layer_norm(
        x, [shape.width], weights[f"{name}.gain"], weights[f"{name}.bias"], shape.epsilon
    )
    return y, {"x": x, "mean": mean, "rstd": rstd}


def _norm_back(weights: Weights, name: str, kept: Saved, dy: Tensor) -> Tensor:
    """rstd * (d - mean(d) - xhat * mean(d * xhat)), d = dy * gain, as x's multiple and a number a row."""
    x, mean, rstd, gain = kept["x"], kept["mean"], kept["rstd"], weights[f"{name}.gain"]
    d = dy * gain
    first = d.mean(-1, keepdim=True)
    second = ((d * x).mean(-1, keepdim=True) - mean * first) * rstd * rstd * rstd
    return d * rstd - x * second + (second * mean - first * rstd)


def tokens_of(shape: EncoderShape) -> int:
    """Tokens of a picture: its patches and the first."""
    return (shape.size // shape.patch) ** 2 + 1


def patched(shape: EncoderShape, pixels: Tensor) -> Tensor:
    """Normalised pixels [rows, 3, size, size] -> [rows, patches, 3 * patch * patch]."""
    side, p = shape.size // shape.patch, shape.patch
    x = pixels.reshape(-1, 3, side, p, side, p).permute(0, 2, 4, 1, 3, 5)
    return x.reshape(-1, side * side, 3 * p * p)


def plain(shape: EncoderShape, weights: Weights, factors: Factors, x: Tensor, rows: UnpaddedRows) -> Tensor:
    """The textbook form of `forward` on x [count * tokens, width], padding too, LoRA beside the frozen product.

    For torch's own autograd to differentiate.
    """
    f = torch.nn.functional

    def norm(name: str, value: Tensor) -> Tensor:
        return f.layer_norm(value, [shape.width], weights[f"{name}.gain"], weights[f"{name}.bias"], shape.epsilon)

    for i in range(shape.layers):

        def linear(kind: str, value: Tensor, i: int = i) -> Tensor:
            name = f"{i}.{kind}"
            y = f.linear(value, matrix(weights, name, value.detach()), weights[f"{name}.bias"])
            if name in factors:
                a, b = factors[name]
                y = y + value @ a.t() @ b.t()
            return y

        inside = norm(f"{i}.norm.1", x) if shape.before else x
        q, k, v = (_heads(shape, linear(kind, inside), rows.count) for kind in LINEARS[:3])
        scores = q @ k.transpose(-1, -2) / math.sqrt(shape.width // shape.heads)
        p = torch.softmax(scores if rows.bias is None else scores + rows.bias, -1)
        x = x + linear("out", (p @ v).transpose(1, 2).reshape(x.shape))
        x = x if shape.before else norm(f"{i}.norm.1", x)
        x = x + linear("down", f.gelu(linear("up", norm(f"{i}.norm.2", x) if shape.before else x)))
        x = x if shape.before else norm(f"{i}.norm.2", x)
    return norm("norm.0", x) if shape.before else x
