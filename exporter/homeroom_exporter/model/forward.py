"""The forward pass of a design: encode, fuse, answer, and its training objective."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from homeroom.contract.graph_io import AUGMENTED, FEATURES, MASK, PRESENCE, TARGET, WEIGHTS, named
from homeroom.contract.manifest import Modality, Slot
from homeroom_exporter.model import heads, ladder
from homeroom_exporter.model.design import Design, Feeds, Parts
from homeroom_exporter.model.heads import EncodedInput
from homeroom_exporter.model.losses import balanced
from homeroom_exporter.model.objectives import alignment, consistency, masked
from homeroom_exporter.model.tasks import HEADS, kind_of

TYPICAL_FEATURE = 32.0  # size of an int8 feature; brings the ladder's input near 1


def forward(design: Design, parts: Parts, feeds: Feeds) -> dict[str, Tensor]:
    """The output of every task, float32 [batch, width], per token [batch, tokens, width].

    `feeds` are the predict graph's inputs but theta. Where LoRA is inside an encoder, they also hold its `states`, see
    `lora_rows`.
    """
    return task_outputs(design, parts, encode_inputs(design, parts, feeds), feeds)


def encode_inputs(design: Design, parts: Parts, feeds: Feeds) -> dict[str, list[EncodedInput]]:
    """Every input of every row after its ladder, by slot in the order of its inputs."""
    presence = feeds[PRESENCE]
    encoded: dict[str, list[EncodedInput]] = {slot.name: [] for slot in design.slots}
    for modality in design.modalities:
        slots = [s for s in design.slots if s.modality == modality.name]
        columns = [column for s in slots for column in design.columns(s.name)]
        encode = _cross if design.adapter and design.adapter.modality == modality else _encode
        inputs = encode(design, modality, parts, slots, presence[:, columns], feeds)
        for slot in (s for s in slots for _ in range(s.count)):
            encoded[slot.name].append(next(inputs))
    return encoded


def task_outputs(
    design: Design, parts: Parts, encoded: Mapping[str, list[EncodedInput]], feeds: Feeds
) -> dict[str, Tensor]:
    """The output of every task from the encoded inputs of all slots; what was asked of it, where feeds have targets."""
    presence = feeds[PRESENCE]
    vectors = _fuse(design, parts, [one.vector for slot in design.slots for one in encoded[slot.name]], presence)
    outputs = {}
    for task in design.tasks:
        inputs = heads.HeadInputs(
            task.reads,
            [encoded[name] for name in task.reads],
            [design.columns(name) for name in task.reads],
            presence,
            feeds,
            vectors.get(task.name),
        )
        head, parameters = HEADS[design.heads[task.name]], parts[f"head.{task.name}"]
        if head.asked and (target := feeds.get(named(task.name, TARGET))) is not None:
            outputs[task.name] = head.asked(parameters, inputs, target)
        else:
            outputs[task.name] = head.output(parameters, inputs)
    return outputs


def lora_rows(design: Design, feeds: Feeds, kind: str | None = None) -> tuple[Tensor, Tensor]:
    """Every input of every row as one batch of the encoder: inputs, and mask float32 [rows, tokens].

    kind: what follows a slot's name in place of the inputs, such as `reference`.
    """
    assert design.adapter is not None
    slots = design.inside
    inputs = torch.cat([feeds[f"{s.name}.{kind or design.adapter.input}"] for s in slots], 1)
    inputs = inputs.reshape(-1, *inputs.shape[2:])
    if not design.adapter.textual:
        return inputs, torch.ones(len(inputs), 1)
    mask = torch.cat([feeds[named(s.name, MASK)] for s in slots], 1)
    return inputs, mask.reshape(-1, mask.shape[2])


def _cross(
    design: Design, modality: Modality, parts: Parts, slots: list[Slot], presence: Tensor, feeds: Feeds
) -> Iterator[EncodedInput]:
    """As `_encode`, from the hidden states of the encoder that has LoRA inside."""
    assert design.adapter is not None
    batch, count = presence.shape
    mask = lora_rows(design, feeds)[1]
    here = presence.reshape(batch * count, 1)
    tokens, vectors = design.adapter.cross(parts[design.adapter.bridge], feeds["states"], mask, here)
    columns = (
        ladder.columns(tokens.reshape(batch, count, *tokens.shape[1:])),
        ladder.columns(mask.reshape(batch, count, -1)),
        ladder.columns(vectors.reshape(batch, count, -1)),
    )
    return map(EncodedInput, *columns)


def _encode(
    design: Design, modality: Modality, parts: Parts, slots: list[Slot], presence: Tensor, feeds: Feeds
) -> Iterator[EncodedInput]:
    """One pass of a modality's ladder over all its slots, then input by input; presence: [batch, inputs]."""
    parameters = parts[f"ladder.{modality.name}"]
    batch, count = presence.shape
    features = torch.cat([feeds[named(s.name, FEATURES)] for s in slots], 1)
    mask = torch.cat([feeds[named(s.name, MASK)] for s in slots], 1)
    scale = torch.from_numpy(normalised(design.scales[modality.name]))
    h = ladder.climb(parameters, features.reshape(batch * count, *features.shape[2:]), scale)
    vectors = ladder.pool(parameters, h, mask.reshape(batch * count, -1), presence.reshape(batch * count, 1))
    columns = (
        ladder.columns(h.reshape(batch, count, *h.shape[1:])),
        ladder.columns(mask),
        ladder.columns(vectors.reshape(batch, count, -1)),
    )
    return map(EncodedInput, *columns)


