"""Takes part in secure aggregation rounds, some steps at each sync; state is stored before anything is sent.

The protocol's steps are pure functions in `homeroom.privacy.secagg.client`; here they meet the store and the wire. What
is summed is the contribution's to say: updates (`secure_update`) and statistics (`secure_statistics`) take the same
steps, in rounds of their own.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from homeroom.contract import secagg
from homeroom.contract.roster import Roster, read_roster
from homeroom.contract.round import RoundConfiguration
from homeroom.contract.signing import Certificate, check_certificate, verify
from homeroom.contract.statistics.secure import StatisticsTerms
from homeroom.errors import NetworkError, TrustError, UpdateError
from homeroom.privacy.secagg.client import ClientState, advertise, consent, mask, reveal, share
from homeroom.privacy.secagg.encoding import Shape, SumLayout, segment_bits
from homeroom.privacy.secagg.primitives import check_shares
from homeroom.runtime.bundle import Bundle
from homeroom.store import Store
from homeroom.store.device_state import StateRecord, text_record

if TYPE_CHECKING:
    from homeroom.federation.network.client import Client

ROUND_TEXT = text_record("identity.secure_round")  # what `take_part` said last, for status and page
ROSTER_SERIAL = StateRecord[int]("identity.roster", lambda serial: str(serial).encode(), int)
MOST_STEPS_PER_SYNC = 16  # every phase twice, and some that another device ended meanwhile
PHASE_STATUS: dict[secagg.Phase, str] = {
    "keys": "joined a cohort; waits for others to join",
    "shares": "sealed shares sent; waits for those of others",
    "input": "masked update sent; waits for those of others",
    "consent": "agreed on who is in the sum; waits for others to agree",
    "reveal": "did its part; the sum is being opened",
}


class _AnnouncementMessage(msgspec.Struct, frozen=True):
    notice: dict[str, str | int]
    signature: str
    certificate: Certificate
    roster: msgspec.Raw
    standing: secagg.RoundStatus
    terms: StatisticsTerms | None = None
    counted_version: int = 0


@dataclass(frozen=True)
class Announcement:
    """The secure round under way as announced, signatures checked; `status` is this device's in it.

    terms, counted_version: of a round of statistics, and of an evaluation; the notice's `configuration_id` names them.
    """

    notice: secagg.Notice
    roster: Roster
    status: secagg.RoundStatus
    terms: StatisticsTerms | None = None
    counted_version: int = 0


@dataclass(frozen=True)
class SecureRoundContext:
    """The device that takes part, its connection, and the round; `root` is the trusted root's fingerprint."""

    store: Store
    bundle: Bundle
    client: Client
    key: Ed25519PrivateKey
    root: str
    configuration: RoundConfiguration


@dataclass(frozen=True)
class RoundRecords:
    """Where a kind of rounds is kept on the device; backups leave these out.

    offered: id of what was offered to the round under way. left: id of a round that the device left.
    client: the client's state, under the id of what was offered.
    """

    offered: StateRecord[str]
    left: StateRecord[str]
    client: StateRecord[ClientState]


class Contribution(Protocol):
    """What this device puts into rounds of one kind."""

    path: str  # of these rounds' requests
    records: RoundRecords

    @property
    def nothing(self) -> str:
        """What a device says that has nothing to offer."""
        ...

    def shape(self, announced: Announcement) -> Shape:
        """What the round sums; TrustError where it is of another kind."""
        ...

    def offer(self, announced: Announcement) -> tuple[str, AbstractSet[str]] | None:
        """Id of what this device has for the round and the names that it announces; None where it has nothing."""
        ...

    def join(self, announced: Announcement, offered: str) -> None:
        """Notes that what was offered is under way; part of the step that stores the client's state."""
        ...

    def encode(self, announced: Announcement, state: ClientState, sum_layout: SumLayout) -> np.ndarray:
        """The ring elements to mask; TrustError where what was offered is gone."""
        ...

    def will_sign(self, state: ClientState) -> None:
        """Before the survivors are signed: charges what the sum costs."""
        ...

    def signed(self, state: ClientState) -> None:
        """After the signature is stored: what was offered is spent, however the round ends."""
        ...

    def refused(self, offered: str) -> None:
        """What was offered may go into no sum."""
        ...

    def finish(self, announced: Announcement, state: ClientState | None) -> None:
        """Before a step: settles what the aggregator says is in a sum. state: of the round that this device is in."""
        ...


