"""Takes part in secure aggregation rounds, some steps at each sync; state is stored before anything is sent.

The protocol's steps are pure functions in `homeroom.privacy.secagg.client`; here they meet the store and the wire.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from homeroom.contract import secagg
from homeroom.contract.roster import Roster, read_roster
from homeroom.contract.round import RoundConfiguration
from homeroom.contract.signing import Certificate, check_certificate, verify
from homeroom.contract.update import Update
from homeroom.contract.update_checks import read_update
from homeroom.errors import NetworkError, TrustError, UpdateError
from homeroom.federation import privacy_ledger
from homeroom.privacy.secagg import noise
from homeroom.privacy.secagg.client import ClientState, advertise, consent, mask, reveal, share
from homeroom.privacy.secagg.encoding import SumLayout, encode, segment_bits
from homeroom.runtime.bundle import Bundle
from homeroom.store import Store
from homeroom.store.device_state import SECURE, StateRecord, msgpack_record, text_record

if TYPE_CHECKING:
    from homeroom.federation.network.client import Client

UPDATE_ID, LEFT_ROUND = text_record("secure.update"), text_record("secure.left")  # ids: of the update in it, of a round
ROUND_TEXT = text_record("identity.secure_round")  # what `take_part` said last, for status and page
ROSTER_SERIAL = StateRecord[int]("identity.roster", lambda serial: str(serial).encode(), int)
CLIENT = msgpack_record(SECURE, ClientState)  # under its update's id, so that `forget` finds it; backups leave it out
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


@dataclass(frozen=True)
class Announcement:
    """The secure round under way as announced, signatures checked; `status` is this device's in it."""

    notice: secagg.Notice
    roster: Roster
    status: secagg.RoundStatus


@dataclass(frozen=True)
class SecureRoundContext:
    """The device that takes part, its connection, and the round; `root` is the trusted root's fingerprint."""

    store: Store
    bundle: Bundle
    client: Client
    key: Ed25519PrivateKey
    root: str
    configuration: RoundConfiguration


def take_part(context: SecureRoundContext) -> str:
    """Does every step this device can do now in the round under way; returns its status in a few words.

    Raises TrustError where the aggregator or the cohort breaks the protocol; the device has then left the round.
    """
    for _ in range(MOST_STEPS_PER_SYNC):
        announced = _read_announcement(context)
        if announced is None:
            return "the institution has not given a roster yet"
        _finish_old_rounds(context, announced)
        if (status := _step(context, announced)) is not None:
            return status
    return "the round goes on; sync again"


def _read_announcement(context: SecureRoundContext) -> Announcement | None:
    """Fetches the announcement; raises TrustError unless it is the aggregator's, with the newest roster seen."""
    where = f"{context.client.enrolment.address}/v1/secure"
    try:
        body = context.client.send("GET", "/v1/secure", limit_bytes=secagg.MESSAGE_LIMIT_BYTES)
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
    return Announcement(notice, roster, message.standing)


def _step(context: SecureRoundContext, announced: Announcement) -> str | None:
    """Does one step of the round; returns the device's status if nothing more can be done now, else None."""
    phase, round_id = announced.status.phase, announced.notice.round_id
    if LEFT_ROUND.read(context.store) == round_id:
        return "this device has left the round under way; it can join the next one"
    if context.key.public_key().public_bytes_raw().hex() not in announced.roster.devices:
        return "this device is not on the institution's roster"
    state, fresh = _load(context.store), False
    if state is None:
        if phase != "keys":
            return describe(announced.status, "a round is under way without this device; it can join the next one")
        update = _newest_update(context, announced.notice)
        if update is None:
            return "nothing to contribute yet"
        state, fresh = _join(context, announced, update), True
    if not fresh and not announced.status.wanted:
        return describe(announced.status)
    try:
        _do_phase(context, announced, state)
    except TrustError:
        LEFT_ROUND.write(context.store, round_id)
        _drop(context.store)
        raise
    except UpdateError as problem:
        if problem.code != "past_phase":
            raise
        again = _read_announcement(context) if phase == "keys" else None
        if again and again.status.wanted and (again.notice, again.status.phase) == (announced.notice, phase):
            context.store.outbox.mark_refused(_update_id(state))  # not too late: this update may not go into a sum
            _drop(context.store)
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


def _newest_update(context: SecureRoundContext, notice: secagg.Notice) -> Update | None:
    """The newest waiting update that the round can take; those that it can take no more are marked refused."""
    for update in reversed(context.store.outbox.pending()):
        try:
            checked = read_update(update.data, context.configuration, context.bundle.layout)
            privacy_ledger.ledger_with(context.store, update.update_id, context.configuration)
            if notice.version - checked.header.base_version > context.configuration.max_staleness:
                raise UpdateError("its base is too far behind", code="too_stale")
        except UpdateError:
            context.store.outbox.mark_refused(update.update_id)
            continue
        if checked.header.base_version <= notice.version:
            return checked
    return None


