"""From a design to the plain graphs of its training step: trace with torch, write as ONNX; torch.

`torch.func.grad` of the loss is traced to ATen operations (`make_fx`), with shapes baked in, and `lower` translates
them. Graphs hold no randomness and no optimizer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor
from torch._decomp import core_aten_decompositions
from torch.fx.experimental.proxy_tensor import make_fx

from homeroom.contract.layout import Layout
from homeroom.contract.manifest import PER_TOKEN, ImagePreprocess
from homeroom_exporter.model.design import Design, forward, lora_rows, name_parts, objective, unflatten
from homeroom_exporter.model.lora.adapter import PREFIX
from homeroom_exporter.trace.aten_to_onnx import lower

WITH_TARGETS = ("grad", "grad_heads", "grad_clipped")
EPSILON = 1e-12  # a group without gradient has norm 0


def input_shapes(design: Design, role: str, batch: int, tokens: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Shape of every input but theta, by name, in the contract's order; see `example` for the dtypes."""
    shapes: dict[str, tuple[int, ...]] = {}
    for slot in design.slots:
        modality = design.modality(slot.modality)
        length = tokens[modality.name]
        if isinstance(modality.preprocess, ImagePreprocess) and modality.adapter == "lora":
            side = modality.preprocess.size
            shapes[f"{slot.name}.pixels"] = (batch, slot.count, 3, side, side)
            continue
        if modality.adapter == "lora":
            shapes[f"{slot.name}.input_ids"] = (batch, slot.count, length)
        else:
            shapes[f"{slot.name}.features"] = (batch, slot.count, len(modality.taps), length, modality.dim)
        shapes[f"{slot.name}.mask"] = (batch, slot.count, length)
    shapes["presence"] = (batch, len(design.inputs))
    if role in WITH_TARGETS:
        shapes |= {f"{slot}.augmented": shapes[f"{slot}.features"] for slot in design.augmented}
        for task in design.tasks:
            each = (tokens[design.slot(task.reads[0]).modality],) if task.per_token else ()
            shapes[f"{task.name}.target"] = (batch, *each, task.width)
        shapes["weights"] = (batch, len(design.tasks) + len(design.objectives))
    if role == "grad_clipped":
        shapes |= {"groups": (batch,), "clip": (1,)}
    if role == "saliency":
        if design.adapter:
            shapes |= {f"{s.name}.reference": shapes[f"{s.name}.{design.adapter.input}"] for s in design.inside}
            shapes["along"] = (batch,)
        shapes |= {f"{task.name}.select": (batch, task.width) for task in design.explained}
    return shapes


