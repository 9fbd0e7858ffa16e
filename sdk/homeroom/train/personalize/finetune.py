"""Fine-tuning after: a few more epochs of everything on one's own samples, at a low rate.

Wang et al. 2019, "Federated Evaluation of On-device Personalization", section 3: federated training first, then
gradient steps from the global weights on each device.
"""

from __future__ import annotations

import numpy as np

from homeroom.train.features.dataset import Dataset
from homeroom.train.personalize.person import Person

FINETUNE_EPOCHS, FINETUNE_RATE = 10, 0.25  # of the training's learning rate


def finetune(person: Person, own: Dataset) -> np.ndarray:
    return person.train(own, epochs=FINETUNE_EPOCHS, learning_rate=FINETUNE_RATE * person.settings.learning_rate)
