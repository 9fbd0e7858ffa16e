"""The model in use, read from the store at one moment: other threads may train, sync or install while it answers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from homeroom.data.samples import Sample, StoredSample
from homeroom.data.tasks.answers import Answer
from homeroom.data.validation import resolve
from homeroom.device import profiles
from homeroom.federation import versions
from homeroom.inference.predict import noted, predict
from homeroom.runtime.bundle import Bundle
from homeroom.runtime.graphs import Graphs
from homeroom.store import Store
from homeroom.train.features.buffer import buffer_bytes
from homeroom.train.features.dataset import Example
from homeroom.train.features.examples import examples
from homeroom.train.features.quality_gate import PredictionView, prediction_view


@dataclass(frozen=True)
class ModelInUse:
    """The version in use, or a person's own model on top of it; `graphs` are those of its bundle.

    theta: float32 [P].
    temperatures: of calibration, by task.
    input_weights: of poor inputs, by modality.
    trained: the tasks that theta ever learned; None if that is not known.
    note: for each answer; empty, or that a person has no model of their own.
    """

    graphs: Graphs
    theta: np.ndarray
    temperatures: Mapping[str, float]
    input_weights: Mapping[str, float]
    trained: Collection[str] | None
    note: str = ""

    @property
    def bundle(self) -> Bundle:
        """The installed bundle."""
        return self.graphs.bundle

    def checked(self, sample: Sample) -> PredictionView:
        """A sample as it is answered, without its empty inputs, and what is to be said of it."""
        manifest = self.bundle.manifest
        notes = [self.note]
        view = prediction_view(resolve(sample, manifest, note=notes.append), manifest, self.input_weights)
        return replace(view, note="; ".join(filter(None, (view.note, *notes))))

    def examples(self, samples: Sequence[StoredSample]) -> Sequence[Example]:
        """Their examples, from features that are computed here and not stored."""
        room = buffer_bytes(len(samples))
        return examples(None, self.bundle, self.graphs, samples, weights=self.input_weights, room=room)

    def answers(self, ready: Sequence[Example]) -> list[dict[str, Answer]]:
        """The answers for each example, by task."""
        return predict(self.graphs, self.bundle.manifest, self.theta, ready, self.temperatures, self.trained)

    def answer(self, samples: Sequence[Sample]) -> list[dict[str, Answer]]:
        """The answers for each sample, by task, with notes on their poor inputs."""
        checked, manifest = [self.checked(sample) for sample in samples], self.bundle.manifest
        answers = self.answers(self.examples([view.sample for view in checked]))
        return [noted(answer, manifest, view) for answer, view in zip(answers, checked, strict=True)]


def model_in_use(store: Store, graphs: Graphs, subject: str | None = None) -> ModelInUse:
    """The model in use, or that of `subject`, where there is one."""
    bundle = graphs.bundle
    with store.at_rest():
        version = store.versions.current()
        temperatures = versions.temperatures(store, version)
        trained = set(temperatures) if version and version.kind == "local" and version.base == 0 else None
        personal = store.profile(subject) if subject else None
        theta = profiles.personal_theta(bundle, personal, versions.theta_of(store, bundle, version))
        temperatures = profiles.personal_temperatures(personal, temperatures)
        note = f"{subject!r} has no model of their own here: the shared one answers" if subject and not personal else ""
        return ModelInUse(graphs, theta, temperatures, versions.input_weights(store, version), trained, note)
