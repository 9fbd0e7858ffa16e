"""Task kinds and heads by name; one module a kind, which the device's `homeroom.data.tasks` has as well."""

from __future__ import annotations

from torch import Tensor

from homeroom.contract.manifest import Task
from homeroom.data.tasks import KINDS as DEVICE_KINDS
from homeroom_exporter.model.heads import FUSED, PAIR, Head
from homeroom_exporter.model.tasks import (
    choice,
    classification,
    matching,
    multilabel,
    ordinal,
    regression,
    spans,
    tracing,
)
from homeroom_exporter.model.tasks.base import ExportedKind

MODULES = (classification, ordinal, multilabel, regression, choice, matching, spans, tracing)
KINDS: dict[str, ExportedKind] = {}
HEADS: dict[str, Head] = {}


def register(kind: ExportedKind) -> None:
    """Adds a kind and its head, which recipes may then name.

    ValueError if there is one of that name, or devices have no such kind.
    """
    if kind.name not in DEVICE_KINDS:
        raise ValueError(f"homeroom.data.tasks has no kind {kind.name!r}")
    if KINDS.setdefault(kind.name, kind) is not kind or HEADS.setdefault(kind.head.name, kind.head) is not kind.head:
        raise ValueError(f"there is a task kind or a head {kind.name!r} already")


for _head in (FUSED, PAIR):
    HEADS[_head.name] = _head
for _module in MODULES:
    register(_module.KIND)


def kind_of(task: Task) -> ExportedKind:
    """The kind of a task."""
    return KINDS[task.kind]


def loss(kind: str, output: Tensor, target: Tensor) -> Tensor:
    """The loss of each row [batch]; output, target: as of `ExportedKind.loss`."""
    return KINDS[kind].loss(output, target)
