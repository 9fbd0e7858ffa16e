"""Secure aggregation client: one device's five steps in a secure round, as pure functions.

Each step takes the client's state and the aggregator's message and returns the new state; it raises TrustError where
the message would reveal the update. The caller stores the state *before* it sends anything: after a power cut no mask
is used for two encodings and no second set of survivors is signed. After Bonawitz et al. 2017, figure 4, on the graph
of Bell et al. 2020.
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
from msgspec.structs import replace

from homeroom.contract import secagg
from homeroom.contract.roster import Roster
from homeroom.contract.secagg import Advertisement, SecureCohort, Survivors
from homeroom.contract.signing import sign, verify
from homeroom.errors import InputError, TrustError
from homeroom.privacy.secagg.encoding import Shape, SumLayout, feeders
from homeroom.privacy.secagg.graph import NeighbourGraph
from homeroom.privacy.secagg.masks import add_masks, pack
from homeroom.privacy.secagg.parameters import choose_parameters
from homeroom.privacy.secagg.primitives import SEED_BYTES, agree, derive, private_key, seal, split, unseal
from homeroom.system.printable import counted

SECURE_ROUND = "secure round"
KEYS_PURPOSE, SURVIVORS_PURPOSE = "secure-keys", "secure-survivors"  # purposes of signatures
# HKDF labels; the cohort id follows
MASK_LABEL, SELF_MASK_LABEL, CHANNEL_LABEL = b"homeroom/mask/", b"homeroom/self/", b"homeroom/channel/"


class ClientState(msgspec.Struct, frozen=True, kw_only=True):
    """State of one client in one round.

    minimum: least number of devices in a sum, the larger of the roster's and the rules'.
    channel_seed, mask_seed: seeds of the X25519 keys; self_seed: of the self-mask.
    held: by neighbour's slot, its shares of the self-mask's seed and of the mask key's.
    sharers: slots of the clients that shared.
    masked: the packed masked encoding.
    survivors: the one set that this device signed; `consent` is the signature.
    """

    notice: secagg.Notice
    minimum: int
    advertisement: Advertisement
    channel_seed: bytes
    mask_seed: bytes
    self_seed: bytes
    cohort: SecureCohort | None = None
    shares: secagg.Shares | None = None
    held: dict[int, bytes] = {}
    sharers: tuple[int, ...] = ()
    masked: bytes | None = None
    survivors: Survivors | None = None
    consent: bytes | None = None

    @property
    def round_id(self) -> str:
        """Identity of the round's notice."""
        return self.notice.round_id


class CohortView:
    """Parameters and graph of a cohort, the same for every client and for the aggregator."""

    def __init__(self, round_id: str, cohort: SecureCohort, shape: Shape) -> None:
        self.cohort, self.shape, self.cohort_id = cohort, shape, cohort.cohort_id(round_id)
        self._fed: dict[int, dict[str, frozenset[int]]] = {}
        rules = shape.secure
        try:
            self.parameters = choose_parameters(len(cohort.members), rules.drop_rate, rules.corrupt_rate)
        except InputError as problem:
            refuse(problem.what)
        self.graph = NeighbourGraph(cohort, self.cohort_id, self.parameters)

    def slot(self, device: bytes) -> int:
        """Slot of a device, its index in the cohort; TrustError if it is not in it."""
        for slot, client in enumerate(self.cohort.members):
            if client.device == device:
                return slot
        refuse("the cohort does not hold this device")

    def announced(self) -> dict[str, set[int]]:
        """Slots of the clients by name that they announce."""
        return feeders(self.shape, self.cohort)

    def fed(self, minimum: int) -> dict[str, frozenset[int]]:
        """The segments of the sum and the slots that feed each: `minimum` after all drop-outs."""
        if minimum not in self._fed:
            self._fed[minimum] = self.shape.chosen(self.announced(), minimum + self.parameters.drops)
        return self._fed[minimum]

    def sum_layout(self, minimum: int) -> SumLayout:
        """Layout of the encoding that every client of the cohort masks: segments that enough feed, in a ring that fits.

        minimum: least number of devices in a sum.
        """
        segments = tuple(self.fed(minimum))
        sizes = tuple(self.shape.size(segment) for segment in segments)
        return SumLayout(segments, sizes, self.shape.width(len(self.cohort.members)))

    def check_survivors(self, survivors: Survivors, minimum: int) -> None:
        """Raises TrustError unless every value of the sum has at least `minimum` devices and hides each survivor."""
        slots = survivors.places
        if list(slots) != sorted(set(slots)) or not set(slots) <= set(range(len(self.cohort.members))):
            refuse("the survivors are no set of the cohort's")
        if len(slots) < minimum:
            refuse(f"only {counted(len(slots), 'device')} left of the {minimum} that a sum needs")
        for name, fed in self.fed(minimum).items():
            if len(fed & set(slots)) < minimum:
                refuse(f"segment {name} is left with fewer than {minimum} devices")
        if len(slots) < self.parameters.quorum or self.graph.gap(slots):
            refuse("too many devices are left out, or too many that stand together")


