"""How often a poor input counts beside good ones, a weight a modality, learned from those of validation samples.

A weight w multiplies the input's attention in the fusion by w, see `contract.manifest.ABSENT`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from homeroom.data.quality.finding import DEFAULT_INPUT_WEIGHT
from homeroom.runtime.graphs import Graphs
from homeroom.train.cross_validation import losses_of
from homeroom.train.evaluate import outputs_of
from homeroom.train.features.dataset import Dataset, Example

TRIED = (0.01, 0.1, 0.25, 0.5, 1.0)  # the first as good as left out
LEAST = 10  # validation samples with a poor input of the modality, and a label


def learned_weights(
    graphs: Graphs, validation: Dataset, theta: np.ndarray, before: Mapping[str, float]
) -> dict[str, float]:
    """By modality the weight with the least log-loss; the one before where it is not behind by a standard error.

    theta: float32 [P]. before: weights in force; DEFAULT_INPUT_WEIGHT where it names none.
    """
    found, manifest = dict(before), validation.manifest
    judged = [column for column, task in enumerate(manifest.tasks) if not task.per_token]
    labelled = np.any(validation.labelled[:, judged], 1).tolist()
    for name in {modality for _, modality, _ in manifest.inputs}:
        slots = {slot.name for slot in manifest.slots if slot.modality == name}
        rows = [e for e, known in zip(validation.examples, labelled, strict=True) if known and _poor(e, slots)]
        if len(rows) < LEAST:
            continue
        usual, losses = before.get(name, DEFAULT_INPUT_WEIGHT), dict[float, np.ndarray]()
        for weight in {*TRIED, usual}:
            dataset = Dataset(manifest, [counted(e, slots, weight) for e in rows])
            losses[weight] = losses_of(dataset, outputs_of(graphs, dataset, theta))
        best = min(losses, key=lambda weight: losses[weight].mean())
        ahead = losses[usual] - losses[best]
        if ahead.mean() > ahead.std(ddof=1) / len(ahead) ** 0.5:
            found[name] = best
    return found


def counted(example: Example, slots: set[str], weight: float) -> Example:
    """The example with its poor inputs of these slots counting so often."""
    return replace(example, counts={place: weight if place[0] in slots else w for place, w in example.counts.items()})


def _poor(example: Example, slots: set[str]) -> bool:
    return any(slot in slots for slot, _ in example.counts)
