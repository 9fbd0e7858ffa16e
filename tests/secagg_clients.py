"""A cohort in one process for tests and benchmarks: the devices' own steps, and a server that may be made to lie."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from homeroom.contract.layout import Layout, Parameter, Segment
from homeroom.contract.roster import Roster, make_roster
from homeroom.contract.round import RoundConfiguration
from homeroom.contract.secagg import (
    Consents,
    Inbox,
    Notice,
    Reveal,
    SecureCohort,
    SecureRules,
    Survivors,
    SurvivorsConsent,
)
from homeroom.contract.signing import certify, new_key
from homeroom.contract.update import Update, make_update
from homeroom.contract.update_checks import read_update
from homeroom.privacy.secagg import client as steps
from homeroom.privacy.secagg.client import ClientState, CohortView
from homeroom.privacy.secagg.encoding import ThetaShape, encode, segment_bits

ROOT = new_key()


def layout(values: int) -> Layout:
    """Two shared segments that together have so many values."""
    sizes = (values - values // 4, values // 4)
    return Layout(
        tuple(
            Segment(name=name, parameters=(Parameter("w", (size,)),), meaning="test/1")
            for name, size in zip(("ladder.table", "head.grade"), sizes, strict=True)
        )
    )


@dataclass
class Device:
    """A device's key, update and state in the round."""

    key: Ed25519PrivateKey
    update: Update
    state: ClientState

    @property
    def raw(self) -> bytes:
        return self.key.public_key().public_bytes_raw()


@dataclass
class Round:
    """One secure round. Each phase is a method; `absent` are slots of devices that drop out before it."""

    configuration: RoundConfiguration
    layout: Layout
    roster: Roster
    notice: Notice
    devices: list[Device]  # sorted by key: a device's slot is its index
    cohort: SecureCohort
    view: CohortView
    sealed: dict[int, dict[int, bytes]] = field(default_factory=dict)  # receiver -> sender -> sealed shares
    inputs: dict[int, bytes] = field(default_factory=dict)
    consents: list[SurvivorsConsent] = field(default_factory=list)

    @property
    def shape(self) -> ThetaShape:
        return ThetaShape(self.layout, self.configuration)

    @property
    def sharers(self) -> tuple[int, ...]:
        return tuple(sorted({sender for box in self.sealed.values() for sender in box}))

    @property
    def survivors(self) -> Survivors:
        return Survivors(tuple(sorted(self.inputs)))

    def encoder(self, slot: int) -> Callable[[steps.SumLayout], np.ndarray]:
        return lambda sum_layout: encode(sum_layout, self.devices[slot].update, self.notice.version, self.configuration)

    def share(self, absent: Collection[int] = ()) -> None:
        for slot, device in enumerate(self.devices):
            if slot in absent:
                continue
            device.state = steps.share(device.state, self.cohort, self.roster, self.shape)
            assert device.state.shares
            for other, sealed in zip(self.view.graph.neighbours(slot), device.state.shares.sealed, strict=True):
                self.sealed.setdefault(other, {})[slot] = sealed

    def inbox(self, slot: int) -> Inbox:
        return Inbox(self.sharers, tuple(sealed for _, sealed in sorted(self.sealed[slot].items())))

    def mask(self, absent: Collection[int] = ()) -> None:
        for slot in set(self.sharers) - set(absent):
            device = self.devices[slot]
            device.state = steps.mask(device.state, self.inbox(slot), self.shape, self.encoder(slot))
            assert device.state.masked
            self.inputs[slot] = device.state.masked

    def consent(self, absent: Collection[int] = (), survivors: Survivors | None = None) -> None:
        for slot in sorted(set(self.inputs) - set(absent)):
            device = self.devices[slot]
            device.state = steps.consent(device.state, survivors or self.survivors, self.shape, device.key)
            assert device.state.consent
            self.consents.append(SurvivorsConsent(slot, device.state.consent))

    def reveal(self, absent: Collection[int] = ()) -> dict[int, Reveal]:
        consents = Consents(self.survivors, tuple(self.consents))
        return {
            slot: steps.reveal(self.devices[slot].state, consents, self.shape)
            for slot in sorted(consent.place for consent in self.consents)
            if slot not in absent
        }

    def plain_sum(self, slots: Collection[int]) -> np.ndarray:
        """What the sum must be, int64, from the plain updates."""
        sum_layout = self.view.sum_layout(self.devices[0].state.minimum)
        total = np.zeros(sum_layout.count, np.int64)
        for slot in slots:
            total += encode(sum_layout, self.devices[slot].update, self.notice.version, self.configuration).view(
                np.int64
            )
        return total


def gather(
    count: int,
    values: int = 200,
    *,
    rules: SecureRules | None = None,
    minimum: int = 3,
    examples: Callable[[int], dict[str, int]] | None = None,
    keys: Sequence[Ed25519PrivateKey] | None = None,
    seed: int = 0,
) -> Round:
    """So many devices on a roster, each with an update of its own, that have advertised."""
    shape = layout(values)
    configuration = RoundConfiguration(bundle_id="0" * 64, secure=rules or SecureRules(minimum=minimum))
    keys = sorted(keys or (new_key() for _ in range(count)), key=lambda key: key.public_key().public_bytes_raw())
    names = [key.public_key().public_bytes_raw().hex() for key in keys]
    signer = new_key()
    roster = make_roster(
        signer, certify(ROOT, "roster", signer, "tests"), names, serial=1, minimum=minimum, institution="tests"
    )
    notice = Notice(
        configuration_id=configuration.configuration_id,
        roster_id=roster.roster_id,
        version=2,
        nonce=new_key().private_bytes_raw().hex(),
    )
    rng = np.random.default_rng(seed)
    devices = []
    for slot, key in enumerate(keys):
        counts = (examples or (lambda slot: {"ladder.table": 1 + slot, "head.grade": 3}))(slot)
        delta = rng.normal(0, 0.01, values).astype(np.float32)
        data = make_update(key, configuration, shape, delta, counts, base_version=slot % 3)
        update = read_update(data, configuration, shape)
        bits = segment_bits(ThetaShape(shape, configuration), set(update.values))
        state = steps.advertise(
            notice, roster, ThetaShape(shape, configuration), key, update_id=update.header.update_id, segments=bits
        )
        devices.append(Device(key, update, state))
    cohort = SecureCohort(tuple(device.state.advertisement for device in devices))
    view = CohortView(notice.round_id, cohort, ThetaShape(shape, configuration))
    return Round(configuration, shape, roster, notice, devices, cohort, view)
