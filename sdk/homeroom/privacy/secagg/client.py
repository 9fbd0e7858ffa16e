"""One device's part in one secure round: five pure steps, each of which refuses what would give its update away.

Each step takes what the device knows (`Member`) and what the aggregator says, and gives what it knows then. The caller
makes that durable *before* it sends anything, so that a power cut can neither let a mask be used for two vectors nor
a second set of survivors be signed. After Bonawitz et al. 2017, figure 4, on the graph of Bell et al. 2020.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import NoReturn

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from homeroom.contract.layout import Layout
from homeroom.contract.roster import Roster
from homeroom.contract.round import RoundConfiguration
from homeroom.contract.secagg import (
    SHARE_BYTES,
    Advertisement,
    Consents,
    Inbox,
    Notice,
    Reveal,
    SecureCohort,
    SecureRules,
    Shares,
    Survivors,
)
from homeroom.contract.signing import sign, verify
from homeroom.errors import InputError, TrustError
from homeroom.privacy.secagg.encoding import SumLayout, choose_layout, feeders
from homeroom.privacy.secagg.graph import NeighbourGraph
from homeroom.privacy.secagg.masks import add_masks, pack
from homeroom.privacy.secagg.parameters import choose_parameters
from homeroom.privacy.secagg.primitives import SEED_BYTES, agree, derive, private_key, seal, split, unseal

WHERE = "secure round"
KEYS, SURVIVORS = "secure-keys", "secure-survivors"  # purposes of signatures
MASK, SELF, CHANNEL = b"homeroom/mask/", b"homeroom/self/", b"homeroom/channel/"  # of derived keys; a cohort id follows


class ClientState(msgspec.Struct, frozen=True, kw_only=True):
    """What a device knows of its round. `minimum`: of devices in the sum, by roster and rules, whichever asks more.

    held: by neighbour, both its shares. survivors: the one set that this device signed.
    """

    notice: Notice
    minimum: int
    advertisement: Advertisement
    channel_seed: bytes
    mask_seed: bytes
    self_seed: bytes
    cohort: SecureCohort | None = None
    shares: Shares | None = None
    held: dict[int, bytes] = {}
    sharers: tuple[int, ...] = ()
    masked: bytes | None = None
    survivors: Survivors | None = None
    consent: bytes | None = None

    @property
    def round_id(self) -> str:
        return self.notice.round_id


class CohortView:
    """What follows from a cohort, alike for every member and for the aggregator."""

    def __init__(self, round_id: str, cohort: SecureCohort, rules: SecureRules) -> None:
        self.cohort, self.cohort_id = cohort, cohort.cohort_id(round_id)
        try:
            self.parameters = choose_parameters(len(cohort.members), rules.drop_rate, rules.corrupt_rate)
        except InputError as problem:
            refuse(problem.what)
        self.graph = NeighbourGraph(cohort, self.cohort_id, self.parameters)

    def place(self, device: bytes) -> int:
        """A device's place; TrustError if it is none of the cohort's."""
        for place, member in enumerate(self.cohort.members):
            if member.device == device:
                return place
        refuse("the cohort does not hold this device")

    def feeders(self, layout: Layout, configuration: RoundConfiguration) -> dict[str, set[int]]:
        """By segment, the places of those who feed it."""
        return feeders(layout, configuration, self.cohort)

    def terms(self, layout: Layout, configuration: RoundConfiguration, minimum: int) -> SumLayout:
        return choose_layout(layout, configuration, self.cohort, minimum, self.parameters.drops)

    def check_survivors(
        self, survivors: Survivors, layout: Layout, configuration: RoundConfiguration, minimum: int
    ) -> None:
        """TrustError unless every number of the sum is over `minimum` devices and each survivor is hidden in it."""
        places = survivors.places
        if list(places) != sorted(set(places)) or not set(places) <= set(range(len(self.cohort.members))):
            refuse("the survivors are no set of the cohort's")
        if len(places) < minimum:
            refuse(f"only {len(places)} devices are left of the {minimum} that a sum needs")
        fed = self.feeders(layout, configuration)
        for name in self.terms(layout, configuration, minimum).segments:
            if len(fed[name] & set(places)) < minimum:
                refuse(f"segment {name} is left with fewer than {minimum} devices")
        if len(places) < self.parameters.quorum or self.graph.gap(places):
            refuse("too many devices are left out, or too many that stand together")


def secure_rules(configuration: RoundConfiguration) -> SecureRules:
    if not configuration.secure:
        refuse("the round configuration asks for no secure rounds")
    return configuration.secure


def advertise(
    notice: Notice,
    roster: Roster,
    configuration: RoundConfiguration,
    key: Ed25519PrivateKey,
    *,
    update_id: str,
    segments: bytes,
) -> ClientState:
    """Step 1: fresh keys for this round, signed. TrustError if the notice is for another configuration or roster."""
    if notice.configuration_id != configuration.configuration_id:
        refuse("the notice is for another round configuration than the signed one")
    if notice.roster_id != roster.roster_id:
        refuse("the notice is for another roster than the one shown")
    device = key.public_key().public_bytes_raw()
    if device.hex() not in roster.devices:
        refuse("this device is not on the institution's roster")
    channel_seed, mask_seed, self_seed = (os.urandom(SEED_BYTES) for _ in range(3))
    round_id = notice.round_id
    bare = Advertisement(
        device=device,
        channel=_public(private_key(channel_seed, b"channel/" + bytes.fromhex(round_id))),
        mask=_public(mask_private(mask_seed, round_id)),
        seed_digest=hashlib.sha256(self_seed).digest(),
        update_id=bytes.fromhex(update_id),
        segments=segments,
        signature=bytes(64),
    )
    signature = bytes.fromhex(sign(key, KEYS, bare.statement(round_id)))
    return ClientState(
        notice=notice,
        minimum=max(secure_rules(configuration).minimum, roster.minimum),
        advertisement=msgspec.structs.replace(bare, signature=signature),
        channel_seed=channel_seed,
        mask_seed=mask_seed,
        self_seed=self_seed,
    )


def share(member: ClientState, cohort: SecureCohort, roster: Roster, configuration: RoundConfiguration) -> ClientState:
    """Step 2: check everybody's keys and right to be here, and seal for each neighbour a share of both seeds.

    TrustError for a cohort under the minimum, off the roster, with a key that its device did not sign, or given twice.
    """
    if member.shares is not None:
        if cohort != member.cohort:
            refuse("another cohort than before is shown for the same round")
        return member
    check_cohort(member, cohort, roster)
    view = CohortView(member.round_id, cohort, secure_rules(configuration))
    own, parameters = view.place(member.advertisement.device), view.parameters
    if len(cohort.members) - parameters.drops < member.minimum:
        refuse(f"{len(cohort.members)} devices are too few for a sum of {member.minimum} after drop-outs")
    neighbours = view.graph.neighbours(own)
    seeds = split(member.self_seed, parameters.threshold, len(neighbours))
    keys = split(member.mask_seed, parameters.threshold, len(neighbours))
    channel = channel_private(member)
    sealed = tuple(
        seal(_channel_key(channel, view, other), seed + key, _bound(view, own, other))
        for other, seed, key in zip(neighbours, seeds, keys, strict=True)
    )
    return msgspec.structs.replace(member, cohort=cohort, shares=Shares(sealed))


def check_cohort(member: ClientState, cohort: SecureCohort, roster: Roster) -> None:
    """TrustError unless all are on the roster, sorted, with different keys that each signed for this round."""
    if roster.roster_id != member.notice.roster_id:
        refuse("another roster than the one this round was announced with")
    devices = [m.device for m in cohort.members]
    if devices != sorted(set(devices)):
        refuse("a device stands in the cohort twice, or out of order")
    if len(devices) < member.minimum:
        refuse(f"a cohort of {len(devices)} is below the minimum of {member.minimum}")
    if not {device.hex() for device in devices} <= set(roster.devices):
        refuse("the cohort holds a device that is not on the institution's roster")
    keys = [key for m in cohort.members for key in (m.channel, m.mask)]
    if len(set(keys)) != len(keys):
        refuse("two devices show the same key")
    if member.advertisement not in cohort.members:
        refuse("this device's keys are not shown as it sent them")
    for other in cohort.members:
        verify(other.device.hex(), KEYS, other.statement(member.round_id), other.signature.hex(), where=WHERE)


def mask(
    member: ClientState,
    inbox: Inbox,
    configuration: RoundConfiguration,
    layout: Layout,
    vector: Callable[[SumLayout], np.ndarray],
) -> ClientState:
    """Step 3: open the neighbours' shares and mask the vector that `vector` makes for the sum's terms.

    TrustError if a share was altered or is of another round, or too few shared for the sum to hide this device.
    """
    if member.masked is not None:
        return member
    view, own = _view(member, configuration)
    check_places(view, inbox.sharers, own)
    view.graph.check_present(own, inbox.sharers)
    partners = [place for place in view.graph.neighbours(own) if place in set(inbox.sharers)]
    if len(inbox.sealed) != len(partners):
        refuse("shares are missing, or there are too many")
    channel = channel_private(member)
    held = {
        other: unseal(_channel_key(channel, view, other), sealed, _bound(view, other, own))
        for other, sealed in zip(partners, inbox.sealed, strict=True)
    }
    terms = view.terms(layout, configuration, member.minimum)
    if not terms.segments:
        refuse("no segment is fed by enough of the cohort")
    values = vector(terms)
    add_masks(values, *mask_keys(member, view, own, partners))
    return msgspec.structs.replace(member, held=held, sharers=tuple(inbox.sharers), masked=pack(values, terms.width))


def mask_keys(member: ClientState, view: CohortView, own: int, partners: list[int]) -> tuple[list[bytes], list[bytes]]:
    """The keys of the streams to add and to take away: the lower place of a pair adds; one's own is added."""
    secret = mask_private(member.mask_seed, member.round_id)
    added, taken = [self_key(member.self_seed, view)], list[bytes]()
    for other in partners:
        (added if own < other else taken).append(pair_key(secret, view, other))
    return added, taken


