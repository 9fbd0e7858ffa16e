"""Traces the training and prediction steps of a design with torch, and writes them as ONNX.

`torch.func.grad` of the loss is traced to ATen operations (`make_fx`), with fixed shapes, and `aten_to_onnx` translates
them. Graphs hold no randomness and no optimizer.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import onnx
import torch
from torch import Tensor
from torch._decomp import core_aten_decompositions
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from homeroom.contract import graph_io as io
from homeroom.contract.layout import Layout
from homeroom_exporter.model.design import Design, name_parts, unflatten
from homeroom_exporter.model.forward import forward, lora_rows, objective
from homeroom_exporter.model.lora.adapter import PREFIX
from homeroom_exporter.trace.aten_to_onnx import aten_to_onnx
from homeroom_exporter.trace.example_inputs import example

CLIP_EPSILON = 1e-12  # a group without gradient has norm 0


def predict_step(design: Design, theta: Tensor, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`{task}.output` of every task."""
    layout = design.layout
    parts = name_parts(layout, unflatten(layout, theta))
    if design.adapter:
        feeds = {**feeds, "states": design.adapter.states(parts, feeds, *lora_rows(design, feeds), keep=False)[0]}
    outputs = forward(design, parts, feeds)
    return {io.named(task.name, io.OUTPUT): outputs[task.name] for task in design.tasks}


