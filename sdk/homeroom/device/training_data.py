"""The parts of one training on this device: its limits, where it starts, and the examples it has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from homeroom.data.samples import StoredSample
from homeroom.device.resources.budget import BudgetWatch
from homeroom.federation import versions
from homeroom.runtime.bundle import Bundle
from homeroom.runtime.graphs import Graphs
from homeroom.store import Store
from homeroom.store.versions import UnfinishedTraining
from homeroom.train.features.compute import Progress
from homeroom.train.features.dataset import Dataset, Example
from homeroom.train.settings import Settings


@dataclass(frozen=True)
class TrainingRun:
    """The device's parts and the limits of one training; `began_s` is of `time.monotonic`."""

    store: Store
    bundle: Bundle
    graphs: Graphs
    watch: BudgetWatch
    settings: Settings
    progress: Progress | None
    began_s: float

    @property
    def watched(self) -> dict[str, Any]:
        """Options of `to_examples` that keep to the budget."""
        return {"progress": self.progress, "stop": self.watch.over, "decode_room": self.watch.decode_room}


@dataclass(frozen=True)
class TrainingData:
    """Where a training starts and what it has: `unfinished` is an interrupted one, known by `tag`.

    weights: of poor inputs by modality, as the examples have them
    """

    start: versions.TrainingStart
    tag: str
    unfinished: UnfinishedTraining | None
    samples: Sequence[StoredSample]
    weights: Mapping[str, float]
    examples: Sequence[Example]
    train: Dataset
    validation: Dataset | None

    @property
    def subjects(self) -> set[str]:
        """Whose samples are in the version that comes of it."""
        return {*self.start.subjects, *(example.subject for example in self.examples)}
