"""Spans: for each token of one text logits over no label and the labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from homeroom.contract.manifest import Slot
from homeroom_exporter.model.heads import Head, HeadInputs, fused, is_single, linear_parameters
from homeroom_exporter.model.ladder import Parameters
from homeroom_exporter.model.tasks.base import ExportedKind, token_cross_entropy


def _output(parameters: Parameters, inputs: HeadInputs) -> Tensor:
    return fused(parameters, inputs.places[0][0].tokens)


def _fits(reads: Sequence[Slot]) -> bool:
    return is_single(reads) and [slot.modality for slot in reads] == ["text"]


def _width(labels: Sequence[str], reads: Sequence[Slot]) -> int:
    return 1 + len(labels)


def _example_target(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    labels = np.eye(shape[-1], dtype=np.float32)[rng.integers(0, shape[-1], shape[:-1])]
    return np.asarray(labels * (rng.random(shape[:-1]) < 0.8).astype(np.float32)[..., None])


TEXT_SPANS = ExportedKind(
    name="spans",
    loss=token_cross_entropy,
    width=_width,
    least_labels=1,
    example_target=_example_target,
    head=Head(
        name="spans",
        parameters=linear_parameters,
        output=_output,
        fits=_fits,
        rule="spans reads one single text slot",
        reads_text_tokens=True,
    ),
)
