"""Input weights: learns how strongly a low-quality input of each modality is down-weighted (0.01 to 1), by log-loss.

A weight w multiplies the input's attention in the fusion by w, see `contract.manifest.ABSENT_SCORE`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from homeroom.data.quality.finding import DEFAULT_INPUT_WEIGHT
from homeroom.data.tasks import kind_of
from homeroom.runtime.graphs import Graphs
from homeroom.train.cross_validation import losses_of
from homeroom.train.evaluate import outputs_of
from homeroom.train.features.dataset import Dataset, Example

CANDIDATE_WEIGHTS = (0.01, 0.1, 0.25, 0.5, 1.0)  # the first is as good as left out
LEAST_POOR_SAMPLES = 10  # validation samples with a label and a poor input of the modality


def learn_input_weights(
    graphs: Graphs, validation: Dataset, theta: np.ndarray, before: Mapping[str, float]
) -> dict[str, float]:
    """Weights by modality: the one with the least log-loss where it is better than `before` by a standard error.

    theta: float32 [P]
    before: weights in use; DEFAULT_INPUT_WEIGHT where it names none
    """
    weights, manifest = dict(before), validation.manifest
    columns = [column for column, task in enumerate(manifest.tasks) if not kind_of(task).per_token]
    labelled = np.any(validation.labelled[:, columns], 1).tolist()
    for modality in {modality for _, modality, _ in manifest.inputs}:
        slots = {slot.name for slot in manifest.slots if slot.modality == modality}
        judged = (example for example, known in zip(validation.examples, labelled, strict=True) if known)
        examples = [example for example in judged if any(slot in slots for slot, _ in example.input_weights)]
        if len(examples) < LEAST_POOR_SAMPLES:
            continue
        in_use, losses = before.get(modality, DEFAULT_INPUT_WEIGHT), dict[float, np.ndarray]()
        for weight in {*CANDIDATE_WEIGHTS, in_use}:
            dataset = Dataset(manifest, [with_input_weight(e, slots, weight) for e in examples])
            losses[weight] = losses_of(dataset, outputs_of(graphs, dataset, theta))
        best = min(losses, key=lambda weight: losses[weight].mean())
        gain = losses[in_use] - losses[best]
        if gain.mean() > gain.std(ddof=1) / len(gain) ** 0.5:
            weights[modality] = best
    return weights


def with_input_weight(example: Example, slots: set[str], weight: float) -> Example:
    """The example with this weight for its poor inputs in the slots."""
    weights = {key: weight if key[0] in slots else other for key, other in example.input_weights.items()}
    return replace(example, input_weights=weights)


def weighted_dataset(dataset: Dataset, weights: Mapping[str, float]) -> Dataset:
    """The dataset with these weights of poor inputs by modality, DEFAULT_INPUT_WEIGHT where they name none."""
    slots = {slot: weights.get(modality, DEFAULT_INPUT_WEIGHT) for slot, modality, _ in dataset.manifest.inputs}
    weighted = [replace(e, input_weights={key: slots[key[0]] for key in e.input_weights}) for e in dataset.examples]
    return Dataset(dataset.manifest, weighted)
