"""Prior correction: adapts the shared model's class probabilities to how often the person has each class.

Saerens et al. 2002, "Adjusting the Outputs of a Classifier to New a Priori Probabilities: A Simple Procedure", equation
2.4: where only the priors of the classes differ, the right posterior is the model's, times the new prior of each class
over the old one. In logits that is a sum, so it goes into the bias of the head.

The new prior is the classes' shares among the person's own labels, with OWN_PSEUDO_COUNT more of each class. The old
one is estimated from everybody else's labels on this device, with SHARED_PSEUDO_COUNT more of each class, to the power
of 1 - balance: classes weighted by count ** -balance are learned as if there were count ** (1 - balance) of each.
Mixing decides how much of the correction is used.
"""

from __future__ import annotations

import numpy as np

from homeroom.contract.layout import Segment
from homeroom.data.tasks import kind_of
from homeroom.train.features.dataset import Dataset
from homeroom.train.personalize.person import Person

OWN_PSEUDO_COUNT = 0.5  # labels of each class: Jeffreys' prior
SHARED_PSEUDO_COUNT = 5.0  # labels of each class: how strongly the old prior is assumed even


def correct_prior(person: Person, own: Dataset) -> np.ndarray:
    """The shared theta float32 [P] with the bias of each classification corrected; other tasks stay as they are."""
    theta, layout = person.shared.copy(), own.manifest.layout
    for column, task in enumerate(own.manifest.tasks):
        rows = own.labelled[:, column] > 0
        if not kind_of(task).class_prior or not rows.any():
            continue
        if bias := _bias_of(layout[f"head.{task.name}"]):
            counts = own.targets[task.name][rows].sum(0) + OWN_PSEUDO_COUNT
            start = layout.slices[f"head.{task.name}"].start
            usual = person.others.get(task.name, np.zeros(task.width)) + SHARED_PSEUDO_COUNT
            shift = np.log(counts / counts.mean()) - (1 - person.settings.balance) * np.log(usual / usual.mean())
            theta[start + bias.start : start + bias.stop] += shift
    return theta


def _bias_of(head: Segment) -> slice | None:
    """Positions of a head's bias in its segment, if it has one: one value an output."""
    start = 0
    for parameter in head.parameters:
        size = int(np.prod(parameter.shape))
        if parameter.name == "bias":
            return slice(start, start + size)
        start += size
    return None
