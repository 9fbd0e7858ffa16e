"""Inputs and outputs of a bundle's graphs: their names, dtypes and shapes, for the exporter and the device alike.

A name stands alone, or is a slot's or a task's with a kind after it (`named`). In LiteRT's graphs integers of 64 bits
are 32.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Protocol

from homeroom.contract import manifest
from homeroom.contract.manifest import ImagePreprocess, Modality, Objective, Slot, Task, Tensor

THETA, PRESENCE, WEIGHTS, GROUPS, CLIP, ALONG = "theta", "presence", "weights", "groups", "clip", "along"
LOSSES, TOTALS, GRADIENT, NORMS = "losses", "totals", "gradient", "norms"  # `{slot}.gradient` in saliency graphs
FEATURES, MASK = "features", "mask"  # of a slot; the former is the output of features graphs too
INPUT_IDS, PIXELS = "input_ids", "pixels"  # of a slot with LoRA inside its encoder; inputs of features graphs too
SLOT_KINDS = (FEATURES, INPUT_IDS, PIXELS, MASK)  # of the inputs that every step reads of a slot
AUGMENTED, REFERENCE, PULL = "augmented", "reference", "pull"  # of a slot
TARGET, SELECT, OUTPUT = "target", "select", "output"  # of a task
ATTENTION_MASK, AUDIO, TABLE_ROW, SEQUENCE_STEPS = "attention_mask", "audio", "row", "steps"  # of features graphs
TARGET_ROLES = ("grad", "grad_heads", "grad_clipped")
AUGMENTING_KINDS = ("masked", "consistency")  # of objectives
MEL_BANDS, MEL_HOP = 80, 160  # of `whisper-mel`, the latter in samples


class StepModel(Protocol):
    """What fixes a step's inputs and outputs: a manifest, or the exporter's design."""

    @property
    def slots(self) -> tuple[Slot, ...]: ...
    @property
    def tasks(self) -> tuple[Task, ...]: ...
    @property
    def objectives(self) -> tuple[Objective, ...]: ...
    @property
    def inputs(self) -> tuple[tuple[str, str, int], ...]: ...
    def modality(self, name: str) -> Modality: ...
    def slot(self, name: str) -> Slot: ...


def named(owner: str, kind: str) -> str:
    """The name of a slot's or a task's input or output."""
    return f"{owner}.{kind}"


def owners(names: Iterable[str], kind: str) -> list[str]:
    """The slots or tasks that have an input or output of this kind, in the names' order."""
    return [name.removesuffix(f".{kind}") for name in names if name.endswith(f".{kind}")]


def augmented_slots(model: StepModel) -> tuple[str, ...]:
    """The slots that a training step also reads with a part hidden."""
    names = {slot for one in model.objectives if one.kind in AUGMENTING_KINDS for slot in one.reads}
    return tuple(slot.name for slot in model.slots if slot.name in names)


def raw_kind(modality: Modality) -> str | None:
    """The kind of the input that a step reads in place of features; None where it reads features."""
    if modality.adapter == "ladder":
        return None
    return PIXELS if isinstance(modality.preprocess, ImagePreprocess) else INPUT_IDS