def take_part(context: SecureRoundContext, part: Contribution) -> str:
    """Does every step this device can do now in the round under way; returns its status in a few words.

    Raises TrustError where the aggregator or the cohort breaks the protocol; the device has then left the round. Raises
    MissingExtraError where this device cannot take the steps: others would wait for it.
    """
    check_shares()
    for _ in range(MOST_STEPS_PER_SYNC):
        announced = read_announcement(context, part.path)
        if announced is None:
            return "the institution has not given a roster yet"
        _finish_old_rounds(context, part, announced)
        if (status := _step(context, part, announced)) is not None:
            return status
    return "the round goes on; sync again"


def read_announcement(context: SecureRoundContext, path: str) -> Announcement | None:
    """Fetches the announcement; raises TrustError unless it is the aggregator's, with the newest roster seen."""
    where = f"{context.client.enrolment.address}{path}"
    try:
        body = context.client.send("GET", path, limit_bytes=secagg.MESSAGE_LIMIT_BYTES)
        message = msgspec.json.decode(body, type=_AnnouncementMessage | None)
        if message is None:
            return None
        notice = msgspec.convert(message.notice, secagg.Notice)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
        raise NetworkError(f"an answer that cannot be read: {problem}", where=where) from None
    check_certificate(message.certificate, role="aggregator", root_fingerprint=context.root, where=where)
    verify(message.certificate.key, "secure-round", message.notice, message.signature, where=where)
    serial = ROSTER_SERIAL.read(context.store) or 0
    roster = read_roster(bytes(message.roster), root_fingerprint=context.root, after=serial)
    if roster.serial > serial:
        ROSTER_SERIAL.write(context.store, roster.serial)
    if message.standing.round_id != notice.round_id:
        raise TrustError("speaks of another round than the one it announced", where=where)
    return Announcement(notice, roster, message.standing, message.terms, message.counted_version)


def _step(context: SecureRoundContext, part: Contribution, announced: Announcement) -> str | None:
    """Does one step of the round; returns the device's status if nothing more can be done now, else None."""
    phase, round_id = announced.status.phase, announced.notice.round_id
    if part.records.left.read(context.store) == round_id:
        return "this device has left the round under way; it can join the next one"
    if context.key.public_key().public_bytes_raw().hex() not in announced.roster.devices:
        return "this device is not on the institution's roster"
    state, fresh = load_state(context.store, part.records), False
    if state is None:
        if phase != "keys":
            return describe(announced.status, "a round is under way without this device; it can join the next one")
        offer = part.offer(announced)
        if offer is None:
            return part.nothing
        state, fresh = _join(context, part, announced, *offer), True
    if not fresh and not announced.status.wanted:
        return describe(announced.status)
    try:
        _do_phase(context, part, announced, state)
    except TrustError:
        part.records.left.write(context.store, round_id)
        drop_state(context.store, part.records)
        raise
    except UpdateError as problem:
        if problem.code != "past_phase":
            raise
        again = read_announcement(context, part.path) if phase == "keys" else None
        if again and again.status.wanted and (again.notice, again.status.phase) == (announced.notice, phase):
            part.refused(offered_id(state))  # not too late: it may not go into a sum
            drop_state(context.store, part.records)
    return None


def describe(status: secagg.RoundStatus, did: str = "") -> str:
    """A round's status for people: what this device did, by default its part of the phase, and who is missing."""
    did = did or (PHASE_STATUS[status.phase] if status.member else "this device dropped out of the round under way")
    if not status.needed:
        return did
    came = f"{status.arrived} of {status.needed} devices have come"
    came += f", but {status.hindrance}" if status.hindrance else ""
    names = ", ".join(key[:12] for key in status.missing)
    hours = f"{max(1, round(status.left_s / 3600))} h at most" if status.left_s else "until enough have come"
    short = status.needed - status.arrived
    missing = f"{short} more of" if 0 < short < len(status.missing) else "missing"
    return f"{did} ({came}; {missing}: {names}; {hours})" if names else f"{did} ({came})"


def _join(
    context: SecureRoundContext, part: Contribution, announced: Announcement, offered: str, names: AbstractSet[str]
) -> ClientState:
    """Makes keys for this round and stores them before they are sent; what is offered is not replaced any more."""
    shape = part.shape(announced)
    bits = segment_bits(shape, names)
    state = advertise(announced.notice, announced.roster, shape, context.key, update_id=offered, segments=bits)
    with context.store.step("secure round joined", 1):
        part.join(announced, offered)
        part.records.offered.write(context.store, offered)
        _save(context.store, part.records, state)
    return state


