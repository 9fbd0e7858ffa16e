"""A device's part in secure rounds, a step whenever it syncs: what it may not forget is stored before anything is sent.

The steps themselves are pure (`homeroom.privacy.secagg.client`); here are the store and the wire.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from homeroom.contract.roster import Roster, read_roster
from homeroom.contract.round import RoundConfiguration
from homeroom.contract.secagg import (
    MESSAGE_LIMIT_BYTES,
    Consents,
    Inbox,
    Notice,
    Phase,
    RoundStatus,
    SecureCohort,
    Survivors,
    pack,
    unpack,
)
from homeroom.contract.signing import Certificate, check_certificate, verify
from homeroom.contract.update import Update
from homeroom.contract.update_checks import read_update
from homeroom.errors import NetworkError, TrustError, UpdateError
from homeroom.federation import privacy_ledger
from homeroom.privacy.secagg import client as steps
from homeroom.privacy.secagg.client import ClientState
from homeroom.privacy.secagg.encoding import SumLayout, encode, feeds
from homeroom.privacy.secagg.noise import share
from homeroom.runtime.bundle import Bundle
from homeroom.store import Store

if TYPE_CHECKING:
    from homeroom.federation.network.client import Client

UPDATE_SECRET, LEFT_ROUND_SECRET, ROSTER_SERIAL_SECRET = "secure.update", "secure.left", "identity.roster"
MOST_STEPS_PER_SYNC = 16  # of one sync: every phase twice, and some that another device ended meanwhile
PHASE_STATUS: dict[Phase, str] = {
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
    standing: RoundStatus


@dataclass(frozen=True)
class Announcement:
    """What the aggregator says of the round under way, with its signatures checked."""

    notice: Notice
    roster: Roster
    standing: RoundStatus


@dataclass(frozen=True)
class SecureRoundContext:
    """Who takes part: this device's store, bundle, key, trusted root and the signed round configuration."""

    store: Store
    bundle: Bundle
    client: Client
    key: Ed25519PrivateKey
    root: str
    asked: RoundConfiguration


def take_part(own: SecureRoundContext) -> str:
    """Do what this device can do now in the round under way; say in a few words how it stands.

    Raises TrustError where the aggregator or the cohort is not what it should be: the device has then left the round.
    """
    for _ in range(MOST_STEPS_PER_SYNC):
        call = _read_announcement(own)
        if call is None:
            return "the institution has not given a roster yet"
        _finish_old_rounds(own, call)
        if said := _step(own, call):
            return said
    return "the round goes on; sync again"


def _read_announcement(own: SecureRoundContext) -> Announcement | None:
    """TrustError unless the notice is the aggregator's and the roster the institution's newest that was seen."""
    where = f"{own.client.enrolment.address}/v1/secure"
    try:
        told = msgspec.json.decode(
            own.client.send("GET", "/v1/secure", limit_bytes=MESSAGE_LIMIT_BYTES), type=_AnnouncementMessage | None
        )
        if told is None:
            return None
        notice = msgspec.convert(told.notice, Notice)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
        raise NetworkError(f"an answer that cannot be read: {problem}", where=where) from None
    check_certificate(told.certificate, role="aggregator", root_fingerprint=own.root, where=where)
    verify(told.certificate.key, "secure-round", told.notice, told.signature, where=where)
    serial = int(own.store.get_secret(ROSTER_SERIAL_SECRET) or 0)
    roster = read_roster(bytes(told.roster), root_fingerprint=own.root, after=serial)
    if roster.serial > serial:
        own.store.put_secret(ROSTER_SERIAL_SECRET, str(roster.serial).encode())
    if told.standing.round_id != notice.round_id:
        raise TrustError("speaks of another round than the one it announced", where=where)
    return Announcement(notice, roster, told.standing)


def _step(own: SecureRoundContext, call: Announcement) -> str:
    """One step in the round; how the device stands if there is nothing more to do now, else nothing."""
    phase, round_id = call.standing.phase, call.notice.round_id
    if own.store.get_secret(LEFT_ROUND_SECRET) == round_id.encode():
        return "this device has left the round under way; it can join the next one"
    if own.key.public_key().public_bytes_raw().hex() not in call.roster.devices:
        return "this device is not on the institution's roster"
    member, fresh = _load(own.store), False
    if member is None:
        if phase != "keys":
            return "a round is under way without this device; it can join the next one"
        update = _newest_update(own, call.notice)
        if update is None:
            return "nothing to contribute yet"
        member, fresh = _join(own, call, update), True
    if not fresh and not call.standing.wanted:
        return PHASE_STATUS[phase] if call.standing.member else "this device dropped out of the round under way"
    try:
        _do_phase(own, call, member)
    except TrustError:
        own.store.put_secret(LEFT_ROUND_SECRET, round_id.encode())
        _drop(own.store)
        raise
    except UpdateError as problem:
        if problem.code != "past_phase":
            raise
    return ""


def _newest_update(own: SecureRoundContext, notice: Notice) -> Update | None:
    """The newest update that waits and that the round can take."""
    for update in reversed(own.store.outbox.pending()):
        try:
            found = read_update(update.data, own.asked, own.bundle.layout)
            privacy_ledger.ledger_with(own.store, update.update_id, own.asked)
        except UpdateError:
            own.store.outbox.mark_refused(update.update_id)
            continue
        if 0 <= notice.version - found.header.base_version <= own.asked.max_staleness:
            return found
    return None