def _join(context: SecureRoundContext, announced: Announcement, update: Update) -> ClientState:
    """Makes keys for this round and stores them before they are sent; the update is not replaced any more."""
    update_id, configuration = update.header.update_id, context.configuration
    bits = segment_bits(context.bundle.layout, configuration, set(update.values))
    notice, roster = announced.notice, announced.roster
    state = advertise(notice, roster, configuration, context.key, update_id=update_id, segments=bits)
    with context.store.step("secure round joined", 1):
        context.store.outbox.mark_sending(update_id)
        UPDATE_ID.write(context.store, update_id)
        _save(context.store, state)
    return state


def _do_phase(context: SecureRoundContext, announced: Announcement, state: ClientState) -> None:
    """Does this device's part of the present phase: reads, checks, stores, sends."""
    phase, configuration, layout = announced.status.phase, context.configuration, context.bundle.layout
    if phase == "keys":
        return _send(context, announced, "keys", secagg.pack(state.advertisement))
    body = context.client.send("GET", f"/v1/secure/{announced.notice.round_id}", limit_bytes=secagg.MESSAGE_LIMIT_BYTES)
    if phase == "shares":
        cohort = secagg.unpack(body, secagg.SecureCohort, where="cohort", error=TrustError)
        state = _save(context.store, share(state, cohort, announced.roster, configuration))
        assert state.shares is not None
        return _send(context, announced, "shares", secagg.pack(state.shares))
    if phase == "input":
        inbox = secagg.unpack(body, secagg.Inbox, where="shares", error=TrustError)
        update = read_update(_update_bytes(context, state), configuration, layout)
        encode_input = partial(_input_vector, context, announced, state, update)
        state = _save(context.store, mask(state, inbox, configuration, layout, encode_input))
        return _send(context, announced, "input", state.masked or b"")
    if phase == "consent":
        survivors = secagg.unpack(body, secagg.Survivors, where="survivors", error=TrustError)
        return _consent(context, announced, state, survivors)
    consents = secagg.unpack(body, secagg.Consents, where="survivors", error=TrustError)
    if state.consent is None:  # this device is late: a quorum agreed before
        return _consent(context, announced, state, consents.survivors)
    return _send(context, announced, "reveal", secagg.pack(reveal(state, consents, configuration)))


def _input_vector(
    context: SecureRoundContext, announced: Announcement, state: ClientState, update: Update, terms: SumLayout
) -> np.ndarray:
    """The vector to mask: the encoded update, in a private round with this device's share of the noise."""
    assert state.cohort is not None
    add, size = noise.noise_share(context.configuration, len(state.cohort.members), state.minimum), sum(terms.sizes)
    return encode(terms, update, announced.notice.version, context.configuration, lambda vector: add(vector, size))


def _consent(
    context: SecureRoundContext, announced: Announcement, state: ClientState, survivors: secagg.Survivors
) -> None:
    """Signs the survivors, once and durably, in the backup too; the update is then spent, however the round ends."""
    configuration, layout = context.configuration, context.bundle.layout
    agreed = consent(state, survivors, configuration, layout, context.key)
    if configuration.privacy and state.consent is None:
        data = _update_bytes(context, state)
        privacy_ledger.charge_update(context.store, data, _update_id(state), configuration, layout)
    _save(context.store, msgspec.structs.replace(agreed, masked=None))
    _mark_spent(context.store, agreed)
    context.store.back_up()
    _send(context, announced, "consent", agreed.consent or b"")


def _send(context: SecureRoundContext, announced: Announcement, phase: secagg.Phase, body: bytes) -> None:
    context.client.send("POST", f"/v1/secure/{announced.notice.round_id}/{phase}", body)


def _load(store: Store) -> ClientState | None:
    update_id = UPDATE_ID.read(store)
    return None if update_id is None else CLIENT.read(store, update_id)


def _save(store: Store, state: ClientState) -> ClientState:
    CLIENT.write(store, state, _update_id(state))
    return state


def _drop(store: Store) -> None:
    if update_id := UPDATE_ID.read(store):
        with store.step("secure round left"):
            CLIENT.write(store, None, update_id)
            UPDATE_ID.write(store, None)


def _mark_spent(store: Store, state: ClientState) -> None:
    update_id = _update_id(state)
    if update_id in {update.update_id for update in store.outbox.pending()}:
        store.outbox.mark_sent(update_id)


def _finish_old_rounds(context: SecureRoundContext, announced: Announcement) -> None:
    """Clears rounds that are over: an update that was agreed to, or is in a sum, is spent; others may join again."""
    store, configuration, layout = context.store, context.configuration, context.bundle.layout
    for update in store.outbox.pending():
        if update.update_id in announced.status.summed:
            privacy_ledger.charge_update(store, update.data, update.update_id, configuration, layout)
            store.outbox.mark_sent(update.update_id)
    state = _load(store)
    if state is None:
        return
    if state.consent is not None:
        _mark_spent(store, state)
    if state.round_id != announced.notice.round_id:
        _drop(store)


def _update_id(state: ClientState) -> str:
    return state.advertisement.update_id.hex()


def _update_bytes(context: SecureRoundContext, state: ClientState) -> bytes:
    waiting = {update.update_id: update.data for update in context.store.outbox.pending()}
    if _update_id(state) not in waiting:
        raise TrustError("its update is gone", where="secure round", remedy="train again")
    return waiting[_update_id(state)]
