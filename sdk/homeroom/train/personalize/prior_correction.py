"""Prior correction: how often a person's samples are of each class is added to what everybody's model finds likely.

Saerens et al. 2002, "Adjusting the Outputs of a Classifier to New a Priori Probabilities: A Simple Procedure", equation
2.4: where only the classes' shares differ, the right posterior is the model's, times the new share of each class over
the old one. In logits that is a sum, so it goes into the bias of the head. The person's shares are those of the own
labels with SMOOTH more of each class. What the shared model takes for usual is guessed from everybody else's labels on
this device, with EVEN more of each class, to the power of what training leaves of it: classes that are weighted by
their count to the power of -balance are learned as if there were count ** (1 - balance) of each. Mixing says how much
of it to believe.
"""

from __future__ import annotations

import numpy as np

from homeroom.contract.layout import Segment
from homeroom.train.features.dataset import Dataset
from homeroom.train.personalize.person import Person

OWN_PSEUDO_COUNT = 0.5  # Jeffreys' prior of a share
SHARED_PSEUDO_COUNT = (
    5.0  # labels of each class; how firmly the shared model's shares are held for even without other people's
)


def correct_prior(person: Person, own: Dataset) -> np.ndarray:
    """The shared theta with the bias of each classification moved; other tasks stay as they are."""
    theta, layout = person.shared.copy(), own.manifest.layout
    for column, task in enumerate(own.manifest.tasks):
        rows = own.labelled[:, column] > 0
        if task.kind != "classification" or not rows.any():
            continue
        if where := bias_of(layout[f"head.{task.name}"]):
            counts = own.targets[task.name][rows].sum(0) + OWN_PSEUDO_COUNT
            start = layout.slices[f"head.{task.name}"].start
            usual = person.others.get(task.name, np.zeros(task.width)) + SHARED_PSEUDO_COUNT
            moved = np.log(counts / counts.mean()) - (1 - person.settings.balance) * np.log(usual / usual.mean())
            theta[start + where.start : start + where.stop] += moved
    return theta


def bias_of(head: Segment) -> slice | None:
    """Where in a head its bias stands, if it has one: one value an output."""
    at = 0
    for parameter in head.parameters:
        size = int(np.prod(parameter.shape))
        if parameter.name == "bias":
            return slice(at, at + size)
        at += size
    return None