def _join(own: SecureRoundContext, call: Announcement, update: Update) -> ClientState:
    """New keys for this round, stored before anybody hears of them; the update is not replaced any more."""
    update_id = update.header.update_id
    segments = feeds(own.bundle.layout, own.asked, set(update.values))
    member = steps.advertise(call.notice, call.roster, own.asked, own.key, update_id=update_id, segments=segments)
    with own.store.step("secure round joined", 1):
        own.store.outbox.mark_sending(update_id)
        own.store.put_secret(UPDATE_SECRET, update_id.encode())
        _save(own.store, member)
    return member


def _do_phase(own: SecureRoundContext, call: Announcement, member: ClientState) -> None:
    """What the present phase wants of this device: read, check, store, send."""
    phase, asked, layout = call.standing.phase, own.asked, own.bundle.layout
    if phase == "keys":
        _send(own, call, "keys", pack(member.advertisement))
        return
    body = own.client.send("GET", f"/v1/secure/{call.notice.round_id}", limit_bytes=MESSAGE_LIMIT_BYTES)
    if phase == "shares":
        cohort = unpack(body, SecureCohort, where="cohort", error=TrustError)
        member = _save(own.store, steps.share(member, cohort, call.roster, asked))
        assert member.shares is not None
        _send(own, call, "shares", pack(member.shares))
    elif phase == "input":
        inbox = unpack(body, Inbox, where="shares", error=TrustError)
        update = _update(own, member)
        member = _save(
            own.store,
            steps.mask(member, inbox, asked, layout, lambda terms: _masked_input(own, call, member, update, terms)),
        )
        _send(own, call, "input", member.masked or b"")
    elif phase == "consent":
        _consent(own, call, member, unpack(body, Survivors, where="survivors", error=TrustError))
    else:
        told = unpack(body, Consents, where="survivors", error=TrustError)
        if member.consent is None:  # it comes late, after a quorum had agreed
            _consent(own, call, member, told.survivors)
            return
        _send(own, call, "reveal", pack(steps.reveal(member, told, asked)))


def _masked_input(
    own: SecureRoundContext, call: Announcement, member: ClientState, update: Update, terms: SumLayout
) -> np.ndarray:
    """What is masked: the update, and in a private round this device's share of the noise on its values."""
    assert member.cohort is not None
    add, size = share(own.asked, len(member.cohort.members), member.minimum), sum(terms.sizes)
    return encode(terms, update, call.notice.version, own.asked, lambda vector: add(vector, size))


def _consent(own: SecureRoundContext, call: Announcement, member: ClientState, survivors: Survivors) -> None:
    """Agree, once and durably, in the copy too; the update is then spent, whatever becomes of the round."""
    agreed = steps.consent(member, survivors, own.asked, own.bundle.layout, own.key)
    if own.asked.privacy and member.consent is None:
        privacy_ledger.charge_update(
            own.store, _update_bytes(own, member), _update_id(member), own.asked, own.bundle.layout
        )
    _save(own.store, msgspec.structs.replace(agreed, masked=None))
    _mark_spent(own.store, agreed)
    own.store.back_up()
    _send(own, call, "consent", agreed.consent or b"")


def _send(own: SecureRoundContext, call: Announcement, phase: Phase, body: bytes) -> None:
    own.client.send("POST", f"/v1/secure/{call.notice.round_id}/{phase}", body)


# What is stored: the state under its update's id, so that `forget` finds it; no copy holds it (`store.backup`)


def _load(store: Store) -> ClientState | None:
    update_id = store.get_secret(UPDATE_SECRET)
    body = None if update_id is None else store.get_secret(f"secure.{update_id.decode()}")
    return None if body is None else msgspec.msgpack.decode(body, type=ClientState)


def _save(store: Store, member: ClientState) -> ClientState:
    store.put_secret(f"secure.{member.advertisement.update_id.hex()}", msgspec.msgpack.encode(member))
    return member


def _drop(store: Store) -> None:
    if update_id := store.get_secret(UPDATE_SECRET):
        with store.step("secure round left"):
            store.put_secret(f"secure.{update_id.decode()}", None)
            store.put_secret(UPDATE_SECRET, None)


def _mark_spent(store: Store, member: ClientState) -> None:
    update_id = member.advertisement.update_id.hex()
    if update_id in {update.update_id for update in store.outbox.pending()}:
        store.outbox.mark_sent(update_id)


def _finish_old_rounds(own: SecureRoundContext, call: Announcement) -> None:
    """Put a round that is over away: an update that was agreed to, or is in a sum, is spent; others may join again."""
    store, round_id = own.store, call.notice.round_id
    for update in store.outbox.pending():
        if update.update_id in call.standing.summed:
            privacy_ledger.charge_update(store, update.data, update.update_id, own.asked, own.bundle.layout)
            store.outbox.mark_sent(update.update_id)
    member = _load(store)
    if member is not None and member.consent is not None:
        _mark_spent(store, member)
    if member is not None and member.round_id != round_id:
        _drop(store)


def _update(own: SecureRoundContext, member: ClientState) -> Update:
    return read_update(_update_bytes(own, member), own.asked, own.bundle.layout)


def _update_id(member: ClientState) -> str:
    return member.advertisement.update_id.hex()


def _update_bytes(own: SecureRoundContext, member: ClientState) -> bytes:
    for update in own.store.outbox.pending():
        if update.update_id == _update_id(member):
            return update.data
    raise TrustError("its update is gone", where="secure round", remedy="train again")
