"""Task kinds and heads by name; one module a kind, which the device's `homeroom.data.tasks` has as well."""

from __future__ import annotations

from homeroom.contract.manifest import Task
from homeroom.data.tasks import KINDS as DEVICE_KINDS
from homeroom_exporter.model.heads import FUSED, PAIR, Head
from homeroom_exporter.model.tasks.base import ExportedKind
from homeroom_exporter.model.tasks.choice import CHOICE
from homeroom_exporter.model.tasks.classification import CLASSIFICATION
from homeroom_exporter.model.tasks.matching import MATCHING
from homeroom_exporter.model.tasks.multilabel import MULTILABEL
from homeroom_exporter.model.tasks.ordinal import ORDINAL
from homeroom_exporter.model.tasks.regression import REGRESSION
from homeroom_exporter.model.tasks.spans import TEXT_SPANS
from homeroom_exporter.model.tasks.tracing import TRACING

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
for _kind in (CLASSIFICATION, ORDINAL, MULTILABEL, REGRESSION, CHOICE, MATCHING, TEXT_SPANS, TRACING):
    register(_kind)


def kind_of(task: Task) -> ExportedKind:
    """The kind of a task."""
    return KINDS[task.kind]