def _fuse(design: Design, parts: Parts, vectors: list[Tensor], presence: Tensor) -> dict[str, Tensor]:
    """The fusion's vector [batch, width] of every task with a fused head; tasks that read the same slots share one."""
    readers = {
        task.name: tuple(sorted(column for name in task.reads for column in design.columns(name)))
        for task in design.tasks
        if design.heads[task.name] == "fused"
    }
    if not readers:
        return {}
    sets = sorted(set(readers.values()))
    members = torch.tensor([[float(i in one) for i in range(len(vectors))] for one in sets])
    fused = ladder.columns(ladder.fuse(parts["fusion"], torch.stack(vectors, 1), presence, members))
    return {name: fused[sets.index(reads)] for name, reads in readers.items()}


def normalised(scale: np.ndarray) -> np.ndarray:
    """scale [taps, dim] divided a tap at a time, so that int8 * scale has a mean square near 1 in each tap."""
    level = np.sqrt(np.square(scale, dtype=np.float64).mean(-1, keepdims=True)) * TYPICAL_FEATURE
    return np.asarray(scale / np.maximum(level, 1e-12), np.float32)


def objective(design: Design, parts: Parts, feeds: Feeds) -> tuple[Tensor, Tensor]:
    """Sum over columns and rows of weight * loss, and the sums by column: tasks, then objectives without labels.

    feeds: the grad graph's inputs. Where the design weighs tasks by their uncertainty, the tasks' part of the first is
    `losses.balanced`.
    """
    encoded, presence, weights = encode_inputs(design, parts, feeds), feeds[PRESENCE], feeds[WEIGHTS]
    outputs = task_outputs(design, parts, encoded, feeds)
    columns = [kind_of(t).loss(outputs[t.name], feeds[named(t.name, TARGET)]) for t in design.tasks]
    augmented = encoded
    if design.augmented:
        augmented = encode_inputs(design, parts, {**feeds, **_augmented_feeds(design, feeds)})
    for one in design.objectives:
        present = presence[:, [design.columns(name)[0] for name in one.reads]]
        if one.kind == "alignment":
            columns.append(alignment([encoded[name][0].vector for name in one.reads], present))
        elif one.kind == "masked":
            inputs = [_masked_input(design, name, feeds) for name in one.reads]
            vectors = [augmented[name][0].vector for name in one.reads]
            columns.append(masked(parts[one.segment], inputs, vectors, present))
        else:
            others = task_outputs(design, parts, augmented, feeds)
            columns.append(consistency(design.consistent(one), outputs, others))
    sums = (torch.stack(columns, 1) * weights).sum(0)
    if design.weighting == "fixed":
        return sums.sum(), sums
    count = len(design.tasks)
    variances = torch.cat([parts[f"weighting.{task.name}"]["log_variance"] for task in design.tasks])
    return balanced(sums[:count], weights.sum(0)[:count], variances) + sums[count:].sum(), sums


def _augmented_feeds(design: Design, feeds: Feeds) -> dict[str, Tensor]:
    """Features and masks of the slots with a part hidden; a token that is all zeros is no longer there."""
    augmented: dict[str, Tensor] = {}
    for name in design.augmented:
        features = feeds[named(name, AUGMENTED)]
        shown = features.to(torch.float32).abs().sum((2, 4)).clamp(max=1.0)
        augmented |= {named(name, FEATURES): features, named(name, MASK): feeds[named(name, MASK)] * shown}
    return augmented


def _masked_input(design: Design, slot: str, feeds: Feeds) -> tuple[str, Tensor, Tensor, Tensor]:
    """A single slot's modality, its features, those with a part hidden, and their scale."""
    modality = design.slot(slot).modality
    scale = torch.from_numpy(normalised(design.scales[modality]))
    return modality, feeds[named(slot, FEATURES)].squeeze(1), feeds[named(slot, AUGMENTED)].squeeze(1), scale
