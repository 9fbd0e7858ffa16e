"""Queues the update of a training in the outbox; `federation.encode_update` makes its bytes."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from homeroom.contract.layout import FULL_TIER
from homeroom.contract.round import RoundConfiguration
from homeroom.errors import UpdateError
from homeroom.federation.agreement import read_agreement
from homeroom.federation.encode_update import UpdateRules, encode_by_subject, encode_update
from homeroom.federation.enrolment import device_key
from homeroom.federation.policy import local_layout, policy_in_force, refusal_reason
from homeroom.federation.versions import newest_global, theta_of
from homeroom.runtime.bundle import Bundle
from homeroom.runtime.graphs import Graphs
from homeroom.store import Store, StoredVersion
from homeroom.train.features.dataset import Dataset, Example
from homeroom.train.settings import Settings

UpdateCode = Literal[
    "queued",
    "not_enrolled",
    "at_sync",
    "untrained",
    "newer_theta",
    "other_bundle",
    "policy",
    "not_made",
    "answered",
    "train_again",
    "profile",
]


@dataclass(frozen=True)
class UpdateFate:
    """What became of a training's update; `text` says it to people."""

    code: UpdateCode
    text: str


QUEUED = UpdateFate("queued", "queued")
ANSWERED = UpdateFate(
    "answered", "this device's update for the present global theta is already on its way, or was refused"
)


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
    if configuration.bundle_id != bundle.bundle_id:
        return None
    base, update_id = newest_global(store, bundle), uuid.uuid4().hex
    number, start = base.base if base else 0, theta_of(store, bundle, base)
    rules = _rules(store, bundle, key, configuration)
    train = Dataset(bundle.manifest, examples)
    try:
        encoded = encode_by_subject(rules, graphs, train, start, settings, number, update_id=update_id, stop=stop)
    except UpdateError:  # no time, or nobody whose samples teach
        return None
    return ClippedUpdate(update_id, encoded.data, number, encoded.subjects)


def _rules(store: Store, bundle: Bundle, key: Ed25519PrivateKey, configuration: RoundConfiguration) -> UpdateRules:
    return UpdateRules(key, configuration, bundle.layout, local_layout(store, bundle.layout))


def queue_newest_update(store: Store, bundle: Bundle, clipped: ClippedUpdate | None = None) -> UpdateFate:
    """Queues the update of the newest local version as `queue_update`, if this device has joined."""
    key, configuration, version = device_key(store), read_agreement(store).configuration, store.versions.newest_local()
    if key is None:
        return UpdateFate("not_enrolled", "not enrolled")
    if configuration is None or configuration.bundle_id != bundle.bundle_id:
        return UpdateFate("at_sync", "made at the next sync, by the rules of the aggregator's round for this bundle")
    if version is None:
        return UpdateFate("untrained", "nothing trained yet")
    return queue_update(store, bundle, version, key, configuration, clipped)


def queue_update(
    store: Store,
    bundle: Bundle,
    version: StoredVersion,
    key: Ed25519PrivateKey,
    configuration: RoundConfiguration,
    clipped: ClippedUpdate | None = None,
) -> UpdateFate:
    """Queues the update of a local version, one for each base; returns what became of it.

    store: whose outbox takes it.
    bundle: in use.
    version: trained on this device.
    key: that signs.
    configuration: of the round.
    clipped: the update made beside it where the round's promise is by subject.
    """
    base = newest_global(store, bundle)
    number = base.base if base else 0  # without one it is an update of the bundle's own theta, whatever it began with
    if version.facts["bundle_id"] != bundle.bundle_id:
        return UpdateFate("other_bundle", "it was trained with an earlier bundle: train again first")
    if base and version.base != number:
        return UpdateFate("newer_theta", "a newer global theta is here: train again first")
    if why := refusal_reason(policy_in_force(store), configuration):
        return UpdateFate("policy", why)
    if configuration.by_subject:
        return _queue_clipped(store, bundle, number, clipped, _earlier(configuration))
    configuration = configuration.with_clip(base.facts.get("clip_norm", msgspec.UNSET) if base else msgspec.UNSET)
    rules, update_id, facts = _rules(store, bundle, key, configuration), version.version_id, version.facts
    residual, residual_subjects = store.outbox.residual()
    before, after = theta_of(store, bundle, base), theta_of(store, bundle, version)
    subjects, tier = {*store.versions.subjects(version), *residual_subjects}, facts.get("tier", FULL_TIER)
    try:
        encoded = encode_update(
            rules, before, after, facts["examples"], number, residual, update_id=update_id, tier=tier
        )
    except UpdateError as problem:
        return UpdateFate("not_made", str(problem))
    queued = store.outbox.queue(
        update_id, encoded.data, number, subjects, bundle.bundle_id, encoded.residual, _earlier(configuration)
    )
    if queued:
        return QUEUED
    return ANSWERED


def _earlier(configuration: RoundConfiguration) -> list[str]:
    """Bundles whose versions go on here: a device answers each of them once, whichever bundle it trains with."""
    return [one.bundle_id for one in configuration.earlier_bundles]


def _queue_clipped(
    store: Store, bundle: Bundle, base: int, clipped: ClippedUpdate | None, earlier: list[str]
) -> UpdateFate:
    if clipped is None:
        is_queued = any(update.base == base for update in store.outbox.pending())
        again = UpdateFate("train_again", "this round is private for each subject: train again, and its update is made")
        return QUEUED if is_queued else again
    queued = store.outbox.queue(
        clipped.update_id, clipped.data, base, clipped.subjects, bundle.bundle_id, earlier=earlier
    )
    return QUEUED if queued else ANSWERED
