"""The model in use, read from the store at one moment: other threads may train, sync or install while it answers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from homeroom.data.samples import Sample, StoredSample
from homeroom.data.tasks.answers import Answer
from homeroom.data.tasks.metrics import Score
from homeroom.data.validation import resolve
from homeroom.device import profiles
from homeroom.device.local_labels import answering
from homeroom.device.solved import HeadsInUse, mixes_in_use
from homeroom.federation import versions
from homeroom.inference.predict import doubted, noted, predict
from homeroom.inference.solved_pull import SolvedPull, solved_pull
from homeroom.runtime.bundle import Bundle
from homeroom.runtime.graphs import Graphs
from homeroom.store import Store
from homeroom.train.features.buffer import buffer_bytes
from homeroom.train.features.dataset import Dataset, Example
from homeroom.train.features.examples import examples
from homeroom.train.features.quality_gate import PredictionView, prediction_view
from homeroom.train.selective import TOO_OFTEN_WRONG, UNLIKE
from homeroom.train.solve.combine import NOT_SOLVED, Mix, SolvedPart
from homeroom.train.solve.evaluate import evaluate_both
from homeroom.train.solve.heads import TaskHead, outputs_by_task, vectors_of
from homeroom.train.solve.local_labels import LocalOutputs
from homeroom.train.solve.vectors.projection import Projection

PROFILE_KNOWS_NONE = "a person's own model does not know the labels of this device"
CUT_SHORT = "the training was cut short: train again to go on"


@dataclass(frozen=True)
class ModelInUse:
    """The version in use, or a person's own model on top of it; `graphs` are those of its bundle.

    theta: float32 [P].
    temperatures: of calibration, by task.
    input_weights: of poor inputs, by modality.
    trained: the tasks that theta ever learned; None if that is not known.
    heads: solved ones that answer too, by task; mixes: how they count beside theta, alone where there is none.
    projections: of the blocks that heads read.
    others: heads of other schools' statistics alone, to be compared with.
    note: for each answer; empty, that a person has no model of their own, or that a training was cut short.
    doubts: why no answer of a task is sure, by task.
    least: from which probability on an answer is sure, by task, where that is more than usual.
    far: from which distance on its features are unlike all that was learned, by task.
    local: heads that know labels of this device too, by task; samples: that taught each of these.
    """

    graphs: Graphs
    theta: np.ndarray
    temperatures: Mapping[str, float]
    input_weights: Mapping[str, float]
    trained: Collection[str] | None
    heads: Mapping[str, TaskHead] = field(default_factory=dict)
    mixes: Mapping[str, Mix] = field(default_factory=dict)
    projections: Mapping[str, Projection] = field(default_factory=dict)
    others: Mapping[str, TaskHead] = field(default_factory=dict)
    note: str = ""
    doubts: Mapping[str, str] = field(default_factory=dict)
    least: Mapping[str, float] = field(default_factory=dict)
    far: Mapping[str, float] = field(default_factory=dict)
    local: Mapping[str, TaskHead] = field(default_factory=dict)
    samples: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

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

    def part(self, samples: Sequence[StoredSample], ready: Sequence[Example], *, compared: bool = False) -> SolvedPart:
        """The solved part of the answers for samples and their examples. compared: also what others' sums alone say."""
        if not self.heads or not ready:
            return NOT_SOLVED
        vectors = vectors_of(self.bundle.manifest, self.projections, samples, ready, lambda _, value: value)
        others = outputs_by_task(self.others, vectors) if compared else {}
        return SolvedPart(outputs_by_task(self.heads, vectors), self.mixes, others)

    def pull(self, task: str, sample: StoredSample, example: Example) -> SolvedPull | None:
        """What each input of a sample adds to the solved part of an answer; None where theta answers alone."""
        if task not in self.heads:
            return None
        vectors = vectors_of(self.bundle.manifest, self.projections, [sample], [example], lambda _, value: value)
        return solved_pull(self.heads[task], vectors, self.mixes.get(task))

    def answers(self, samples: Sequence[StoredSample]) -> list[dict[str, Answer]]:
        """The answers for each sample, by task."""
        ready, manifest = self.examples(samples), self.bundle.manifest
        part, local = self.part(samples, ready), self._local_outputs(samples, ready)
        found = predict(self.graphs, manifest, self.theta, ready, self.temperatures, self.trained, part, local)
        return [
            {name: self._doubted(name, one, part, row) for name, one in answers.items()}
            for row, answers in enumerate(found)
        ]

    def _local_outputs(self, samples: Sequence[StoredSample], ready: Sequence[Example]) -> dict[str, LocalOutputs]:
        """By task that has local labels, what the head says that knows them."""
        if not self.local or not ready:
            return {}
        vectors = vectors_of(self.bundle.manifest, self.projections, samples, ready, lambda _, value: value)
        outputs = outputs_by_task(self.local, vectors)
        return {
            name: LocalOutputs(self.local[name].task, one, self._solved_temperature(name), self.samples[name])
            for name, one in outputs.items()
        }

    def _solved_temperature(self, task: str) -> float:
        return self.mixes[task].solved_temperature if task in self.mixes else 1.0

    def _doubted(self, task: str, answer: Answer, part: SolvedPart, row: int) -> Answer:
        """The answer for a row of the part, not sure where it was judged that it cannot be."""
        distance = part.outputs[task].distance if task in part.outputs else None
        if task in self.far and distance is not None and distance[row] > self.far[task]:
            answer = doubted(answer, UNLIKE)
        unsure = answer.sure and max(answer.probabilities.values(), default=1.0) < self.least.get(task, 0.0)
        return doubted(doubted(answer, TOO_OFTEN_WRONG if unsure else None), self.doubts.get(task))

    def score(self, samples: Sequence[StoredSample]) -> dict[str, Score]:
        """Scores by task on labelled samples as they are answered, with those of each part."""
        manifest = self.bundle.manifest
        samples = [prediction_view(sample, manifest, self.input_weights).sample for sample in samples]
        ready = self.examples(samples)
        dataset, part = Dataset(manifest, ready), self.part(samples, ready, compared=True)
        return evaluate_both(self.graphs, dataset, self.theta, part, self.temperatures)

    def answer(self, samples: Sequence[Sample]) -> list[dict[str, Answer]]:
        """The answers for each sample, by task, with notes on their poor inputs."""
        checked, manifest = [self.checked(sample) for sample in samples], self.bundle.manifest
        answers = self.answers([view.sample for view in checked])
        return [noted(answer, manifest, view) for answer, view in zip(answers, checked, strict=True)]