def _do_phase(context: SecureRoundContext, part: Contribution, announced: Announcement, state: ClientState) -> None:
    """Does this device's part of the present phase: reads, checks, stores, sends."""
    phase, store, shape = announced.status.phase, context.store, part.shape(announced)
    if phase == "keys":
        return _send(context, part, announced, "keys", secagg.pack(state.advertisement))
    if phase == "shares":
        cohort = _message(context, part, announced, secagg.SecureCohort, where="cohort")
        state = _save(store, part.records, share(state, cohort, announced.roster, shape))
        assert state.shares is not None
        return _send(context, part, announced, "shares", secagg.pack(state.shares))
    if phase == "input":
        inbox = _message(context, part, announced, secagg.Inbox, where="shares")
        state = _save(store, part.records, mask(state, inbox, shape, partial(part.encode, announced, state)))
        return _send(context, part, announced, "input", state.masked or b"")
    if phase == "consent":
        survivors = _message(context, part, announced, secagg.Survivors, where="survivors")
        return _consent(context, part, announced, state, survivors)
    consents = _message(context, part, announced, secagg.Consents, where="survivors")
    if state.consent is None:  # this device is late: a quorum agreed before
        return _consent(context, part, announced, state, consents.survivors)
    return _send(context, part, announced, "reveal", secagg.pack(reveal(state, consents, shape)))


def _message(
    context: SecureRoundContext,
    part: Contribution,
    announced: Announcement,
    into: type[secagg.MessageT],
    *,
    where: str,
) -> secagg.MessageT:
    """The message of the announced phase; UpdateError where the round went on between announcement and message.

    Others' messages may end a phase at any moment, and the next phase's message is of another structure.
    """
    path = f"{part.path}/{announced.notice.round_id}"
    body = context.client.send("GET", path, limit_bytes=secagg.MESSAGE_LIMIT_BYTES)
    try:
        return secagg.unpack(body, into, where=where, error=TrustError)
    except TrustError:
        again = read_announcement(context, part.path)
        if again and (again.notice, again.status.phase) != (announced.notice, announced.status.phase):
            raise UpdateError("the round went on meanwhile", code="past_phase") from None
        raise


def _consent(
    context: SecureRoundContext,
    part: Contribution,
    announced: Announcement,
    state: ClientState,
    survivors: secagg.Survivors,
) -> None:
    """Signs the survivors, once and durably, in the backup too; what was offered is then spent."""
    agreed = consent(state, survivors, part.shape(announced), context.key)
    if state.consent is None:
        part.will_sign(state)
    _save(context.store, part.records, msgspec.structs.replace(agreed, masked=None))
    part.signed(agreed)
    context.store.back_up()
    _send(context, part, announced, "consent", agreed.consent or b"")


def _send(
    context: SecureRoundContext, part: Contribution, announced: Announcement, phase: secagg.Phase, body: bytes
) -> None:
    context.client.send("POST", f"{part.path}/{announced.notice.round_id}/{phase}", body)


def load_state(store: Store, records: RoundRecords) -> ClientState | None:
    """The client's state in the round that this device is in; None where it is in none."""
    offered = records.offered.read(store)
    return None if offered is None else records.client.read(store, offered)


def _save(store: Store, records: RoundRecords, state: ClientState) -> ClientState:
    records.client.write(store, state, offered_id(state))
    return state


def drop_state(store: Store, records: RoundRecords) -> None:
    """Leaves the round that this device is in."""
    if offered := records.offered.read(store):
        with store.step("secure round left"):
            records.client.write(store, None, offered)
            records.offered.write(store, None)


def _finish_old_rounds(context: SecureRoundContext, part: Contribution, announced: Announcement) -> None:
    """Clears rounds that are over: what was agreed to, or is in a sum, is spent; the rest may join again."""
    state = load_state(context.store, part.records)
    part.finish(announced, state)
    if state is None:
        return
    if state.consent is not None:
        part.signed(state)
    if state.round_id != announced.notice.round_id:
        drop_state(context.store, part.records)


def offered_id(state: ClientState) -> str:
    """Id of what a device offered to a round."""
    return state.advertisement.update_id.hex()
