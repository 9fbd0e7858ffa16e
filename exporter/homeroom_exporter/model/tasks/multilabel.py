"""Multilabel: one logit a label."""

from __future__ import annotations

from homeroom_exporter.model.tasks.base import (
    ExportedKind,
    binary_cross_entropy,
    column_agreement,
    many_hot,
    one_a_label,
)

MULTILABEL = ExportedKind(
    name="multilabel",
    loss=binary_cross_entropy,
    width=one_a_label,
    least_labels=1,
    example_target=many_hot,
    agreement=column_agreement,
)