def consent(
    member: ClientState, survivors: Survivors, configuration: RoundConfiguration, layout: Layout, key: Ed25519PrivateKey
) -> ClientState:
    """Step 4: sign whose vectors are in the sum, once and for all.

    TrustError for a set that leaves this device out, names one that it did not mask with, is too small for any number
    of the sum, or is not the set that it signed.
    """
    if member.consent is not None:
        if survivors != member.survivors:
            refuse("another set of survivors than the one this device signed")
        return member
    view, own = _view(member, configuration)
    view.check_survivors(survivors, layout, configuration, member.minimum)
    if own not in survivors.places:
        refuse("this device is left out of the sum, yet asked to open it")
    if not set(survivors.places) <= set(member.sharers):
        refuse("a survivor is named that never shared")
    view.graph.check_present(own, survivors.places)
    signature = bytes.fromhex(sign(key, SURVIVORS, survivors.statement(view.cohort_id)))
    return msgspec.structs.replace(member, survivors=survivors, consent=signature)


def reveal(member: ClientState, consents: Consents, configuration: RoundConfiguration) -> Reveal:
    """Step 5: of each neighbour one share and never both: a survivor's seed, a drop-out's key.

    TrustError unless a quorum of the survivors signed the very set that this device signed.
    """
    if member.survivors is None or consents.survivors != member.survivors:
        refuse("other survivors than the ones this device signed")
    view, _ = _view(member, configuration)
    statement, signers = member.survivors.statement(view.cohort_id), set[int]()
    for one in consents.consents:
        if one.place not in member.survivors.places:
            refuse("somebody signed who is no survivor")
        verify(view.cohort.members[one.place].device.hex(), SURVIVORS, statement, one.signature.hex(), where=WHERE)
        signers.add(one.place)
    if len(signers) < view.parameters.quorum:
        refuse(f"{len(signers)} devices agreed on the survivors, {view.parameters.quorum} are needed")
    alive = set(member.survivors.places)
    return Reveal(
        tuple(
            both[:SHARE_BYTES] if other in alive else both[SHARE_BYTES:] for other, both in sorted(member.held.items())
        )
    )


