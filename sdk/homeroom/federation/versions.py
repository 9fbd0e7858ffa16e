"""Versions of theta on the device: where training starts, what a new version says of itself, what its update holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from homeroom.contract.canonical_json import identity
from homeroom.contract.layout import FULL_TIER
from homeroom.data.samples import StoredSample
from homeroom.federation.policy import local_segments
from homeroom.runtime.bundle import Bundle
from homeroom.runtime.graphs import Graphs
from homeroom.store import Store, Version
from homeroom.train.settings import Settings


@dataclass(frozen=True)
class TrainingStart:
    """Where training begins: theta float32 [P], the global version it answers, and who is already inside."""

    theta: np.ndarray
    base: int
    name: str
    subjects: tuple[str, ...] = ()


def version_facts(bundle: Bundle, **more: Any) -> dict[str, Any]:
    """What a version says of itself; its segments by identity, so that a later bundle can still use them."""
    layout = bundle.manifest.layout
    places = {s.segment_id: [layout.slices[s.name].start, layout.slices[s.name].stop] for s in layout}
    return {"bundle_id": bundle.bundle_id, "segments": places, **more}


def theta_of(store: Store, bundle: Bundle, version: Version | None) -> np.ndarray:
    """Theta float32 [P] for this bundle: the version's own, or what of it the bundle's layout still has.

    A global one is assembled by owner: what stays on this device comes from its own newest training.
    """
    theta = stored_theta(store, bundle, version)
    return with_local_segments(store, bundle, theta) if version and version.kind == "global" else theta


def with_local_segments(store: Store, bundle: Bundle, theta: np.ndarray) -> np.ndarray:
    """A global theta [P] with this device's newest values of the segments that never leave it."""
    layout, own = bundle.manifest.layout, _source_of_local(store, bundle)
    if own is None:
        return theta
    mine = layout.split(stored_theta(store, bundle, own))
    return layout.join({name: mine[name] for name in local_segments(store, layout)}, theta)


def _source_of_local(store: Store, bundle: Bundle) -> Version | None:
    """The newest local version, if any segment stays here."""
    if not local_segments(store, bundle.manifest.layout):
        return None
    return store.versions.newest_local()


def stored_theta(store: Store, bundle: Bundle, version: Version | None) -> np.ndarray:
    """A version's own theta (as it was released, if global), brought to this bundle's layout."""
    if version is None:
        return bundle.theta()
    theta = store.versions.theta(version.version_id)
    if version.facts["bundle_id"] == bundle.bundle_id:
        return theta
    old: Mapping[str, list[int]] = version.facts["segments"]
    layout = bundle.manifest.layout
    parts = {s.name: theta[slice(*old[s.segment_id])] for s in layout if s.segment_id in old}
    return layout.join(parts, bundle.theta())


def newest_global(store: Store, bundle: Bundle) -> Version | None:
    """The newest global version of this bundle."""
    ours = [v for v in store.versions.all() if v.kind == "global" and v.facts["bundle_id"] == bundle.bundle_id]
    return max(ours, key=lambda version: version.base, default=None)


def start_of_training(store: Store, bundle: Bundle) -> TrainingStart:
    """The newest global theta, else the version in use, else the bundle's own."""
    found = newest_global(store, bundle)
    return _start(store, bundle, found or store.versions.current())


def start_of_profile(store: Store, bundle: Bundle) -> TrainingStart:
    """The theta in use, which everybody's answers come from."""
    return _start(store, bundle, store.versions.current())


def start_of_unfinished(store: Store, bundle: Bundle) -> TrainingStart | None:
    """Where the version in use was trained from, if the budget ended before it was finished."""
    present = store.versions.current()
    if present is None or present.facts.get("finished", True):
        return None
    before = next((v for v in store.versions.all() if v.version_id == present.facts["start"]), None)
    return _start(store, bundle, before)


def _start(store: Store, bundle: Bundle, version: Version | None) -> TrainingStart:
    if version is None:
        return TrainingStart(bundle.theta(), 0, "bundle")
    base, entered = (version.base, store.versions.subjects(version)) if version.kind == "global" else (0, ())
    own = _source_of_local(store, bundle) if version.kind == "global" else version
    entered += store.versions.subjects(own) if own else ()
    return TrainingStart(theta_of(store, bundle, version), base, version.version_id, entered)


def temperatures(store: Store, version: Version | None) -> dict[str, float]:
    """By task, what calibrates a version's probabilities; a global one uses those of the newest local version."""
    return dict(_local_facts(store, version).get("temperatures", {}))


def input_weights(store: Store, version: Version | None) -> dict[str, float]:
    """By modality, how often a poor input counts, as `weighing` learned it with a version; of a global one as above."""
    return dict(_local_facts(store, version).get("weights", {}))


def _local_facts(store: Store, version: Version | None) -> Mapping[str, Any]:
    if version is not None and version.kind == "global":
        version = store.versions.newest_local()
    return version.facts if version else {}


def training_tag(
    bundle: Bundle,
    start: TrainingStart,
    settings: Settings,
    ids: Sequence[str],
    weights: Mapping[str, float],
    tier: str = FULL_TIER,
) -> str:
    """What an unfinished training belongs to: it goes on only if all of these are the same."""
    more = [*([dict(weights)] if weights else []), *([tier] if tier != FULL_TIER else [])]
    return identity([bundle.bundle_id, start.name, msgspec.to_builtins(settings), [*ids], *more])


def find_start(
    store: Store, bundle: Bundle, graphs: Graphs, settings: Settings, samples: Sequence[StoredSample]
) -> tuple[TrainingStart, str, bytes | None]:
    """Where to start, what the training is known by, and the state to go on from if it was cut short."""
    start, weighed = start_of_training(store, bundle), input_weights(store, store.versions.current())
    ids = [sample.sample_id + ("-" if sample.left_out or sample.weighed else "") for sample in samples]
    for candidate in filter(None, (start, start_of_unfinished(store, bundle))):
        known_by = training_tag(bundle, candidate, settings, ids, weighed, graphs.tier)
        if state := store.versions.load_state(known_by):
            return candidate, known_by, state
    return start, training_tag(bundle, start, settings, ids, weighed, graphs.tier), None
