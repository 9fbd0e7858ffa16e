"""The forward pass of a design: encode, fuse, answer, and its training objective."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from homeroom.contract.manifest import Modality, Slot
from homeroom.data.preprocess.sequence import FIRST_SKILL_COLUMN
from homeroom_exporter.model import heads, ladder
from homeroom_exporter.model.design import Design, Feeds, Parts
from homeroom_exporter.model.losses import balanced, loss
from homeroom_exporter.model.objectives import alignment, consistency, masked
from homeroom_exporter.quantize.compress import LIMIT

LEVEL = 32.0  # typical size of an int8 feature; brings the ladder's input near 1


def forward(design: Design, parts: Parts, feeds: Feeds) -> dict[str, Tensor]:
    """The output of every task, float32 [batch, width], per token [batch, tokens, width].

    `feeds` are the predict graph's inputs but theta. Where LoRA is inside an encoder, they also hold its `states`, see
    `lora_rows`.
    """
    return _answers(design, parts, _places(design, parts, feeds), feeds)


def _places(design: Design, parts: Parts, feeds: Feeds) -> dict[str, list[_Place]]:
    """Every input of every row after its ladder, by slot and place."""
    presence = feeds["presence"]
    places: dict[str, list[_Place]] = {slot.name: [] for slot in design.slots}
    for modality in design.modalities:
        slots = [s for s in design.slots if s.modality == modality.name]
        columns = [column for s in slots for column in design.columns(s.name)]
        encode = _cross if design.adapter and design.adapter.modality == modality else _encode
        encoded = encode(design, modality, parts, slots, presence[:, columns], feeds)
        for slot in (s for s in slots for _ in range(s.count)):
            places[slot.name].append(next(encoded))
    return places


def _answers(design: Design, parts: Parts, places: Mapping[str, list[_Place]], feeds: Feeds) -> dict[str, Tensor]:
    presence = feeds["presence"]
    vectors = _fuse(design, parts, [place.vector for slot in design.slots for place in places[slot.name]], presence)
    outputs = {}
    for task in design.tasks:
        kind, parameters = design.heads[task.name], parts[f"head.{task.name}"]
        reads = [places[name] for name in task.reads]
        if kind == "fused":
            outputs[task.name] = heads.fused(parameters, vectors[task.name])
        elif kind == "choice":
            options = torch.stack([place.vector for place in reads[1]], 1)
            here = presence[:, design.columns(task.reads[1])]
            outputs[task.name] = heads.choice(parameters, reads[0][0].vector, options, here)
        elif kind == "spans":
            outputs[task.name] = heads.fused(parameters, reads[0][0].tokens)
        elif kind == "tracing":
            answers = _interactions(feeds[f"{task.reads[0]}.features"])
            outputs[task.name] = heads.tracing(parameters, answers, reads[0][0].tokens, reads[0][0].mask)
        elif kind == "matching":
            outputs[task.name] = heads.matching(parameters, reads[0][0].vector, reads[1][0].vector)
        else:
            here = presence[:, [design.columns(name)[0] for name in task.reads]]
            masks = torch.stack([one[0].mask for one in reads], 1)
            outputs[task.name] = heads.pair(
                parameters, [one[0].tokens for one in reads], masks, here, [one[0].vector for one in reads]
            )
    return outputs


class _Place(NamedTuple):
    """One input of every row after its ladder: tokens [batch, tokens, width], mask, pooled vector [batch, width]."""

    tokens: Tensor
    mask: Tensor
    vector: Tensor


def _interactions(features: Tensor) -> Tensor:
    """Of a sequence's features [batch, 1, 1, tokens, dim] what was answered, 0.0 or 1.0 [batch, tokens, 2 skills]."""
    steps = features.reshape(len(features), *features.shape[3:]).to(torch.float32)
    return torch.relu(steps[:, :, FIRST_SKILL_COLUMN:]) * (1 / LIMIT)


def lora_rows(design: Design, feeds: Feeds, kind: str | None = None) -> tuple[Tensor, Tensor]:
    """Every place of every row as one batch of the encoder: inputs, and mask float32 [rows, tokens].

    kind: what follows a slot's name in place of the inputs, such as `reference`.
    """
    assert design.adapter is not None
    slots = design.inside
    inputs = torch.cat([feeds[f"{s.name}.{kind or design.adapter.input}"] for s in slots], 1)
    inputs = inputs.reshape(-1, *inputs.shape[2:])
    if not design.adapter.textual:
        return inputs, torch.ones(len(inputs), 1)
    mask = torch.cat([feeds[f"{s.name}.mask"] for s in slots], 1)
    return inputs, mask.reshape(-1, mask.shape[2])


