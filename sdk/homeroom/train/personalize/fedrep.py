"""FedRep: the shared layers are everybody's, the heads one's own.

Collins et al. 2021, "Exploiting Shared Representations for Personalized Federated Learning", algorithm 1: here the
client's head update, with the representation that the federation learned frozen.
"""

from __future__ import annotations

import numpy as np

from homeroom.train.features.dataset import Dataset
from homeroom.train.layer_freezing import shared_segments
from homeroom.train.personalize.person import Person

FEDREP_EPOCHS = 20


def fedrep(person: Person, own: Dataset) -> np.ndarray:
    """Theta float32 [P] after training the heads alone on the own samples."""
    return person.train(own, epochs=FEDREP_EPOCHS, frozen=shared_segments(own.manifest.layout))
