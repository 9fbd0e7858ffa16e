"""One person's own theta on this device: learned on top of the theta in use, assembled again for each answer.

It may import store, lineage and personalize. A profile holds its own segments and a share; whenever a newer shared
theta comes, the same share of it is mixed in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from homeroom.errors import TrainError
from homeroom.federation import versions
from homeroom.runtime.bundle import Bundle
from homeroom.runtime.graphs import Graphs
from homeroom.store import Store, StoredProfile
from homeroom.train.features.dataset import Dataset, Example
from homeroom.train.personalize.choose import SHARED, Choice, choose
from homeroom.train.personalize.mixing import mix
from homeroom.train.personalize.person import Person
from homeroom.train.settings import Settings


def train_profile(
    store: Store,
    bundle: Bundle,
    graphs: Graphs,
    subject: str,
    ready: Sequence[Example],
    settings: Settings,
    stop: Callable[[], bool],
) -> Profile:
    """Learn a person's profile from that person's examples and store it in place of the one before.

    Raises OutOfTimeError, with nothing changed, if the budget ends first; TrainError if no example teaches anything.
    """
    own, start = Dataset(bundle.manifest, ready), versions.start_of_profile(store, bundle)
    if not own.labelled.any():
        raise TrainError(f"{subject} has no sample with a label that its inputs can teach", remedy="add some")
    chosen = choose(Person(graphs, start.theta, settings, stop, _labels_of_others(store, bundle, subject)), own)
    layout = bundle.manifest.layout
    before, after = layout.split(start.theta), layout.split(chosen.theta)
    moved = {s.segment_id: after[s.name] for s in layout if not np.array_equal(before[s.name], after[s.name])}
    store.put_profile(subject, _facts(chosen, len(ready), start.name), moved, start.subjects)
    store.back_up()
    found = find_profile(store, subject)
    assert found is not None  # it was just stored
    return found


def _labels_of_others(store: Store, bundle: Bundle, subject: str) -> dict[str, np.ndarray]:
    """As `Person.others`."""
    tasks = [task for task in bundle.manifest.tasks if task.kind == "classification"]
    found = {task.name: np.zeros(task.width) for task in tasks}
    for sample in store.each_without_inputs():
        for task in tasks if sample.subject != subject else ():
            if sample.labels.get(task.name) in task.labels:
                found[task.name][task.labels.index(str(sample.labels[task.name]))] += 1
    return found


def find_profile(store: Store, subject: str) -> Profile | None:
    """What is known about a person's profile, if there is one."""
    stored, current = store.profile(subject), store.versions.current()
    if stored is None:
        return None
    facts = stored.facts
    return Profile(
        subject=subject,
        method=facts["method"],
        share=facts["share"],
        samples=facts["samples"],
        losses=facts["losses"],
        fresh=facts["start"] == (current.version_id if current else "bundle"),
    )


def personal_theta(bundle: Bundle, stored: StoredProfile | None, shared: np.ndarray) -> np.ndarray:
    """Theta [P] for a person: the shared one with the profile's share of the segments that it holds."""
    if stored is None:
        return shared
    layout = bundle.manifest.layout
    parts = {s.name: stored.segments[s.segment_id] for s in layout if s.segment_id in stored.segments}
    return mix(shared, layout.join(parts, shared), stored.facts["share"])


def personal_temperatures(stored: StoredProfile | None, shared: dict[str, float]) -> dict[str, float]:
    return shared if stored is None or stored.facts["method"] == SHARED else shared | stored.facts["temperatures"]


def _facts(chosen: Choice, samples: int, start: str) -> dict[str, object]:
    return {
        "method": chosen.method,
        "share": chosen.share,
        "losses": dict(chosen.losses),
        "temperatures": dict(chosen.temperatures),
        "samples": samples,
        "start": start,
    }


@dataclass(frozen=True)
class Profile:
    """One person's own model. `method`: "prior", "fedrep", "ditto", "finetune", or "shared" where there is too little.

    `share` of the personal weights is mixed with the shared ones. `losses`: held-out log-loss of what was tried;
    `fresh`: it was trained on top of the theta that is in use now.
    """

    subject: str
    method: str
    share: float
    samples: int
    losses: Mapping[str, float]
    fresh: bool