def advertise(
    notice: secagg.Notice,
    roster: Roster,
    shape: Shape,
    key: Ed25519PrivateKey,
    *,
    update_id: str,
    segments: bytes,
) -> ClientState:
    """Step 1: makes fresh keys for this round and signs them.

    Raises TrustError if the notice is for another configuration or roster, or the device is not on the roster.

    key: the device's signing key.
    update_id: id of the update that it contributes.
    segments: bits of `encoding.segment_bits`.
    """
    if notice.configuration_id != shape.rules_id:
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
        mask=_public(mask_private_key(mask_seed, round_id)),
        seed_digest=hashlib.sha256(self_seed).digest(),
        update_id=bytes.fromhex(update_id),
        segments=segments,
        signature=bytes(64),
    )
    signature = bytes.fromhex(sign(key, KEYS_PURPOSE, bare.statement(round_id)))
    return ClientState(
        notice=notice,
        minimum=max(shape.secure.minimum, roster.minimum),
        advertisement=replace(bare, signature=signature),
        channel_seed=channel_seed,
        mask_seed=mask_seed,
        self_seed=self_seed,
    )


def share(state: ClientState, cohort: SecureCohort, roster: Roster, shape: Shape) -> ClientState:
    """Step 2: verifies the cohort and seals for each neighbour a share of both seeds (Shamir 1979).

    Raises TrustError for a cohort that is too small, off the roster, holds an unsigned or repeated key, or differs from
    the one shown before.
    """
    if state.shares is not None:
        if cohort != state.cohort:
            refuse("another cohort than before is shown for the same round")
        return state
    check_cohort(state, cohort, roster)
    view = CohortView(state.round_id, cohort, shape)
    own, parameters = view.slot(state.advertisement.device), view.parameters
    if len(cohort.members) - parameters.drops < state.minimum:
        refuse(f"{counted(len(cohort.members), 'device')}: too few for a sum of {state.minimum} after drop-outs")
    neighbours = view.graph.neighbours(own)
    seeds = split(state.self_seed, parameters.threshold, len(neighbours))
    keys = split(state.mask_seed, parameters.threshold, len(neighbours))
    channel = channel_private_key(state)
    sealed = tuple(
        seal(_channel_key(channel, view, other), seed + key, _associated_data(view, own, other))
        for other, seed, key in zip(neighbours, seeds, keys, strict=True)
    )
    return replace(state, cohort=cohort, shares=secagg.Shares(sealed))


def check_cohort(state: ClientState, cohort: SecureCohort, roster: Roster) -> None:
    """Raises TrustError unless all devices are on the roster, sorted, with distinct keys signed for this round."""
    if roster.roster_id != state.notice.roster_id:
        refuse("another roster than the one this round was announced with")
    devices = [m.device for m in cohort.members]
    if devices != sorted(set(devices)):
        refuse("a device stands in the cohort twice, or out of order")
    if len(devices) < state.minimum:
        refuse(f"a cohort of {len(devices)} is below the minimum of {state.minimum}")
    if not {device.hex() for device in devices} <= set(roster.devices):
        refuse("the cohort holds a device that is not on the institution's roster")
    keys = [key for m in cohort.members for key in (m.channel, m.mask)]
    if len(set(keys)) != len(keys):
        refuse("two devices show the same key")
    if state.advertisement not in cohort.members:
        refuse("this device's keys are not shown as it sent them")
    for other in cohort.members:
        statement, signature = other.statement(state.round_id), other.signature.hex()
        verify(other.device.hex(), KEYS_PURPOSE, statement, signature, where=SECURE_ROUND)


def mask(
    state: ClientState,
    inbox: secagg.Inbox,
    shape: Shape,
    encode: Callable[[SumLayout], np.ndarray],
) -> ClientState:
    """Step 3: opens the neighbours' shares and masks this device's encoding.

    Raises TrustError if a share was altered or is of another round, or too few shared for the sum to hide this device.

    inbox: the clients that shared, and the shares that neighbours sealed for this one.
    encode: makes the encoding, uint32 or uint64 [SumLayout.count], for a layout of the sum.
    """
    if state.masked is not None:
        return state
    view, own = _view(state, shape)
    check_slots(view, inbox.sharers, own)
    view.graph.check_present(own, inbox.sharers)
    partners = [slot for slot in view.graph.neighbours(own) if slot in set(inbox.sharers)]
    if len(inbox.sealed) != len(partners):
        refuse("shares are missing, or there are too many")
    channel = channel_private_key(state)
    held = {
        other: unseal(_channel_key(channel, view, other), sealed, _associated_data(view, other, own))
        for other, sealed in zip(partners, inbox.sealed, strict=True)
    }
    sum_layout = view.sum_layout(state.minimum)
    if not sum_layout.segments:
        refuse("no segment is fed by enough of the cohort")
    values = encode(sum_layout)
    add_masks(values, *mask_keys(state, view, own, partners))
    return replace(state, held=held, sharers=tuple(inbox.sharers), masked=pack(values, sum_layout.width))


