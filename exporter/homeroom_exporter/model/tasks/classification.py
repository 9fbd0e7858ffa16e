"""Classification: logits over the labels."""

from __future__ import annotations

from homeroom_exporter.model.tasks.base import (
    ExportedKind,
    cross_entropy,
    distribution_agreement,
    one_a_label,
    one_hot,
)

CLASSIFICATION = ExportedKind(
    name="classification",
    loss=cross_entropy,
    width=one_a_label,
    least_labels=2,
    example_target=one_hot,
    agreement=distribution_agreement,
)