def _cross(
    design: Design, modality: Modality, parts: Parts, slots: list[Slot], presence: Tensor, feeds: Feeds
) -> Iterator[_Place]:
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
    return map(_Place, *columns)


def _encode(
    design: Design, modality: Modality, parts: Parts, slots: list[Slot], presence: Tensor, feeds: Feeds
) -> Iterator[_Place]:
    """One pass of a modality's ladder over all its slots, then place by place; presence: [batch, places]."""
    parameters = parts[f"ladder.{modality.name}"]
    batch, count = presence.shape
    features = torch.cat([feeds[f"{s.name}.features"] for s in slots], 1)
    mask = torch.cat([feeds[f"{s.name}.mask"] for s in slots], 1)
    scale = torch.from_numpy(normalised(design.scales[modality.name]))
    h = ladder.climb(parameters, features.reshape(batch * count, *features.shape[2:]), scale)
    vectors = ladder.pool(parameters, h, mask.reshape(batch * count, -1), presence.reshape(batch * count, 1))
    columns = (
        ladder.columns(h.reshape(batch, count, *h.shape[1:])),
        ladder.columns(mask),
        ladder.columns(vectors.reshape(batch, count, -1)),
    )
    return map(_Place, *columns)


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
    level = np.sqrt(np.square(scale, dtype=np.float64).mean(-1, keepdims=True)) * LEVEL
    return np.asarray(scale / np.maximum(level, 1e-12), np.float32)


def objective(design: Design, parts: Parts, feeds: Feeds) -> tuple[Tensor, Tensor]:
    """Sum over columns and rows of weight * loss, and the sums by column: tasks, then objectives without labels.

    feeds: the grad graph's inputs. Where the design weighs tasks by their uncertainty, the tasks' part of the first is
    `losses.balanced`.
    """
    places, presence, weights = _places(design, parts, feeds), feeds["presence"], feeds["weights"]
    outputs = _answers(design, parts, places, feeds)
    columns = [loss(t.kind, outputs[t.name], feeds[f"{t.name}.target"]) for t in design.tasks]
    rest = _places(design, parts, {**feeds, **_hidden(design, feeds)}) if design.augmented else places
    for found in design.objectives:
        here = presence[:, [design.columns(name)[0] for name in found.reads]]
        if found.kind == "alignment":
            columns.append(alignment([places[name][0].vector for name in found.reads], here))
        elif found.kind == "masked":
            inputs = [_pair(design, name, feeds) for name in found.reads]
            vectors = [rest[name][0].vector for name in found.reads]
            columns.append(masked(parts[found.segment], inputs, vectors, here))
        else:
            columns.append(consistency(design.consistent(found), outputs, _answers(design, parts, rest, feeds)))
    sums = (torch.stack(columns, 1) * weights).sum(0)
    if design.weighting == "fixed":
        return sums.sum(), sums
    count = len(design.tasks)
    variances = torch.cat([parts[f"weighting.{task.name}"]["log_variance"] for task in design.tasks])
    return balanced(sums[:count], weights.sum(0)[:count], variances) + sums[count:].sum(), sums


def _hidden(design: Design, feeds: Feeds) -> dict[str, Tensor]:
    """Features and masks of the slots with a part hidden; a token that is all zeros is no longer there."""
    found: dict[str, Tensor] = {}
    for name in design.augmented:
        rest = feeds[f"{name}.augmented"]
        shown = rest.to(torch.float32).abs().sum((2, 4)).clamp(max=1.0)
        found |= {f"{name}.features": rest, f"{name}.mask": feeds[f"{name}.mask"] * shown}
    return found


def _pair(design: Design, slot: str, feeds: Feeds) -> tuple[str, Tensor, Tensor, Tensor]:
    """A single slot's modality, its features, those with a part hidden, and their scale."""
    modality = design.slot(slot).modality
    scale = torch.from_numpy(normalised(design.scales[modality]))
    return modality, feeds[f"{slot}.features"].squeeze(1), feeds[f"{slot}.augmented"].squeeze(1), scale
