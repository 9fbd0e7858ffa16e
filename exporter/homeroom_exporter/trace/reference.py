"""The reference of a step: torch's own results, untraced, with LoRA in its textbook form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from homeroom.contract.graph_io import (
    ALONG,
    CLIP,
    FEATURES,
    GRADIENT,
    GROUPS,
    LOSSES,
    NORMS,
    OUTPUT,
    PULL,
    REFERENCE,
    SELECT,
    WEIGHTS,
    named,
    owners,
)
from homeroom_exporter.model.design import Design, name_parts, unflatten
from homeroom_exporter.model.forward import forward, lora_rows, objective


def by_autograd(design: Design, role: str, theta: np.ndarray, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The results of a step by their names; `feeds` as the graph's, and frozen weights in place of the design's own."""
    frozen = design.adapter.frozen.arrays if design.adapter else {}
    values = {name: torch.from_numpy(value) for name, value in {**frozen, **feeds}.items()}
    if role == "predict":
        parts, seen, _ = _textbook(design, theta, values)
        return {named(name, OUTPUT): value.detach().numpy() for name, value in forward(design, parts, seen).items()}
    if role == "saliency":
        return _by_features(design, theta, values)
    losses, gradient = _gradient(design, theta, values)
    if role == "grad_heads":
        for segment in (segment for segment in design.layout if segment.task is None):
            gradient[design.layout.slices[segment.name]] = 0.0
    if role in ("grad", "grad_heads"):
        return {LOSSES: losses, GRADIENT: gradient}
    groups, clip = feeds[GROUPS], float(feeds[CLIP][0])
    clipped, norms = np.zeros_like(gradient), np.zeros(len(groups), np.float32)
    for number in range(len(groups)):
        weights = torch.from_numpy(feeds[WEIGHTS] * (groups == number)[:, None])
        gradient = _gradient(design, theta, {**values, WEIGHTS: weights})[1]
        norms[number] = np.linalg.norm(gradient)
        clipped += gradient * min(1.0, clip / max(float(norms[number]), 1e-12))
    return {LOSSES: losses, GRADIENT: clipped, NORMS: norms}


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
    leaves = {named(n, GRADIENT): values[named(n, FEATURES)].requires_grad_() for n in owners(values, FEATURES)}
    if design.adapter:
        inputs, mask = lora_rows(design, values)
        count = len(inputs) // len(values[ALONG])
        rows = replace(design.adapter.rows(mask), mask=None)
        along, references = values[ALONG].repeat_interleave(count), lora_rows(design, values, REFERENCE)[0]
        x, difference = design.adapter.between(values, inputs, references, along, rows)
        leaves[PULL] = x.requires_grad_()
        seen["states"] = design.adapter.plain_states(parts, values, inputs, mask, x)
    outputs = forward(design, parts, seen)
    selected = [(outputs[t.name] * values[named(t.name, SELECT)]).sum() for t in design.explained]
    gradients = torch.autograd.grad(torch.stack(selected).sum(), list(leaves.values()))
    results = dict(zip(leaves, gradients, strict=True))
    if design.adapter:
        pulled = (results.pop(PULL) * difference).sum(-1).reshape(len(values[ALONG]), count, -1)
        each = pulled.split([slot.count for slot in design.inside], 1)
        results |= {named(slot.name, PULL): pull for slot, pull in zip(design.inside, each, strict=True)}
    return {name: value.numpy() for name, value in results.items()}


def _gradient(design: Design, theta: np.ndarray, values: Mapping[str, Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """Loss sums [tasks] and the gradient [P] of their sum."""
    parts, feeds, leaf = _textbook(design, theta, values)
    total, sums = objective(design, parts, feeds)
    total.backward()
    assert leaf.grad is not None
    return sums.detach().numpy(), leaf.grad.numpy()
