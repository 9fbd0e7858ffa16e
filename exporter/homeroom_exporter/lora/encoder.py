"""A frozen transformer encoder with LoRA inside, forward and backward by hand; torch.

Why by hand: a traced autograd step keeps what it does not need and passes over each activation a dozen times. Here W
and its LoRA product are one matrix for the length of one multiplication, the sums of a backward pass are the additive
term of the next multiplication, and the softmax's backward needs one sum of the small output (Dao et al. 2022, section
3.1, "D"). `check` compares all of it with torch's autograd of the plain textbook form.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from homeroom_exporter.lora.frozen import matrix, rows_of
from homeroom_exporter.lora.shapes import LINEARS, Shape

MASKED = -1e4
Weights = Mapping[str, Tensor]
Factors = Mapping[str, tuple[Tensor, Tensor]]  # by linear layer: A [rank, in], and B [out, rank] times its scaling
Saved = dict[str, Any]


def embed(shape: Shape, weights: Weights, inputs: Tensor) -> Tensor:
    """What the first block reads, [rows * tokens, width]. inputs: ids int64 [rows, tokens], or patches as `patched`."""
    if shape.modality == "image":
        rows, count, values = inputs.shape
        flat = inputs.reshape(rows * count, values)
        x = torch.addmm(weights["patches.bias"], flat, matrix(weights, "patches", flat).t())
        first = weights["first"].unsqueeze(0).expand(rows, 1, shape.width)
        x = torch.cat([first, x.reshape(rows, count, -1)], 1) + weights["places"]
        return x.reshape(-1, shape.width)
    rows, tokens = inputs.shape
    x = rows_of(weights, "words", inputs.reshape(-1)).reshape(rows, tokens, -1) + weights["places"][:tokens]
    return _norm(shape, weights, "norm.0", x.reshape(-1, shape.width))[0]


def forward(
    shape: Shape, weights: Weights, factors: Factors, x: Tensor, bias: Tensor | None, *, keep: bool
) -> tuple[Tensor, list[Saved]]:
    """All blocks on x [rows * tokens, width]; the last hidden states, and what `backward` needs of each block.

    bias: [rows, 1, 1, tokens], 0 or MASKED. keep: False saves the input of each block alone, to compute it again.
    """
    saved = []
    for i in range(shape.layers):
        y, kept = _block(shape, weights, factors, i, x, bias)
        saved.append(kept if keep else {"x": x})
        x = y
    if shape.before:
        x, last = _norm(shape, weights, "norm.0", x)
        saved.append(last)
    return x, saved


def backward(
    shape: Shape, weights: Weights, factors: Factors, saved: list[Saved], bias: Tensor | None, dx: Tensor
) -> dict[str, tuple[Tensor, Tensor]]:
    """Gradients of each A and of each scaled B, by linear layer; dx: [rows * tokens, width] of `forward`'s result."""
    gradients: dict[str, tuple[Tensor, Tensor]] = {}
    if shape.before:
        dx = _norm_back(weights, "norm.0", saved[-1], dx)
    for i in reversed(range(shape.layers)):
        kept = saved[i]
        if len(kept) == 1:  # compute the block again, once the gradient is there and not before
            again = kept["x"] + 0.0 * dx.reshape(-1)[:1]
            kept = _block(shape, weights, factors, i, again, bias)[1]
        dx = _block_back(shape, weights, factors, i, kept, dx, gradients)
    return gradients


