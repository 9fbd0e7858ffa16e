"""The M3T model's design, which fixes theta's layout: ladders, fusion and heads over the features of named slots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec
import numpy as np
import torch
from torch import Tensor

from homeroom.contract.graph_io import augmented_slots
from homeroom.contract.layout import Layout, Scope, Segment
from homeroom.contract.manifest import Modality, Objective, Slot, Task
from homeroom.data.tasks import kind_of
from homeroom_exporter.model import heads, ladder
from homeroom_exporter.model.lora.adapter import Adapter
from homeroom_exporter.model.losses import Weighting, weighting_segment
from homeroom_exporter.model.objectives import masked_segment
from homeroom_exporter.model.tasks import HEADS
from homeroom_exporter.model.tasks import kind_of as exported_kind

SHARPNESS = 10.0  # initial scale of a cosine

Parts = Mapping[str, Mapping[str, Tensor]]
Feeds = Mapping[str, Tensor]


@dataclass(frozen=True)
class Design:
    """All that fixes theta's layout and the graphs. `scales`: float32 [taps, dim] by modality; `heads`: by task.

    `scopes`: how far a segment may go, by name, where that is not to the federation.
    adapter: LoRA inside one modality's encoder, in place of its ladder.
    added: by task, how many labels came with each later bundle (`heads.head_segment`).
    """

    modalities: tuple[Modality, ...]
    scales: Mapping[str, np.ndarray]
    slots: tuple[Slot, ...]
    tasks: tuple[Task, ...]
    heads: Mapping[str, str]
    width: int = 64
    hidden: int = 128
    weighting: Weighting = "fixed"
    adapter: Adapter | None = None
    scopes: Mapping[str, Scope] = field(default_factory=dict)
    objectives: tuple[Objective, ...] = ()
    added: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def inputs(self) -> tuple[tuple[str, str, int], ...]:
        """(slot, modality, place), as `Manifest.inputs`."""
        return tuple((s.name, s.modality, place) for s in self.slots for place in range(s.count))

    @property
    def augmented(self) -> tuple[str, ...]:
        """The slots that a training step also reads with a part hidden."""
        return augmented_slots(self)

    def consistent(self, objective: Objective) -> list[Task]:
        """The tasks whose answers a consistency objective compares."""
        tasks = [task for task in self.explained if exported_kind(task).agreement]
        return [task for task in tasks if not set(task.reads).isdisjoint(objective.reads)]

    @property
    def per_token(self) -> frozenset[str]:
        """Names of the tasks that answer for each token."""
        return frozenset(task.name for task in self.tasks if kind_of(task).per_token)

    @property
    def asked(self) -> frozenset[str]:
        """Names of the tasks per token of which a training step computes the asked column alone."""
        return frozenset(name for name, head in self.heads.items() if HEADS[head].asked)

    @property
    def explained(self) -> tuple[Task, ...]:
        """The tasks whose answers a saliency graph speaks of: those with one answer a sample."""
        return tuple(task for task in self.tasks if task.name not in self.per_token)

    @property
    def inside(self) -> tuple[Slot, ...]:
        """The slots whose encoder has LoRA inside."""
        return tuple(s for s in self.slots if self.adapter and s.modality == self.adapter.modality.name)

    def modality(self, name: str) -> Modality:
        """The modality of that name."""
        return next(m for m in self.modalities if m.name == name)

    def slot(self, name: str) -> Slot:
        """The slot of that name."""
        return next(s for s in self.slots if s.name == name)

    def columns(self, slot: str) -> list[int]:
        """The columns of presence that belong to a slot."""
        return [i for i, (name, _, _) in enumerate(self.inputs) if name == slot]

    @property
    def layout(self) -> Layout:
        """Theta's segments: ladders or LoRA, fusion, heads, masked predictors, task weights."""
        segments: list[Segment] = []
        for modality in self.modalities:
            if self.adapter and self.adapter.modality == modality:
                segments += self.adapter.segments(self.width)
            else:
                segments.append(ladder.ladder_segment(modality, self.width, self.hidden))
        if "fused" in self.heads.values():
            segments.append(ladder.fusion_segment(self.width, self.hidden))
        for task in self.tasks:
            reads = [self.modality(self.slot(name).modality).features_id for name in task.reads]
            head, added = HEADS[self.heads[task.name]], self.added.get(task.name, ())
            segments.append(heads.head_segment(task, head, reads, self.width, added))
        for objective in (one for one in self.objectives if one.kind == "masked"):
            names = dict.fromkeys(self.slot(slot).modality for slot in objective.reads)
            segments.append(masked_segment(objective, [self.modality(name) for name in names], self.width))
        if self.weighting == "uncertainty":
            segments += [weighting_segment(task) for task in self.tasks]
        return Layout(tuple(self._scoped(segment) for segment in segments))

    def _scoped(self, segment: Segment) -> Segment:
        scope = self.scopes.get(segment.name)
        return msgspec.structs.replace(segment, scope=scope, widest=scope) if scope else segment


def initial_theta(layout: Layout, seed: int) -> np.ndarray:
    """float32 [P]: weights from N(0, 1/fan-in), the last layer of a residual block and queries zero, biases zero."""
    rng = np.random.default_rng(seed)
    values = []
    for segment in layout:
        for parameter in segment.parameters:
            size = int(np.prod(parameter.shape))
            if parameter.name == "sharpness":
                values.append(np.full(size, SHARPNESS))
            elif parameter.name.endswith("weight") and parameter.name not in ("down.weight", "pool.weight"):
                values.append(rng.standard_normal(size) * parameter.shape[0] ** -0.5)
            elif parameter.name == "positions":
                values.append(rng.standard_normal(size) * 0.1)
            else:
                values.append(np.zeros(size))
    return np.concatenate(values).astype(np.float32)


def unflatten(layout: Layout, theta: Tensor) -> list[Tensor]:
    """theta [P] as one tensor for each parameter, in the layout's order."""
    shapes = [p.shape for segment in layout for p in segment.parameters]
    pieces = torch.split(theta, [int(np.prod(shape)) for shape in shapes])
    return [piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True)]


def name_parts(layout: Layout, tensors: list[Tensor]) -> dict[str, dict[str, Tensor]]:
    """The tensors of `unflatten` by segment and parameter name."""
    rest = iter(tensors)
    return {segment.name: {p.name: next(rest) for p in segment.parameters} for segment in layout}
