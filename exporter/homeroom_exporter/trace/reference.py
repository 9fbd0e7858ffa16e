"""The reference of a step: torch's own results, untraced, with LoRA in its textbook form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from homeroom.contract import graph_io as io
from homeroom_exporter.model.design import Design, name_parts, unflatten
from homeroom_exporter.model.forward import forward, lora_rows, objective


def by_autograd(design: Design, role: str, theta: np.ndarray, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The results of a step by their names; `feeds` as the graph's, and frozen weights in place of the design's own."""
    frozen = design.adapter.frozen.arrays if design.adapter else {}
    values = {name: torch.from_numpy(value) for name, value in {**frozen, **feeds}.items()}
    if role == "predict":
        parts, seen, _ = _textbook(design, theta, values)
        outputs = forward(design, parts, seen)
        return {io.named(name, io.OUTPUT): value.detach().numpy() for name, value in outputs.items()}
    if role == "saliency":
        return _by_features(design, theta, values)
    losses, gradient = _gradient(design, theta, values)
    if role == "grad_heads":
        for segment in (segment for segment in design.layout if segment.task is None):
            gradient[design.layout.slices[segment.name]] = 0.0
    if role in ("grad", "grad_heads"):
        return {io.LOSSES: losses, io.GRADIENT: gradient}
    groups, clip = feeds[io.GROUPS], float(feeds[io.CLIP][0])
    clipped, norms = np.zeros_like(gradient), np.zeros(len(groups), np.float32)
    for number in range(len(groups)):
        weights = torch.from_numpy(feeds[io.WEIGHTS] * (groups == number)[:, None])
        gradient = _gradient(design, theta, {**values, io.WEIGHTS: weights})[1]
        norms[number] = np.linalg.norm(gradient)
        clipped += gradient * min(1.0, clip / max(float(norms[number]), 1e-12))
    return {io.LOSSES: losses, io.GRADIENT: clipped, io.NORMS: norms}


def _textbook(
    design: Design, theta: np.ndarray, values: Mapping[str, Tensor]
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor], Tensor]:
    """Parts of a theta that gradients reach, feeds with the states of LoRA, and that theta."""
    leaf = torch.from_numpy(theta.copy()).requires_grad_()
    parts = name_parts(design.layout, unflatten(design.layout, leaf))
    feeds = dict(values)
    if design.adapter:
        feeds["states"] = design.adapter.plain_states(parts, feeds, *lora_rows(design, feeds))
    return parts, feeds, leaf


def _by_features(design: Design, theta: np.ndarray, values: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """The gradient of the selected outputs with respect to each slot's features, or the pull of its tokens."""
    parts = name_parts(design.layout, unflatten(design.layout, torch.from_numpy(theta)))
    seen = dict(values)
    ladders = io.owners(values, io.FEATURES)
    leaves = {io.named(n, io.GRADIENT): values[io.named(n, io.FEATURES)].requires_grad_() for n in ladders}
    if design.adapter:
        inputs, mask = lora_rows(design, values)
        count = len(inputs) // len(values[io.ALONG])
        rows = replace(design.adapter.rows(mask), mask=None)
        along, references = values[io.ALONG].repeat_interleave(count), lora_rows(design, values, io.REFERENCE)[0]
        x, difference = design.adapter.between(values, inputs, references, along, rows)
        leaves[io.PULL] = x.requires_grad_()
        seen["states"] = design.adapter.plain_states(parts, values, inputs, mask, x)
    outputs = forward(design, parts, seen)
    selected = [(outputs[t.name] * values[io.named(t.name, io.SELECT)]).sum() for t in design.explained]
    gradients = torch.autograd.grad(torch.stack(selected).sum(), list(leaves.values()))
    results = dict(zip(leaves, gradients, strict=True))
    if design.adapter:
        pulled = (results.pop(io.PULL) * difference).sum(-1).reshape(len(values[io.ALONG]), count, -1)
        each = pulled.split([slot.count for slot in design.inside], 1)
        results |= {io.named(slot.name, io.PULL): pull for slot, pull in zip(design.inside, each, strict=True)}
    return {name: value.numpy() for name, value in results.items()}


def _gradient(design: Design, theta: np.ndarray, values: Mapping[str, Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """Loss sums [tasks] and the gradient [P] of their sum."""
    parts, feeds, leaf = _textbook(design, theta, values)
    total, sums = objective(design, parts, feeds)
    total.backward()
    assert leaf.grad is not None
    return sums.detach().numpy(), leaf.grad.numpy()