def _block(
    shape: Shape, weights: Weights, factors: Factors, i: int, x: Tensor, bias: Tensor | None
) -> tuple[Tensor, Saved]:
    kept: Saved = {"x": x}

    def linear(kind: str, value: Tensor) -> Tensor:
        name = f"{i}.{kind}"
        return torch.addmm(weights[f"{name}.bias"], value, _whole(weights, factors, name, value).t())

    inside = x
    if shape.before:
        inside, kept["norm.1"] = _norm(shape, weights, f"{i}.norm.1", x)
    kept["inside"] = inside
    rows = bias.shape[0] if bias is not None else x.shape[0] // tokens_of(shape)
    q, k, v = (_heads(shape, linear(kind, inside), rows) for kind in ("query", "key", "value"))
    scores = (q @ k.transpose(-1, -2)) * (shape.width // shape.heads) ** -0.5
    p = torch.softmax(scores if bias is None else scores + bias, -1)
    context = _flat(p @ v)
    kept |= {"q": q, "k": k, "v": v, "p": p, "context": context}
    x = linear("out", context) + x
    if shape.before:
        inside, kept["norm.2"] = _norm(shape, weights, f"{i}.norm.2", x)
    else:
        x, kept["norm.1"] = _norm(shape, weights, f"{i}.norm.1", x)
        inside = x
    kept["middle"] = inside
    kept["up"] = linear("up", inside)
    kept["active"] = torch.nn.functional.gelu(kept["up"])
    x = linear("down", kept["active"]) + x
    if not shape.before:
        x, kept["norm.2"] = _norm(shape, weights, f"{i}.norm.2", x)
    return x, kept


def _block_back(
    shape: Shape,
    weights: Weights,
    factors: Factors,
    i: int,
    kept: Saved,
    dy: Tensor,
    gradients: dict[str, tuple[Tensor, Tensor]],
) -> Tensor:
    def linear(kind: str, value: Tensor, dy: Tensor, plus: Tensor | None) -> Tensor:
        """The gradient of a linear layer's input, added to `plus`; that of its factors goes to `gradients`."""
        name = f"{i}.{kind}"
        if name in factors:
            a, b = factors[name]
            gradients[name] = ((dy @ b).t() @ value, dy.t() @ (value @ a.t()))
        whole = _whole(weights, factors, name, dy)
        return dy @ whole if plus is None else torch.addmm(plus, dy, whole)

    if not shape.before:
        dy = _norm_back(weights, f"{i}.norm.2", kept["norm.2"], dy)
    inner = _gelu_back(kept["up"], linear("down", kept["active"], dy, None))
    if shape.before:
        dx = dy + _norm_back(weights, f"{i}.norm.2", kept["norm.2"], linear("up", kept["middle"], inner, None))
    else:
        dx = _norm_back(weights, f"{i}.norm.1", kept["norm.1"], linear("up", kept["middle"], inner, dy))
    q, k, v, p, context = (kept[name] for name in ("q", "k", "v", "p", "context"))
    rows = q.shape[0]
    dflat = linear("out", context, dx, None)
    dcontext = _heads(shape, dflat, rows)
    sums = (dflat * context).reshape(rows, -1, shape.heads, shape.width // shape.heads).sum(-1, keepdim=True)
    dv = p.transpose(-1, -2) @ dcontext
    dscores = p * (dcontext @ v.transpose(-1, -2) - sums.transpose(1, 2))
    scale = (shape.width // shape.heads) ** -0.5
    dq, dk = (dscores @ k) * scale, (dscores.transpose(-1, -2) @ q) * scale
    plus = None if shape.before else dx
    for kind, value in (("query", dq), ("key", dk), ("value", dv)):
        plus = linear(kind, kept["inside"], _flat(value), plus)
    assert plus is not None
    return dx + _norm_back(weights, f"{i}.norm.1", kept["norm.1"], plus) if shape.before else plus


def _whole(weights: Weights, factors: Factors, name: str, after: Tensor) -> Tensor:
    """W + B A, float32 [out, in]: theta is added to what was dequantized and never quantized itself."""
    w = matrix(weights, name, after)
    if name not in factors:
        return w
    a, b = factors[name]
    return torch.addmm(w, b, a)


def _heads(shape: Shape, x: Tensor, rows: int) -> Tensor:
    """[rows * tokens, width] -> [rows, heads, tokens, width / heads]."""
    return x.reshape(rows, -1, shape.heads, shape.width // shape.heads).transpose(1, 2)


def _flat(x: Tensor) -> Tensor:
    """The inverse of `_heads`."""
    rows, heads, tokens, depth = x.shape
    return x.transpose(1, 2).reshape(rows * tokens, heads * depth)


def _norm(shape: Shape, weights: Weights, name: str, x: Tensor) -> tuple[Tensor, Saved]:
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


def _gelu_back(x: Tensor, dy: Tensor) -> Tensor:
    """dy * (Phi(x) + x phi(x))."""
    density = torch.exp(x * x * -0.5) * (1 / math.sqrt(2 * math.pi))
    return dy * (torch.erf(x * math.sqrt(0.5)) * 0.5 + 0.5 + x * density)


def tokens_of(shape: Shape) -> int:
    """Tokens of a picture: its patches and the first."""
    return (shape.size // shape.patch) ** 2 + 1


def patched(shape: Shape, pixels: Tensor) -> Tensor:
    """Normalised pixels [rows, 3, size, size] -> [rows, patches, 3 * patch * patch]."""
    side, p = shape.size // shape.patch, shape.patch
    x = pixels.reshape(-1, 3, side, p, side, p).permute(0, 2, 4, 1, 3, 5)
    return x.reshape(-1, side * side, 3 * p * p)


def plain(shape: Shape, weights: Weights, factors: Factors, x: Tensor, bias: Tensor | None) -> Tensor:
    """The textbook form of `forward`, LoRA beside the frozen product, for torch's own autograd to differentiate."""
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
        rows = bias.shape[0] if bias is not None else x.shape[0] // tokens_of(shape)
        q, k, v = (_heads(shape, linear(kind, inside), rows) for kind in LINEARS[:3])
        scores = q @ k.transpose(-1, -2) / math.sqrt(shape.width // shape.heads)
        x = x + linear("out", _flat(torch.softmax(scores if bias is None else scores + bias, -1) @ v))
        x = x if shape.before else norm(f"{i}.norm.1", x)
        x = x + linear("down", f.gelu(linear("up", norm(f"{i}.norm.2", x) if shape.before else x)))
        x = x if shape.before else norm(f"{i}.norm.2", x)
    return norm("norm.0", x) if shape.before else x
