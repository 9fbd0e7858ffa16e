"""One person's own theta on this device: trained on top of the theta in use, and mixed with it for each answer.

A profile holds the segments it changed and a share; with a newer shared theta the same share is mixed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from homeroom.data.tasks import kind_of
from homeroom.errors import TrainError
from homeroom.federation import versions
from homeroom.runtime.bundle import Bundle
from homeroom.runtime.graphs import Graphs
from homeroom.store import Store, StoredProfile
from homeroom.train.features.dataset import Dataset, Example
from homeroom.train.personalize.choose import SHARED, choose
from homeroom.train.personalize.mixing import mix
from homeroom.train.personalize.person import Person
from homeroom.train.settings import Settings


def train_profile(
    store: Store,
    bundle: Bundle,
    graphs: Graphs,
    subject: str,
    examples: Sequence[Example],
    settings: Settings,
    stop: Callable[[], bool],
) -> Profile:
    """Trains a person's profile on that person's examples and stores it in place of the one before.

    Raises OutOfTimeError, with nothing changed, if the budget ends first; TrainError if no example teaches anything.

    store: of this device.
    bundle: in use.
    graphs: of the bundle.
    subject: the person.
    examples: of that person, or written by them about others, whose `forget` then removes the profile.
    settings: of the training.
    stop: true when the budget is spent.
    """
    dataset, start = Dataset(bundle.manifest, examples), versions.start_of_profile(store, bundle)
    if not dataset.labelled.any():
        raise TrainError(f"{subject} has no sample with a label that its inputs can teach", remedy="add some")
    chosen = choose(Person(graphs, start.theta, settings, stop, _labels_of_others(store, bundle, subject)), dataset)
    layout = bundle.manifest.layout
    before, after = layout.split(start.theta), layout.split(chosen.theta)
    changed = {s.segment_id: after[s.name] for s in layout if not np.array_equal(before[s.name], after[s.name])}
    facts = {name: getattr(chosen, name) for name in ("method", "share", "losses", "temperatures")}
    facts |= {"samples": len(examples), "start": start.name}
    store.put_profile(subject, facts, changed, {*start.subjects, *(example.subject for example in examples)})
    store.back_up()
    profile = find_profile(store, subject)
    assert profile is not None  # it was just stored
    return profile


def _labels_of_others(store: Store, bundle: Bundle, subject: str) -> dict[str, np.ndarray]:
    """Counts of other subjects' labels by task with class priors, float64 [classes], as `Person.others`."""
    tasks = [task for task in bundle.manifest.tasks if kind_of(task).class_prior]
    counts = {task.name: np.zeros(task.width) for task in tasks}
    for sample in store.each_without_inputs():
        for task in tasks if subject not in (sample.subject, sample.author) else ():
            if sample.labels.get(task.name) in task.labels:
                counts[task.name][task.labels.index(str(sample.labels[task.name]))] += 1
    return counts


def find_profile(store: Store, subject: str) -> Profile | None:
    """A person's profile; None if there is none."""
    stored, current = store.profile(subject), store.versions.current()
    if stored is None:
        return None
    shown = {name: stored.facts[name] for name in ("method", "share", "samples", "losses")}
    return Profile(subject, fresh=stored.facts["start"] == (current.version_id if current else "bundle"), **shown)


def personal_theta(bundle: Bundle, stored: StoredProfile | None, shared: np.ndarray) -> np.ndarray:
    """A person's theta float32 [P]: the shared one, mixed with the segments of the profile by its share."""
    if stored is None:
        return shared
    layout = bundle.manifest.layout
    parts = {s.name: stored.segments[s.segment_id] for s in layout if s.segment_id in stored.segments}
    return mix(shared, layout.join(parts, shared), stored.facts["share"])


def is_own(stored: StoredProfile | None) -> bool:
    """Whether a profile has a model of its own, not the shared one."""
    return stored is not None and stored.facts["method"] != SHARED


def personal_temperatures(stored: StoredProfile | None, shared: dict[str, float]) -> dict[str, float]:
    """Calibration temperatures by task for a person: the profile's own where it has a model of its own."""
    return shared | stored.facts["temperatures"] if stored is not None and is_own(stored) else shared


@dataclass(frozen=True)
class Profile:
    """One person's own model. `method`: "prior", "fedrep", "ditto", "finetune", or "shared" where there is too little.

    `share`: of the personal weights in the mix with the shared ones. `losses`: held-out log-loss by method. `fresh`:
    whether it was trained on top of the theta in use now.
    """

    subject: str
    method: str
    share: float
    samples: int
    losses: Mapping[str, float]
    fresh: bool
