"""Encodes the update of one training from plain values: scoped, with the residual, clipped, and signed.

A device and a simulated one make their updates here; a device's outbox is `federation.make_update`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from homeroom.contract.layout import FULL_TIER, Layout
from homeroom.contract.residual import make_residual, unpack_residual
from homeroom.contract.round import RoundConfiguration
from homeroom.contract.update import make_private, make_update
from homeroom.federation.subject_updates import subject_updates
from homeroom.runtime.graphs import Graphs
from homeroom.train.features.dataset import Dataset
from homeroom.train.settings import Settings


@dataclass(frozen=True)
class UpdateRules:
    """Rules of one device's update.

    key: signs it.
    configuration: of the round, with the clip of the base version.
    layout: the bundle's.
    local: `layout` with the scopes that hold on this device (`federation.policy.scoped_layout`).
    """

    key: Ed25519PrivateKey
    configuration: RoundConfiguration
    layout: Layout
    local: Layout


@dataclass(frozen=True)
class EncodedUpdate:
    """A signed update.

    residual: the part that a lossy codec lost, for the next update (`contract.residual`).
    subjects: whose differences are in it, where the round's promise is by subject.
    """

    data: bytes
    residual: bytes = b""
    subjects: tuple[str, ...] = ()


def encode_update(
    rules: UpdateRules,
    before: np.ndarray,
    after: np.ndarray,
    examples: Mapping[str, int],
    base: int,
    residual: bytes = b"",
    *,
    update_id: str | None = None,
    tier: str = FULL_TIER,
) -> EncodedUpdate:
    """Encodes the difference of two thetas; raises UpdateError as `contract.update.make_update`.

    before, after: float32 [P], theta at the start and the end of the training.
    examples: number of training samples by segment name.
    base: the version that the training started from.
    residual: of the update before.
    update_id: 32 hexadecimal digits; drawn where None.
    tier: that was trained.
    """
    configuration, layout = rules.configuration, rules.local
    delta = after - before + unpack_residual(residual, layout)
    if configuration.privacy:
        layout, delta = rules.layout, _shared_difference(rules, delta)
    data = make_update(rules.key, configuration, layout, delta, examples, base, update_id, tier)
    return EncodedUpdate(data, make_residual(data, configuration, layout, delta))


def encode_by_subject(
    rules: UpdateRules,
    graphs: Graphs,
    train: Dataset,
    theta: np.ndarray,
    settings: Settings,
    base: int,
    *,
    update_id: str | None = None,
    stop: Callable[[], bool] = bool,
) -> EncodedUpdate:
    """Trains subject by subject from theta and encodes the sum of the clipped differences.

    Raises UpdateError where nobody's samples teach, or `stop` left no time for everybody's.

    graphs: of the bundle in use.
    train: the examples of all subjects.
    theta: float32 [P], of version `base`.
    settings: of the training.
    update_id: 32 hexadecimal digits; drawn where None.
    stop: true when the budget is spent.
    """
    subjects = list[str]()

    def differences() -> Iterator[np.ndarray]:
        for subject, difference in subject_updates(graphs, train, theta, settings, stop):
            subjects.append(subject)
            yield _shared_difference(rules, difference)

    data = make_private(rules.key, rules.configuration, rules.layout, differences(), base, update_id)
    return EncodedUpdate(data, subjects=tuple(subjects))


def _shared_difference(rules: UpdateRules, delta: np.ndarray) -> np.ndarray:
    """A difference float32 [P] for a private round, in which segments that do not leave this device are zero."""
    zeros = {s.name: np.zeros(s.size) for s in rules.local if not rules.configuration.merges(s)}
    return rules.local.join(zeros, delta)