def model_in_use(store: Store, graphs: Graphs, solved: HeadsInUse, subject: str | None = None) -> ModelInUse:
    """The model in use, or that of `subject`, where there is one: theta alone, as it was trained beside no other."""
    bundle = graphs.bundle
    with store.at_rest():
        version = store.versions.current()
        temperatures = versions.temperatures(store, version)
        trained = versions.learned_tasks(store, version)
        personal = store.profile(subject) if subject else None
        # A person's own model was chosen on top of the first fit.
        shared = versions.theta_of if profiles.is_own(personal) else versions.answering_theta
        theta = profiles.personal_theta(bundle, personal, shared(store, bundle, version))
        temperatures = profiles.personal_temperatures(personal, temperatures)
        note = f"{subject!r} has no model of their own here: the shared one answers" if subject and not personal else ""
        if version and not version.facts.get("finished", True):
            note = "; ".join(filter(None, (note, CUT_SHORT)))
        weights, doubts = versions.input_weights(store, version), versions.doubts(store, version)
        model = ModelInUse(graphs, theta, temperatures, weights, trained, note=note, doubts=doubts)
        if profiles.is_own(personal):
            note = "; ".join(filter(None, (note, PROFILE_KNOWS_NONE if answering(store, bundle.manifest) else "")))
            return replace(model, note=note)
        heads, projections = solved.read(store, bundle)
        chosen, least = mixes_in_use(store, heads), versions.least_sure(store, version)
    return replace(
        model,
        heads={name: heads[name] for name in chosen},
        mixes={name: mix for name, mix in chosen.items() if mix},
        projections=projections,
        others=solved.others,
        least=least,
        far=versions.far_limits(store, version),
        local=solved.local,
        samples=solved.samples,
    )