def example(
    design: Design, role: str, batch: int, tokens: Mapping[str, int], *, seed: int = 0
) -> dict[str, np.ndarray]:
    """Random inputs of a batch (but theta) that a device could make: masks of any length, some inputs absent.

    Features are int8 (float32 where the gradient goes to them), groups int32, the rest float32.
    """
    rng = np.random.default_rng(seed)
    feeds: dict[str, np.ndarray] = {}
    presence = np.ones((batch, len(design.inputs)), np.float32)
    for name, shape in input_shapes(design, role, batch, tokens).items():
        if name.endswith(".features"):
            feeds[name] = rng.integers(-90, 91, shape).astype(np.float32 if role == "saliency" else np.int8)
        elif name.endswith(".pixels"):
            feeds[name] = rng.integers(0, 256, shape).astype(np.uint8)
            presence[:, design.columns(name.removesuffix(".pixels"))] = rng.random(shape[:2]) < 0.8
        elif name.endswith(".reference") and len(shape) > 3:
            feeds[name] = rng.integers(0, 256, shape).astype(np.uint8)
        elif name.endswith((".input_ids", ".reference")):
            assert design.adapter is not None
            feeds[name] = rng.integers(0, design.adapter.shape.words, shape)
        elif name.endswith(".mask"):
            slot = name.removesuffix(".mask")
            here = (rng.random(shape[:2]) < 0.8).astype(np.float32)
            lengths = rng.integers(1, shape[2] + 1, (*shape[:2], 1))
            feeds[name] = (np.arange(shape[2]) < lengths).astype(np.float32) * here[..., None]
            if f"{slot}.features" in feeds:
                feeds[f"{slot}.features"] *= feeds[name].astype(np.int8)[:, :, None, :, None]
            else:
                feeds[f"{slot}.input_ids"] *= feeds[name].astype(np.int64)
            presence[:, design.columns(slot)] = here
        elif name == "presence":
            feeds[name] = presence
        elif name.endswith(".augmented"):
            whole = feeds[f"{name.removesuffix('.augmented')}.features"]
            feeds[name] = whole * (rng.random((*shape[:2], 1, shape[3], 1 if shape[3] > 1 else shape[4])) < 0.7)
        elif name == "along":
            feeds[name] = rng.random(shape, dtype=np.float32)
        elif name == "weights":
            feeds[name] = rng.random(shape, dtype=np.float32) * (rng.random(shape) < 0.8).astype(np.float32)
        elif name == "groups":
            feeds[name] = rng.integers(-1, max(1, batch // 2), shape).astype(np.int32)
        elif name.endswith(".select"):
            feeds[name] = rng.standard_normal(shape, dtype=np.float32)
        elif name == "clip":
            feeds[name] = np.full(shape, 0.5, np.float32)
        else:
            feeds[name] = _targets(design, name.removesuffix(".target"), shape, rng)
    return feeds


def _targets(design: Design, name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    kind = next(task.kind for task in design.tasks if task.name == name)
    if kind in PER_TOKEN:
        shown = np.eye(shape[-1], dtype=np.float32)[rng.integers(0, shape[-1], shape[:-1])]
        signs = rng.integers(-1, 2, shape[:-1]) if kind == "tracing" else rng.random(shape[:-1]) < 0.8
        return shown * signs.astype(np.float32)[..., None]
    if kind in ("classification", "choice"):
        return np.eye(shape[1], dtype=np.float32)[rng.integers(0, shape[1], shape[0])]
    if kind == "ordinal":
        return (np.arange(shape[1]) < rng.integers(0, shape[1] + 1, (shape[0], 1))).astype(np.float32)
    if kind == "regression":
        return rng.standard_normal(shape, dtype=np.float32) * 2
    return (rng.random(shape) < 0.5).astype(np.float32)


def predict_step(design: Design, theta: Tensor, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
    layout = design.layout
    parts = name_parts(layout, unflatten(layout, theta))
    if design.adapter:
        feeds = {**feeds, "states": design.adapter.states(parts, feeds, *lora_rows(design, feeds), keep=False)[0]}
    outputs = forward(design, parts, feeds)
    return {f"{task.name}.output": outputs[task.name] for task in design.tasks}


def grad_step(design: Design, theta: Tensor, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
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
        keep = not design.adapter.recompute
        states, saved = design.adapter.states(parts, feeds, inputs, mask, keep=keep)
        (gradients, back), sums = torch.func.grad(loss, argnums=(0, 1), has_aux=True)(tensors, states)
        inside = design.adapter.gradients(parts, feeds, mask, saved, back)
        gradients = _with_those_inside(layout, gradients, inside)
    return {
        "losses": sums,
        "totals": feeds["weights"].sum(0),
        "gradient": torch.cat([gradient.reshape(-1) for gradient in gradients]),
    }


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
    return {
        "losses": sums,
        "totals": feeds["weights"].sum(0),
        "gradient": torch.cat([gradient.reshape(-1) for gradient in every]),
    }


def _with_those_inside(
    layout: Layout, gradients: list[Tensor], inside: Mapping[str, Mapping[str, Tensor]]
) -> list[Tensor]:
    """By parameter in the layout's order, LoRA's own in place of the zeros that autograd found."""
    places = [(segment.name, parameter.name) for segment in layout for parameter in segment.parameters]
    return [inside.get(s, {}).get(p, g) for (s, p), g in zip(places, gradients, strict=True)]


def clipped_step(design: Design, theta: Tensor, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The sum over groups of their gradients, each scaled to a norm of at most `clip` (after Abadi et al. 2016, alg. 1,
    with subjects in place of examples, as McMahan et al. 2018).

    Of LoRA each sample's gradient is a product of its activations and its output gradients (Li et al. 2022, section 4).
    """
    layout = design.layout
    groups, clip = feeds["groups"], feeds["clip"]
    rows = {n: v for n, v in feeds.items() if n not in ("groups", "clip") and not n.startswith(PREFIX)}

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
        keep = not design.adapter.recompute
        states, saved = design.adapter.states(parts, feeds, inputs, mask, keep=keep)
        each = torch.func.vmap(torch.func.grad(loss, argnums=(0, 1), has_aux=True), in_dims=(None, 0, 0))
        (gradients, back), sums = each(tensors, states.reshape(len(groups), -1, *states.shape[1:]), rows)
        inside = design.adapter.gradients(parts, feeds, mask, saved, back, each=len(groups))
        gradients = _with_those_inside(layout, gradients, inside)
    batch = len(groups)
    numbers = torch.arange(batch, dtype=torch.float32).unsqueeze(1)
    members = (groups.to(torch.float32).unsqueeze(0) - numbers == 0).to(torch.float32)
    by_group = members @ torch.cat([gradient.reshape(batch, -1) for gradient in gradients], 1)
    squares = (by_group * by_group).sum(1)
    factors = (clip * torch.rsqrt(squares + EPSILON)).clamp(max=1.0)
    return {
        "losses": sums.sum(0),
        "totals": feeds["weights"].sum(0),
        "gradient": (factors.unsqueeze(0) @ by_group).squeeze(0),
        "norms": torch.sqrt(squares),
    }


def saliency_step(design: Design, theta: Tensor, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The outputs, and the gradient of each row's sum of output * `{task}.select` with respect to its features.

    Where LoRA is inside an encoder, the point is `along` on the line from `{slot}.reference` to the input, between
    their embeddings, and `{slot}.pull` is the gradient there times their difference, by token.
    """
    features = {name: value for name, value in feeds.items() if name.endswith(".features")}
    parts = name_parts(design.layout, unflatten(design.layout, theta))

    def chosen(features: Mapping[str, Tensor], states: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        seen = {**feeds, **features} | ({} if states is None else {"states": states})
        outputs = forward(design, parts, seen)
        values = [(outputs[t.name] * feeds[f"{t.name}.select"]).sum() for t in design.explained]
        return torch.stack(values).sum(), {f"{task.name}.output": outputs[task.name] for task in design.tasks}

    if design.adapter is None:
        gradients, outputs = torch.func.grad(chosen, has_aux=True)(features, None)
        pulls = {}
    else:
        inputs, mask = lora_rows(design, feeds)
        references, count = lora_rows(design, feeds, "reference")[0], len(inputs) // len(feeds["along"])
        along = feeds["along"].unsqueeze(1).expand(-1, count).reshape(-1)
        x, difference = design.adapter.between(feeds, inputs, references, along, design.adapter.rows(mask))
        keep = not design.adapter.recompute
        states, saved = design.adapter.states(parts, feeds, inputs, mask, keep=keep, x=x)
        (gradients, back), outputs = torch.func.grad(chosen, argnums=(0, 1), has_aux=True)(features, states)
        pulled = design.adapter.pulls(parts, feeds, mask, saved, back, difference)
        each = pulled.reshape(-1, count, pulled.shape[1]).split([slot.count for slot in design.inside], 1)
        pulls = {f"{slot.name}.pull": pull for slot, pull in zip(design.inside, each, strict=True)}
    slopes = {name.replace(".features", ".gradient"): value for name, value in gradients.items()}
    return {**outputs, **slopes, **pulls}


STEPS = {
    "predict": predict_step,
    "grad": grad_step,
    "grad_heads": heads_step,
    "grad_clipped": clipped_step,
    "saliency": saliency_step,
}


def trace(design: Design, role: str, batch: int, tokens: Mapping[str, int]) -> onnx.ModelProto:
    """The ONNX model of one variant of a step, by its role.

    Frozen weights of an encoder with LoRA inside are inputs of it, which `lora.frozen.attach` turns into constants.
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
    traced = make_fx(step, decomposition_table=core_aten_decompositions(), tracing_mode="real")(*arguments)
    traced.graph.eliminate_dead_code()
    return lower(traced, ["theta", *names], outputs)