def mask_keys(state: ClientState, view: CohortView, own: int, partners: list[int]) -> tuple[list[bytes], list[bytes]]:
    """Keys of the keystreams to add and to subtract: the lower slot of a pair adds; the self-mask is added."""
    secret = mask_private_key(state.mask_seed, state.round_id)
    added, subtracted = [self_mask_key(state.self_seed, view)], list[bytes]()
    for other in partners:
        (added if own < other else subtracted).append(pair_mask_key(secret, view, other))
    return added, subtracted


def consent(state: ClientState, survivors: Survivors, shape: Shape, key: Ed25519PrivateKey) -> ClientState:
    """Step 4: signs the set of survivors, whose masked encodings are in the sum; one set a round.

    Raises TrustError for a set that leaves this device out, names a device that did not share, is too small for any
    value of the sum, or differs from the set signed before.
    """
    if state.consent is not None:
        if survivors != state.survivors:
            refuse("another set of survivors than the one this device signed")
        return state
    view, own = _view(state, shape)
    view.check_survivors(survivors, state.minimum)
    if own not in survivors.places:
        refuse("this device is left out of the sum, yet asked to open it")
    if not set(survivors.places) <= set(state.sharers):
        refuse("a survivor is named that never shared")
    view.graph.check_present(own, survivors.places)
    signature = bytes.fromhex(sign(key, SURVIVORS_PURPOSE, survivors.statement(view.cohort_id)))
    return replace(state, survivors=survivors, consent=signature)


def reveal(state: ClientState, consents: secagg.Consents, shape: Shape) -> secagg.Reveal:
    """Step 5: reveals one share of each neighbour, never both: of a survivor's self-mask or a drop-out's mask key.

    Raises TrustError unless a quorum of the survivors signed the same set as this device.
    """
    if state.survivors is None or consents.survivors != state.survivors:
        refuse("other survivors than the ones this device signed")
    view, _ = _view(state, shape)
    statement, signers = state.survivors.statement(view.cohort_id), set[int]()
    for signed in consents.consents:
        if signed.place not in state.survivors.places:
            refuse("somebody signed who is no survivor")
        device = view.cohort.members[signed.place].device.hex()
        verify(device, SURVIVORS_PURPOSE, statement, signed.signature.hex(), where=SECURE_ROUND)
        signers.add(signed.place)
    if len(signers) < view.parameters.quorum:
        refuse(f"{len(signers)} devices agreed on the survivors, {view.parameters.quorum} are needed")
    halves = slice(secagg.SHARE_BYTES), slice(secagg.SHARE_BYTES, None)  # of the self-mask's seed, of the mask key's
    alive = state.survivors.places
    return secagg.Reveal(tuple(both[halves[other not in alive]] for other, both in sorted(state.held.items())))


def check_slots(view: CohortView, slots: tuple[int, ...], own: int) -> None:
    """Raises TrustError unless `slots` are rising slots of the cohort, `own` among them."""
    if list(slots) != sorted(set(slots)) or not set(slots) <= set(range(len(view.cohort.members))):
        refuse("the devices named are no set of the cohort's")
    if own not in slots:
        refuse("this device's own shares are said to be missing")


# Keys that both ends of the protocol derive


def mask_private_key(seed: bytes, round_id: str) -> X25519PrivateKey:
    """X25519 key for pairwise masks."""
    return private_key(seed, b"mask/" + bytes.fromhex(round_id))


def channel_private_key(state: ClientState) -> X25519PrivateKey:
    """X25519 key for sealing shares."""
    return private_key(state.channel_seed, b"channel/" + bytes.fromhex(state.round_id))


def pair_mask_key(own: X25519PrivateKey, view: CohortView, other: int) -> bytes:
    """AES key, 16 bytes, of the mask shared with the client in slot `other`."""
    return agree(own, view.cohort.members[other].mask, MASK_LABEL + view.cohort_id, SEED_BYTES)


def self_mask_key(seed: bytes, view: CohortView) -> bytes:
    """AES key, 16 bytes, of a client's self-mask."""
    return derive(seed, SELF_MASK_LABEL + view.cohort_id, SEED_BYTES)


def _channel_key(own: X25519PrivateKey, view: CohortView, other: int) -> bytes:
    return agree(own, view.cohort.members[other].channel, CHANNEL_LABEL + view.cohort_id, 32)


def _associated_data(view: CohortView, sender: int, receiver: int) -> bytes:
    return view.cohort_id + sender.to_bytes(2, "big") + receiver.to_bytes(2, "big")


def _public(key: X25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def _view(state: ClientState, shape: Shape) -> tuple[CohortView, int]:
    if state.cohort is None:
        refuse("this step comes before its turn")
    view = CohortView(state.round_id, state.cohort, shape)
    return view, view.slot(state.advertisement.device)


def refuse(why: str) -> NoReturn:
    """Raises the TrustError of a refused message."""
    raise TrustError(why, where=SECURE_ROUND, remedy="nothing was given away; a new round is safe to join")
