"""Makes the update of a training: scoped, clipped, encoded, signed, and queued in the outbox."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from homeroom.contract.layout import FULL_TIER, Layout
from homeroom.contract.residual import make_residual, unpack_residual
from homeroom.contract.round import RoundConfiguration
from homeroom.contract.update import make_private, make_update
from homeroom.errors import UpdateError
from homeroom.federation.agreement import agreed_round
from homeroom.federation.enrolment import device_key
from homeroom.federation.policy import local_layout, policy_in_force, refusal_reason
from homeroom.federation.subject_updates import subject_updates
from homeroom.federation.versions import newest_global, theta_of
from homeroom.runtime.bundle import Bundle
from homeroom.runtime.graphs import Graphs
from homeroom.store import Store, StoredVersion
from homeroom.train.features.dataset import Dataset, Example
from homeroom.train.settings import Settings

ALREADY_QUEUED = "this device's update for the present global theta is already on its way, or was refused"


@dataclass(frozen=True)
class ClippedUpdate:
    """A signed update that was clipped subject by subject, and the subjects whose samples are in it."""

    update_id: str
    data: bytes
    base: int
    subjects: tuple[str, ...]


def make_clipped_update(
    store: Store,
    bundle: Bundle,
    graphs: Graphs,
    examples: Sequence[Example],
    settings: Settings,
    key: Ed25519PrivateKey | None,
    configuration: RoundConfiguration | None,
    stop: Callable[[], bool] = bool,
) -> ClippedUpdate | None:
    """Trains an update subject by subject from the newest global theta; None if no round asks for one.

    The theta that the device uses itself is trained apart: it does not leave, and needs neither clip nor noise.

    store: of this device.
    bundle: in use.
    graphs: of the bundle.
    examples: to train on.
    settings: of the training.
    key: that signs; None where the device has not joined.
    configuration: of the round, if one is known.
    stop: true when the budget is spent.
    """
    if key is None or configuration is None or not configuration.by_subject:
        return None
    base, update_id, subjects = newest_global(store, bundle), uuid.uuid4().hex, list[str]()
    train, layout = Dataset(bundle.manifest, examples), local_layout(store, bundle.layout)

    def differences() -> Iterator[np.ndarray]:
        start = theta_of(store, bundle, base)
        for subject, difference in subject_updates(graphs, train, start, settings, configuration.parts, stop):
            subjects.append(subject)
            yield _shared_difference(layout, configuration, difference)

    number = base.base if base else 0
    try:
        data = make_private(key, configuration, bundle.layout, differences(), number, update_id)
    except UpdateError:  # no time, or nobody whose samples teach
        return None
    return ClippedUpdate(update_id, data, number, tuple(subjects))


def _shared_difference(layout: Layout, configuration: RoundConfiguration, delta: np.ndarray) -> np.ndarray:
    """A difference [P] for a private round, in which segments that do not leave this device are zero.

    layout: with the scopes that hold here.
    configuration: of the round.
    delta: float32 [P].
    """
    return layout.join({s.name: np.zeros(s.size) for s in layout if not configuration.merges(s)}, delta)


def queue_newest_update(store: Store, bundle: Bundle, clipped: ClippedUpdate | None = None) -> str:
    """Queues the update of the newest local version as `queue_update`, if this device has joined."""
    key, configuration, version = device_key(store), agreed_round(store), store.versions.newest_local()
    if key is None or configuration is None:
        return "not enrolled"
    if version is None:
        return "nothing trained yet"
    return queue_update(store, bundle, version, key, configuration, clipped)


def queue_update(
    store: Store,
    bundle: Bundle,
    version: StoredVersion,
    key: Ed25519PrivateKey,
    configuration: RoundConfiguration,
    clipped: ClippedUpdate | None = None,
) -> str:
    """Queues the update of a local version, one for each base; returns "queued", or why not.

    store: whose outbox takes it.
    bundle: in use.
    version: trained on this device.
    key: that signs.
    configuration: of the round.
    clipped: the update made beside it where the round's promise is by subject.
    """
    base = newest_global(store, bundle)
    if version.facts["bundle_id"] != bundle.bundle_id or version.base != (base.base if base else 0):
        return "a newer global theta is here: train again first"
    if why := refusal_reason(policy_in_force(store), configuration):
        return why
    if configuration.by_subject:
        return _queue_clipped(store, bundle, version.base, clipped)
    configuration = configuration.with_clip(base.facts.get("clip_norm", msgspec.UNSET) if base else msgspec.UNSET)
    layout, update_id = local_layout(store, bundle.layout), version.version_id
    tier = version.facts.get("tier", FULL_TIER)
    residual, residual_subjects = store.outbox.residual()
    delta = theta_of(store, bundle, version) - theta_of(store, bundle, base) + unpack_residual(residual, layout)
    if configuration.privacy:
        layout, delta = bundle.layout, _shared_difference(layout, configuration, delta)
    subjects = {*store.versions.subjects(version), *residual_subjects}
    try:
        data = make_update(key, configuration, layout, delta, version.facts["examples"], version.base, update_id, tier)
        residual = make_residual(data, configuration, layout, delta)
    except UpdateError as problem:
        return str(problem)
    if store.outbox.queue(update_id, data, version.base, subjects, bundle.bundle_id, residual):
        return "queued"
    return ALREADY_QUEUED


def _queue_clipped(store: Store, bundle: Bundle, base: int, clipped: ClippedUpdate | None) -> str:
    if clipped is None:
        is_queued = any(update.base == base for update in store.outbox.pending())
        return "queued" if is_queued else "this round is private for each subject: train again, and its update is made"
    queued = store.outbox.queue(clipped.update_id, clipped.data, base, clipped.subjects, bundle.bundle_id)
    return "queued" if queued else ALREADY_QUEUED
