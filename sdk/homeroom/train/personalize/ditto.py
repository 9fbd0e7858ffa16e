"""Ditto: a personal copy of everything, drawn back to the shared model by a proximal term.

Li et al. 2021, "Ditto: Fair and Robust Federated Learning Through Personalization", equation 2: the personal v
minimises F(v) + lambda/2 |v - w|^2 with w the shared theta.
"""

from __future__ import annotations

import numpy as np

from homeroom.train.features.dataset import Dataset
from homeroom.train.personalize.person import Person

DITTO_EPOCHS = 20
DITTO_LAMBDA = 0.1


def ditto(person: Person, own: Dataset) -> np.ndarray:
    """Theta float32 [P] after training on the own samples with the proximal term."""
    return person.train(own, epochs=DITTO_EPOCHS, proximal=DITTO_LAMBDA)
