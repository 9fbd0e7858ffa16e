"""Fine-tuning: a few more epochs of all layers on one's own samples, at a low rate.

Wang et al. 2019, "Federated Evaluation of On-device Personalization", section 3: federated training first, then
gradient steps from the global weights on each device.
"""

from __future__ import annotations

import numpy as np

from homeroom.train.features.dataset import Dataset
from homeroom.train.personalize.person import Person

FINETUNE_EPOCHS = 10
FINETUNE_RATE = 0.25  # share of the training's learning rate


def finetune(person: Person, own: Dataset) -> np.ndarray:
    """Theta float32 [P] after training on the own samples."""
    return person.train(own, epochs=FINETUNE_EPOCHS, learning_rate=FINETUNE_RATE * person.settings.learning_rate)
