"""A person: the input of every method of personalization."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from homeroom.errors import SignalError
from homeroom.runtime.graphs import Graphs
from homeroom.train.features.dataset import Dataset
from homeroom.train.fit import fit
from homeroom.train.settings import Settings


class OutOfTimeError(SignalError):
    """The budget ended inside a method, whose result is not used."""


@dataclass(frozen=True)
class Person:
    """One person on this device.

    shared: theta float32 [P] of the shared model
    settings: of the device's training
    stop: asked before every batch whether to end there
    others: the number of labels of each class [classes] that other people's samples have here, by classification task
    """

    graphs: Graphs
    shared: np.ndarray
    settings: Settings
    stop: Callable[[], bool] = bool
    others: Mapping[str, np.ndarray] = field(default_factory=dict)

    def train(self, own: Dataset, **changes: Any) -> np.ndarray:
        """Theta float32 [P] after training on `own` from the shared one; OutOfTimeError if the budget ends first.

        changes: settings that differ from the device's. Smaller tiers are not trained with it.
        """
        settings = msgspec.structs.replace(self.settings, **{"nested": False} | changes)
        result = fit(self.graphs, own, None, self.shared, settings, stop=self.stop)
        if not result.finished:
            raise OutOfTimeError
        return result.theta


Method = Callable[[Person, Dataset], np.ndarray]  # (person, own samples) -> theta float32 [P]