def features_io(modality: Modality) -> tuple[list[Tensor], Tensor]:
    """The inputs of a backbone's graph, and its one output; -1 where any length is taken."""
    length = modality.buckets[0]
    match modality.preprocess:
        case manifest.TextPreprocess():
            inputs, length = [Tensor(name, "int64", (-1, -1)) for name in (INPUT_IDS, ATTENTION_MASK)], -1
        case ImagePreprocess(size=size):
            inputs = [Tensor(PIXELS, "float32", (-1, 3, size, size))]
        case manifest.AudioPreprocess(form=form, samples=samples):
            shape = (MEL_BANDS, samples // MEL_HOP) if form == "whisper-mel" else (samples,)
            inputs = [Tensor(AUDIO, "float32", (-1, *shape))]
        case manifest.TablePreprocess(width=width):
            inputs = [Tensor(TABLE_ROW, "float32", (-1, width))]
        case manifest.SequencePreprocess(width=width):
            inputs, length = [Tensor(SEQUENCE_STEPS, "float32", (-1, -1, width))], -1
    return inputs, Tensor(FEATURES, "int8", (-1, len(modality.taps), length, modality.dim))


def step_inputs(
    model: StepModel,
    role: str,
    batch: int,
    tokens: Mapping[str, int],
    per_token: Collection[str],
    asked: Collection[str] = (),
) -> list[Tensor]:
    """The inputs of a step's graph in their order, but for theta, which is the first.

    model: the bundle's manifest, or the exporter's design.
    role: of the graph.
    batch: rows of the graph.
    tokens: token count by modality.
    per_token: names of the tasks that answer for each token.
    asked: those of them of which one column a token is judged: a target is its signed number from 1, 0 for none.
    """
    slots = [_slot_inputs(model.modality(s.modality), s, role, batch, tokens[s.modality]) for s in model.slots]
    inputs = [tensor for of_slot in slots for tensor in of_slot]
    shapes = {tensor.name: tensor for tensor in inputs}
    inputs.append(Tensor(PRESENCE, "float32", (batch, len(model.inputs))))
    if role in TARGET_ROLES:
        for name in augmented_slots(model):
            inputs.append(Tensor(named(name, AUGMENTED), "int8", shapes[named(name, FEATURES)].shape))
        shapes_by_task = _task_shapes(model, batch, tokens, per_token)
        shapes_by_task |= {name: shape[:-1] for name, shape in shapes_by_task.items() if name in asked}
        inputs += [Tensor(named(name, TARGET), "float32", shape) for name, shape in shapes_by_task.items()]
        inputs.append(Tensor(WEIGHTS, "float32", (batch, len(model.tasks) + len(model.objectives))))
    if role == "grad_clipped":
        inputs += [Tensor(GROUPS, "int32", (batch,)), Tensor(CLIP, "float32", (1,))]
    if role == "saliency":
        raw = [(s.name, kind) for s in model.slots if (kind := raw_kind(model.modality(s.modality)))]
        for name, kind in raw:
            like = shapes[named(name, kind)]
            inputs.append(Tensor(named(name, REFERENCE), like.dtype, like.shape))
        inputs += [Tensor(ALONG, "float32", (batch,))] if raw else []
        explained = [task for task in model.tasks if task.name not in per_token]
        inputs += [Tensor(named(task.name, SELECT), "float32", (batch, task.width)) for task in explained]
    return inputs


def step_outputs(
    model: StepModel, role: str, batch: int, tokens: Mapping[str, int], per_token: Collection[str], values: int
) -> list[Tensor]:
    """The outputs of a step's graph in their order; values: of its theta. Others as of `step_inputs`."""
    if role in TARGET_ROLES:
        columns = (len(model.tasks) + len(model.objectives),)
        outputs = [Tensor(LOSSES, "float32", columns), Tensor(TOTALS, "float32", columns)]
        outputs.append(Tensor(GRADIENT, "float32", (values,)))
        return [*outputs, Tensor(NORMS, "float32", (batch,))] if role == "grad_clipped" else outputs
    shapes_by_task = _task_shapes(model, batch, tokens, per_token)
    outputs = [Tensor(named(name, OUTPUT), "float32", shape) for name, shape in shapes_by_task.items()]
    if role == "predict":
        return outputs
    pulls = list[Tensor]()
    for slot in model.slots:
        modality = model.modality(slot.modality)
        if (kind := raw_kind(modality)) is None:
            shape = _features_shape(modality, slot, batch, tokens[slot.modality])
            outputs.append(Tensor(named(slot.name, GRADIENT), "float32", shape))
        else:  # a picture's tokens are its encoder's patches
            length = tokens[slot.modality] if kind == INPUT_IDS else -1
            pulls.append(Tensor(named(slot.name, PULL), "float32", (batch, slot.count, length)))
    return outputs + pulls


def _slot_inputs(modality: Modality, slot: Slot, role: str, batch: int, length: int) -> list[Tensor]:
    if isinstance(modality.preprocess, ImagePreprocess) and modality.adapter == "lora":
        side = modality.preprocess.size
        return [Tensor(named(slot.name, PIXELS), "uint8", (batch, slot.count, 3, side, side))]
    mask = Tensor(named(slot.name, MASK), "float32", (batch, slot.count, length))
    if modality.adapter == "lora":
        return [Tensor(named(slot.name, INPUT_IDS), "int64", mask.shape), mask]
    shape = _features_shape(modality, slot, batch, length)
    return [Tensor(named(slot.name, FEATURES), "float32" if role == "saliency" else "int8", shape), mask]


def _features_shape(modality: Modality, slot: Slot, batch: int, length: int) -> tuple[int, ...]:
    return batch, slot.count, len(modality.taps), length, modality.dim


def _task_shapes(
    model: StepModel, batch: int, tokens: Mapping[str, int], per_token: Collection[str]
) -> dict[str, tuple[int, ...]]:
    """The shapes of the tasks' outputs and targets, by task."""
    lengths = {t.name: (tokens[model.slot(t.reads[0]).modality],) for t in model.tasks if t.name in per_token}
    return {task.name: (batch, *lengths.get(task.name, ()), task.width) for task in model.tasks}