def check_places(view: CohortView, places: tuple[int, ...], own: int) -> None:
    if list(places) != sorted(set(places)) or not set(places) <= set(range(len(view.cohort.members))):
        refuse("the devices named are no set of the cohort's")
    if own not in places:
        refuse("this device's own shares are said to be missing")


# Keys that both ends of the protocol derive


def mask_private(seed: bytes, round_id: str) -> X25519PrivateKey:
    return private_key(seed, b"mask/" + bytes.fromhex(round_id))


def channel_private(member: ClientState) -> X25519PrivateKey:
    return private_key(member.channel_seed, b"channel/" + bytes.fromhex(member.round_id))


def pair_key(own: X25519PrivateKey, view: CohortView, other: int) -> bytes:
    return agree(own, view.cohort.members[other].mask, MASK + view.cohort_id, SEED_BYTES)


def self_key(seed: bytes, view: CohortView) -> bytes:
    return derive(seed, SELF + view.cohort_id, SEED_BYTES)


def _channel_key(own: X25519PrivateKey, view: CohortView, other: int) -> bytes:
    return agree(own, view.cohort.members[other].channel, CHANNEL + view.cohort_id, 32)


def _bound(view: CohortView, sender: int, receiver: int) -> bytes:
    return view.cohort_id + sender.to_bytes(2, "big") + receiver.to_bytes(2, "big")


def _public(key: X25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def _view(member: ClientState, configuration: RoundConfiguration) -> tuple[CohortView, int]:
    if member.cohort is None:
        refuse("this step comes before its turn")
    view = CohortView(member.round_id, member.cohort, secure_rules(configuration))
    return view, view.place(member.advertisement.device)


def refuse(why: str) -> NoReturn:
    raise TrustError(why, where=WHERE, remedy="nothing was given away; a new round is safe to join")
