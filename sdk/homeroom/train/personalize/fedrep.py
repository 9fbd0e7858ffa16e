"""FedRep: the representation is everybody's, the head one's own.

Collins et al. 2021, "Exploiting Shared Representations for Personalized Federated Learning", algorithm 1: here the
client's head update, with the representation that the federation learned held fast.
"""

from __future__ import annotations

import numpy as np

from homeroom.train.features.dataset import Dataset
from homeroom.train.personalize.person import Person

FEDREP_EPOCHS = 20


def fedrep(person: Person, own: Dataset) -> np.ndarray:
    body = tuple(segment.name for segment in own.manifest.segments if segment.task is None)
    return person.train(own, epochs=FEDREP_EPOCHS, frozen=body)
