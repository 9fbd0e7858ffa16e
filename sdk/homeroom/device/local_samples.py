"""This device's samples as training examples, and how well a theta does on those kept for validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from homeroom.contract.evaluation_counts import Group
from homeroom.data.preprocess.media import is_media, prepare_outside
from homeroom.data.samples import InputReference, StoredSample
from homeroom.data.tasks import needs_no_label
from homeroom.data.tasks.metrics import Score
from homeroom.data.validation import check_label
from homeroom.errors import InputError
from homeroom.federation import agreement, versions
from homeroom.federation.policy import may_teach, policy_in_force
from homeroom.runtime.bundle import Bundle
from homeroom.runtime.graphs import Graphs
from homeroom.store import Store
from homeroom.train.evaluate import count_answers, evaluate
from homeroom.train.features.buffer import LazySamples, buffer_bytes
from homeroom.train.features.dataset import Dataset, Example
from homeroom.train.features.examples import examples
from homeroom.train.features.quality_gate import training_view
from homeroom.train.settings import Settings, advised


def training_samples(store: Store, bundle: Bundle, subject: str | None = None) -> Sequence[StoredSample]:
    """The stored samples that may be trained on, without their quarantined inputs.

    subject: only those about this person, or by them.

    Those with a number as label that an earlier release took, and that no training can learn, are quarantined.
    """
    policy, manifest = policy_in_force(store), bundle.manifest
    tasks, wrong = {task.name: task for task in manifest.tasks}, dict[str, str]()

    def chosen(sample: StoredSample) -> bool:
        if not may_teach(policy, sample, needs_no_label(manifest)):
            return False
        if subject not in (None, sample.subject, sample.author):
            return False
        for name, label in sample.labels.items():
            if isinstance(label, float) and name in tasks:
                try:
                    check_label(tasks[name], label)
                except InputError as problem:
                    wrong[sample.sample_id] = f"labels.{name}: {problem.what}"
        return sample.sample_id not in wrong

    samples = store.select(chosen)
    if wrong:
        store.quarantine(wrong, released=True)
    return LazySamples(samples, lambda sample: training_view(sample, manifest))


def to_examples(
    store: Store, bundle: Bundle, graphs: Graphs, samples: Sequence[StoredSample], **options: Any
) -> Sequence[Example]:
    """Computes examples as `train.features.examples`, poor inputs weighted as the version in use has learned.

    options: `progress`, `stop` and `decode_room`, passed on.
    """
    options |= {"weights": versions.input_weights(store, store.versions.current()), "room": buffer_bytes(len(samples))}
    return examples(store, bundle, graphs, samples, **options)


def quarantine_unreadable(store: Store, bundle: Bundle, samples: Sequence[StoredSample]) -> list[str]:
    """Quarantines samples with a picture or sound that the decoder refuses, or that ends it; returns their ids.

    The device itself would read them while it trains: an earlier release may have taken what is too large.
    """
    wrong: dict[str, str] = {}
    for sample in samples:
        for slot, references in sample.inputs.items():
            modality = bundle.manifest.modality(bundle.manifest.slot(slot).modality)
            for reference in references if is_media(modality.preprocess) else ():
                value = store.read_input(sample, reference) if isinstance(reference, InputReference) else None
                try:
                    if value is not None:
                        prepare_outside(modality, value, bundle.file)
                except InputError as problem:
                    wrong[sample.sample_id] = f"{slot}: {problem.what}"
    return store.quarantine(wrong, released=True)


def training_settings(store: Store, bundle: Bundle, epochs: int | None = None) -> Settings:
    """The settings that the bundle recommends, with the round's proximal term."""
    configuration = agreement.read_agreement(store).configuration
    chosen = {"epochs": epochs} if epochs is not None else {}
    return advised(bundle.manifest, proximal=configuration.proximal if configuration else 0.0, **chosen)


def validation_scores(
    store: Store, bundle: Bundle, graphs: Graphs, thetas: Sequence[np.ndarray]
) -> list[Mapping[str, Score]]:
    """Scores by task of each theta float32 [P] on the validation subjects of the last training; none where none."""
    validation = validation_samples(store, bundle, graphs)
    return [evaluate(graphs, validation, theta) if validation else {} for theta in thetas]


def validation_counts(
    store: Store, bundle: Bundle, graphs: Graphs, thetas: Sequence[np.ndarray]
) -> list[dict[str, dict[Group, np.ndarray]]]:
    """As `count_answers` for each theta float32 [P] on the validation subjects of the last training."""
    validation = validation_samples(store, bundle, graphs)
    return [count_answers(graphs, validation, theta) if validation else {} for theta in thetas]


def validation_samples(store: Store, bundle: Bundle, graphs: Graphs) -> Dataset | None:
    """The samples of the subjects that the last training kept for validation; None where it kept none."""
    samples, version = training_samples(store, bundle), store.versions.newest_local()
    if not samples or version is None:
        return None
    settings = msgspec.convert(version.facts["settings"], Settings)
    dataset = Dataset(bundle.manifest, to_examples(store, bundle, graphs, samples))
    return dataset.split(settings.validation, settings.seed)[1]