def grad_step(design: Design, theta: Tensor, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Loss sums and totals by column, and the gradient float32 [P]."""
    layout = design.layout
    tensors = unflatten(layout, theta)

    # By parameter, joined at the end: the gradient of theta's slices would be a sum of P-long vectors.
    def loss(tensors: list[Tensor], states: Tensor | None) -> tuple[Tensor, Tensor]:
        seen = feeds if states is None else {**feeds, "states": states}
        return objective(design, name_parts(layout, tensors), seen)

    if design.adapter is None:
        gradients, sums = torch.func.grad(loss, has_aux=True)(tensors, None)
    else:
        parts, (inputs, mask) = name_parts(layout, tensors), lora_rows(design, feeds)
        states, saved = design.adapter.states(parts, feeds, inputs, mask, keep=not design.adapter.recompute)
        (gradients, back), sums = torch.func.grad(loss, argnums=(0, 1), has_aux=True)(tensors, states)
        inside = design.adapter.gradients(parts, feeds, mask, saved, back)
        gradients = _with_those_inside(layout, gradients, inside)
    return _results(sums, feeds, gradients)


def heads_step(design: Design, theta: Tensor, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """As `grad_step`, the gradient left at zero in every segment that belongs to no task: nothing is passed back."""
    layout = design.layout
    tensors = unflatten(layout, theta)
    of_task = [segment.task is not None for segment in layout for _ in segment.parameters]

    def loss(heads: dict[int, Tensor]) -> tuple[Tensor, Tensor]:
        parts = [heads.get(place, tensor) for place, tensor in enumerate(tensors)]
        return objective(design, name_parts(layout, parts), feeds)

    heads = {place: tensor for place, tensor in enumerate(tensors) if of_task[place]}
    gradients, sums = torch.func.grad(loss, has_aux=True)(heads)
    every = [gradients.get(place, torch.zeros_like(tensor)) for place, tensor in enumerate(tensors)]
    return _results(sums, feeds, every)


def _results(sums: Tensor, feeds: Mapping[str, Tensor], gradients: list[Tensor]) -> dict[str, Tensor]:
    totals = feeds[io.WEIGHTS].sum(0)  # first: the order of operations fixes the graph's bytes
    return {io.LOSSES: sums, io.TOTALS: totals, io.GRADIENT: torch.cat([part.reshape(-1) for part in gradients])}


def _with_those_inside(
    layout: Layout, gradients: list[Tensor], inside: Mapping[str, Mapping[str, Tensor]]
) -> list[Tensor]:
    """By parameter in the layout's order, LoRA's own in place of the zeros that autograd found."""
    names = [(segment.name, parameter.name) for segment in layout for parameter in segment.parameters]
    return [inside.get(s, {}).get(p, g) for (s, p), g in zip(names, gradients, strict=True)]


def clipped_step(design: Design, theta: Tensor, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The sum over groups of their gradients, each scaled to a norm of at most `clip` (after Abadi et al. 2016, alg. 1,
    with subjects in place of examples, as McMahan et al. 2018).

    Of LoRA each sample's gradient is a product of its activations and its output gradients (Li et al. 2022, section 4).
    """
    layout = design.layout
    groups, clip = feeds[io.GROUPS], feeds[io.CLIP]
    rows = {n: v for n, v in feeds.items() if n not in (io.GROUPS, io.CLIP) and not n.startswith(PREFIX)}

    def loss(tensors: list[Tensor], states: Tensor | None, row: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        seen = {name: value.unsqueeze(0) for name, value in row.items()}
        seen |= {} if states is None else {"states": states}
        return objective(design, name_parts(layout, tensors), seen)

    tensors = unflatten(layout, theta)
    if design.adapter is None:
        each = torch.func.vmap(torch.func.grad(loss, has_aux=True), in_dims=(None, None, 0))
        gradients, sums = each(tensors, None, rows)
    else:
        parts, (inputs, mask) = name_parts(layout, tensors), lora_rows(design, feeds)
        states, saved = design.adapter.states(parts, feeds, inputs, mask, keep=not design.adapter.recompute)
        each = torch.func.vmap(torch.func.grad(loss, argnums=(0, 1), has_aux=True), in_dims=(None, 0, 0))
        (gradients, back), sums = each(tensors, states.reshape(len(groups), -1, *states.shape[1:]), rows)
        inside = design.adapter.gradients(parts, feeds, mask, saved, back, each=len(groups))
        gradients = _with_those_inside(layout, gradients, inside)
    batch = len(groups)
    numbers = torch.arange(batch, dtype=torch.float32).unsqueeze(1)
    members = (groups.to(torch.float32).unsqueeze(0) - numbers == 0).to(torch.float32)
    by_group = members @ torch.cat([gradient.reshape(batch, -1) for gradient in gradients], 1)
    squares = (by_group * by_group).sum(1)
    factors = (clip * torch.rsqrt(squares + CLIP_EPSILON)).clamp(max=1.0)
    return {
        io.LOSSES: sums.sum(0),
        io.TOTALS: feeds[io.WEIGHTS].sum(0),
        io.GRADIENT: (factors.unsqueeze(0) @ by_group).squeeze(0),
        io.NORMS: torch.sqrt(squares),
    }


def saliency_step(design: Design, theta: Tensor, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The outputs, and the gradient of each row's sum of output * `{task}.select` with respect to its features.

    Where LoRA is inside an encoder, the point is `along` on the line from `{slot}.reference` to the input, between
    their embeddings, and `{slot}.pull` is the gradient there times their difference, by token.
    """
    ladders = io.owners(feeds, io.FEATURES)
    features = {io.named(slot, io.FEATURES): feeds[io.named(slot, io.FEATURES)] for slot in ladders}
    parts = name_parts(design.layout, unflatten(design.layout, theta))

    def chosen(features: Mapping[str, Tensor], states: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        seen = {**feeds, **features} | ({} if states is None else {"states": states})
        outputs = forward(design, parts, seen)
        values = [(outputs[t.name] * feeds[io.named(t.name, io.SELECT)]).sum() for t in design.explained]
        return torch.stack(values).sum(), {io.named(task.name, io.OUTPUT): outputs[task.name] for task in design.tasks}

    if design.adapter is None:
        gradients, outputs = torch.func.grad(chosen, has_aux=True)(features, None)
        pulls = {}
    else:
        inputs, mask = lora_rows(design, feeds)
        references, count = lora_rows(design, feeds, io.REFERENCE)[0], len(inputs) // len(feeds[io.ALONG])
        along = feeds[io.ALONG].unsqueeze(1).expand(-1, count).reshape(-1)
        x, difference = design.adapter.between(feeds, inputs, references, along, design.adapter.rows(mask))
        keep = not design.adapter.recompute
        states, saved = design.adapter.states(parts, feeds, inputs, mask, keep=keep, x=x)
        (gradients, back), outputs = torch.func.grad(chosen, argnums=(0, 1), has_aux=True)(features, states)
        pulled = design.adapter.pulls(parts, feeds, mask, saved, back, difference)
        each = pulled.reshape(-1, count, pulled.shape[1]).split([slot.count for slot in design.inside], 1)
        pulls = {io.named(slot.name, io.PULL): pull for slot, pull in zip(design.inside, each, strict=True)}
    slopes = {io.named(slot, io.GRADIENT): gradients[io.named(slot, io.FEATURES)] for slot in ladders}
    return {**outputs, **slopes, **pulls}


STEPS = {
    "predict": predict_step,
    "grad": grad_step,
    "grad_heads": heads_step,
    "grad_clipped": clipped_step,
    "saliency": saliency_step,
}


@cache
def _decompositions() -> dict[Any, Any]:
    table: dict[Any, Any] = core_aten_decompositions()
    return table


def trace(design: Design, role: str, batch: int, tokens: Mapping[str, int]) -> onnx.ModelProto:
    """The ONNX model of one variant of a step, by its role.

    Frozen weights of an encoder with LoRA inside are inputs of it, which `frozen_weights.attach` turns into constants.
    """
    feeds = example(design, role, batch, tokens)
    feeds |= design.adapter.frozen.arrays if design.adapter else {}
    names = list(feeds)
    outputs: list[str] = []

    def step(theta: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        results = STEPS[role](design, theta, dict(zip(names, values, strict=True)))
        outputs[:] = results
        return tuple(results.values())

    arguments: Any = (torch.zeros(design.layout.size), *(torch.from_numpy(feeds[name]) for name in names))
    # With a context there is one fake mode for all operations; without, one for each, which takes half of the time.
    with tracing(TracingContext(FakeTensorMode(allow_fallback_kernels=True))):
        traced = make_fx(step, decomposition_table=_decompositions(), tracing_mode="real")(*arguments)
    declared = io.step_outputs(design, role, batch, tokens, design.per_token, design.layout.size)
    assert outputs == [tensor.name for tensor in declared], role
    traced.graph.eliminate_dead_code()
    return aten_to_onnx(traced, [io.THETA, *names], outputs)
