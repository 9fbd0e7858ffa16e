"""A cohort in one process for tests and benchmarks: the devices' own steps, and a server that may be made to lie."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from homeroom.contract.layout import Layout, Parameter, Segment
from homeroom.contract.roster import Roster, make_roster
from homeroom.contract.round import RoundConfiguration
from homeroom.contract.secagg import Consent, Consents, Inbox, Notice, Reveal, SecureCohort, SecureRules, Survivors
from homeroom.contract.signing import certify, new_key
from homeroom.contract.update import Update, make_update
from homeroom.contract.update_checks import read_update
from homeroom.privacy.secagg import client as steps
from homeroom.privacy.secagg.client import ClientState, CohortView
from homeroom.privacy.secagg.encoding import encode, segment_bits

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
    """A key, an update, and where it stands in the round."""

    key: Ed25519PrivateKey
    update: Update
    member: ClientState

    @property
    def raw(self) -> bytes:
        return self.key.public_key().public_bytes_raw()


@dataclass
class Round:
    """One secure round. Each phase is a method; `absent` of a phase are places that do nothing from then on."""

    configuration: RoundConfiguration
    layout: Layout
    roster: Roster
    notice: Notice
    devices: list[Device]  # sorted by key: a device's place is its index
    cohort: SecureCohort
    view: CohortView
    sealed: dict[int, dict[int, bytes]] = field(default_factory=dict)  # receiver -> sender -> sealed shares
    inputs: dict[int, bytes] = field(default_factory=dict)
    consents: list[Consent] = field(default_factory=list)

    @property
    def sharers(self) -> tuple[int, ...]:
        return tuple(sorted({sender for box in self.sealed.values() for sender in box}))

    @property
    def survivors(self) -> Survivors:
        return Survivors(tuple(sorted(self.inputs)))

    def vector(self, place: int) -> Callable[[steps.SumLayout], np.ndarray]:
        return lambda terms: encode(terms, self.devices[place].update, self.notice.version, self.configuration)

    def share(self, absent: Collection[int] = ()) -> None:
        for place, device in enumerate(self.devices):
            if place in absent:
                continue
            device.member = steps.share(device.member, self.cohort, self.roster, self.configuration)
            assert device.member.shares
            for other, sealed in zip(self.view.graph.neighbours(place), device.member.shares.sealed, strict=True):
                self.sealed.setdefault(other, {})[place] = sealed

    def inbox(self, place: int) -> Inbox:
        return Inbox(self.sharers, tuple(sealed for _, sealed in sorted(self.sealed[place].items())))

    def mask(self, absent: Collection[int] = ()) -> None:
        for place in set(self.sharers) - set(absent):
            device = self.devices[place]
            device.member = steps.mask(
                device.member, self.inbox(place), self.configuration, self.layout, self.vector(place)
            )
            assert device.member.masked
            self.inputs[place] = device.member.masked

    def consent(self, absent: Collection[int] = (), survivors: Survivors | None = None) -> None:
        for place in sorted(set(self.inputs) - set(absent)):
            device = self.devices[place]
            device.member = steps.consent(
                device.member, survivors or self.survivors, self.configuration, self.layout, device.key
            )
            assert device.member.consent
            self.consents.append(Consent(place, device.member.consent))

    def reveal(self, absent: Collection[int] = ()) -> dict[int, Reveal]:
        said = Consents(self.survivors, tuple(self.consents))
        return {
            place: steps.reveal(self.devices[place].member, said, self.configuration)
            for place in sorted(c.place for c in self.consents)
            if place not in absent
        }

    def plain_sum(self, places: Collection[int]) -> np.ndarray:
        """What the sum must be, int64, from the plain updates."""
        terms = self.view.sum_layout(self.layout, self.configuration, self.devices[0].member.minimum)
        found = np.zeros(terms.count, np.int64)
        for place in places:
            found += encode(terms, self.devices[place].update, self.notice.version, self.configuration).view(np.int64)
        return found


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
    for place, key in enumerate(keys):
        counts = (examples or (lambda place: {"ladder.table": 1 + place, "head.grade": 3}))(place)
        delta = rng.normal(0, 0.01, values).astype(np.float32)
        data = make_update(key, configuration, shape, delta, counts, base_version=place % 3)
        update = read_update(data, configuration, shape)
        bits = segment_bits(shape, configuration, set(update.values))
        member = steps.advertise(notice, roster, configuration, key, update_id=update.header.update_id, segments=bits)
        devices.append(Device(key, update, member))
    cohort = SecureCohort(tuple(device.member.advertisement for device in devices))
    view = CohortView(notice.round_id, cohort, steps.secure_rules(configuration))
    return Round(configuration, shape, roster, notice, devices, cohort, view)
