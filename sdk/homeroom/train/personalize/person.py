"""What every method of personalization starts from; imports training only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from homeroom.runtime.graphs import Graphs
from homeroom.train.features.dataset import Dataset
from homeroom.train.fit import fit
from homeroom.train.settings import Settings


class OutOfTimeError(Exception):
    """The budget ended inside a method; what it had is not used."""


@dataclass(frozen=True)
class Person:
    """`shared`: float32 [P], the model of all; `settings`: of the device's training; `stop`: whether to end there.

    `others`: by classification task, how many labels of each class [classes] other people's samples have here.
    """

    graphs: Graphs
    shared: np.ndarray
    settings: Settings
    stop: Callable[[], bool] = bool
    others: Mapping[str, np.ndarray] = field(default_factory=dict)

    def train(self, own: Dataset, **changes: Any) -> np.ndarray:
        """Theta [P] after training from the shared one on `own`, with some settings changed; never for other tiers."""
        settings = msgspec.structs.replace(self.settings, **{"nested": False} | changes)
        found = fit(self.graphs, own, None, self.shared, settings, stop=self.stop)
        if not found.finished:
            raise OutOfTimeError
        return found.theta


Method = Callable[[Person, Dataset], np.ndarray]
