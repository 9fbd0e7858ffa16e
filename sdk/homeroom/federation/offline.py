"""Offline exchange with an aggregator: a sealed message out on a removable folder, and its answer back in.

Updates, signatures and checks are those of `sync`; an update stays in the outbox until its receipt is here.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from homeroom.contract import offline_message
from homeroom.contract.canonical_json import digest
from homeroom.contract.invitation import Invitation, enrolment_of
from homeroom.contract.offline_folder import OfflineFolder, read, remove
from homeroom.contract.round import RoundConfiguration, read_round
from homeroom.contract.sealed_box import check_sealing_key
from homeroom.contract.signing import public_hex
from homeroom.errors import AnswerError, Code, InputError, NetworkError, TrustError, UpdateError
from homeroom.federation import agreement, enrolment, offline_statistics, privacy_ledger, statistics
from homeroom.federation.statistics import StatisticsReport
from homeroom.federation.sync import FetchedTheta, ScoreThetas, use_global
from homeroom.federation.unlearning import UnlearningOutcome
from homeroom.federation.versions import carry_over_global, newest_global
from homeroom.runtime.bundle import Bundle
from homeroom.store import Store
from homeroom.store.device_state import StateRecord, json_record
from homeroom.system.attempt import ENDED, attempt, cut_short
from homeroom.system.files import write_durable

SEALING_KEY = StateRecord[X25519PrivateKey](  # opens answers
    "identity.sealing", lambda key: key.private_bytes_raw(), X25519PrivateKey.from_private_bytes
)
PENDING_INVITATION = json_record("identity.joining", Invitation)  # its code goes out with the next message
READING_FILE = "reading-answer.json"  # the mark of the answer that is being read
MOST_UNANSWERED_MESSAGES = 16  # whose ids are kept
# for updates; the rest waits for the next message
UPDATES_LIMIT_BYTES = offline_message.OFFLINE_MESSAGE_LIMIT_BYTES - (4 << 20)


@dataclass(frozen=True)
class ExportedMessage:
    """A message that was written: counts of its updates and unlearning requests, and whether it asks to join.

    refused: by update id, why this device did not let an update leave.
    statistics: whether a change of them is in it, and what stays here; None where the aggregator collects none.
    """

    path: Path
    updates: int
    unlearning: int
    joins: bool
    size_bytes: int
    refused: dict[str, str]
    statistics: StatisticsReport | None = None


@dataclass(frozen=True)
class ImportedAnswer:
    """An answer that was imported; `fetched` is the outcome for the version in it.

    refused: the reason by update id.
    bounded, kept: updates that cannot be unlearned, as of `SyncReport`.
    worse, statistics: as in `SyncReport`.
    """

    joined: bool
    sent: tuple[str, ...]
    refused: dict[str, str]
    unlearned: tuple[str, ...]
    bounded: tuple[str, ...]
    fetched: FetchedTheta
    size_bytes: int
    worse: Mapping[str, str] = field(default_factory=dict)
    statistics: StatisticsReport | None = None
    kept: tuple[str, ...] = ()

    @property
    def unlearning(self) -> UnlearningOutcome:
        """What becomes of the updates that were asked to be unlearned."""
        return UnlearningOutcome(self.unlearned, self.bounded, self.kept)


def prepare_join(store: Store, bundle: Bundle, invitation: Invitation, root: str) -> None:
    """Stores an invitation, whose code goes out with the next message."""
    enrolment.check_invitation(store, bundle, invitation, root)
    with store.step("join by hand"):
        enrolment.make_key(store)
        PENDING_INVITATION.write(store, invitation)


def export_message(store: Store, bundle: Bundle, folder: Path, root: str) -> ExportedMessage:
    """Writes waiting updates and requests to a folder, sealed to the aggregator; repeating it is harmless.

    Raises InputError if the device has not joined or the folder has not been at the aggregator, TrustError if another
    root vouches for the folder's receiver, DiskFullError if it is full.

    store: of this device.
    bundle: in use.
    folder: removable, prepared by the aggregator.
    root: fingerprint of the trusted root key.
    """
    store.check_unedited()
    key, joining = enrolment.device_key(store), PENDING_INVITATION.read(store)
    if key is None or (joining is None and not enrolment.has_joined(store)):
        raise _not_joined(store)
    configuration = agreement.read_agreement(store).configuration
    removable = OfflineFolder(folder, root)
    receiver = check_sealing_key(removable.receiver(), root_fingerprint=root, where=str(folder))
    change, shared = offline_statistics.change_for_message(store, bundle, key, configuration)
    newest, updates, size = newest_global(store, bundle), list[bytes](), len(change)
    refused: dict[str, str] = {}
    for update in store.outbox.pending():
        if configuration is None or configuration.secure:
            break  # not joined yet, or secure rounds, which take several turns and send no update by itself
        size += len(update.data)
        if size > UPDATES_LIMIT_BYTES:
            break
        try:
            privacy_ledger.charge_update(store, update.data, update.update_id, configuration, bundle.layout)
        except UpdateError as problem:
            store.outbox.mark_refused(update.update_id)
            refused[update.update_id] = str(problem)
            continue
        store.outbox.mark_sending(update.update_id)  # it may arrive although no answer ever comes back
        updates.append(update.data)
    unlearn, message_id = store.outbox.unlearning()[:4096], secrets.token_hex(16)
    known = agreement.OFFLINE_MESSAGES.read(store) or []
    agreement.OFFLINE_MESSAGES.write(store, [*known, message_id][-MOST_UNANSWERED_MESSAGES:])
    message = offline_message.write_message(
        key,
        _sealing_key(store),
        receiver,
        bundle_id=bundle.bundle_id,
        after=newest.base if newest else 0,
        code="" if joining is None else joining.code,
        updates=updates,
        unlearn=unlearn,
        message_id=message_id,
        statistics=change,
        release=statistics.known_release(store, bundle),
    )
    path = removable.message(public_hex(key))
    write_durable(path, message)
    return ExportedMessage(path, len(updates), len(unlearn), joining is not None, len(message), refused, shared)


def import_answer(store: Store, bundle: Bundle, folder: Path, root: str, score: ScoreThetas) -> ImportedAnswer:
    """Imports the aggregator's answer from a folder and removes it there.

    Raises InputError where there is no answer, TrustError where a signature does not hold or it is about another
    bundle, AnswerError where it is to no message that waits, and NetworkError where the message was refused; nothing is
    stored then.

    store: of this device.
    bundle: in use.
    folder: removable, on which the aggregator left the answer.
    root: fingerprint of the trusted root key.
    score: of thetas, each float32 [P], on this device's validation samples, by task.
    """
    key = enrolment.device_key(store)
    if key is None:
        raise _not_joined(store)
    path = OfflineFolder(folder, root).answer(public_hex(key))
    if not path.is_file():
        raise InputError(
            "there is no answer for this device", where=str(path), remedy="take the message to the aggregator first"
        )
    mark = store.directory / READING_FILE
    if (before := cut_short(mark)) is not None and before.name == path.name:
        aside = path.with_name(f"{path.name}.refused")
        path.replace(aside)
        mark.unlink()
        raise InputError(ENDED, where=str(path), remedy=f"it is {aside.name} now; ask the district for another answer")
    with attempt(mark, path.name):
        return _import_answer(store, bundle, path, root, score, public_hex(key))


def _import_answer(
    store: Store, bundle: Bundle, path: Path, root: str, score: ScoreThetas, device: str
) -> ImportedAnswer:
    data, where = read(path, offline_message.ANSWER_LIMIT_BYTES), str(path)
    trusted = {"device": device, "root_fingerprint": root, "where": where}
    header, version, release = offline_message.read_answer(data, _sealing_key(store), **trusted)
    if header.bundle_id != bundle.bundle_id:
        remedy = "install the institution's bundle"
        raise TrustError("is about another bundle", code=Code.OTHER_BUNDLE, where=where, remedy=remedy)
    _check_order(store, header, where)
    if header.refused:
        remove(path)
        raise NetworkError(f"the message was refused: {header.refused}", where=where, remedy="ask the district")
    joined, configuration = _store_round(store, bundle, header, root, where)
    sent, refused = _store_receipts(store, header)
    unlearning = _store_unlearning(store, header)
    fetched = use_global(store, bundle, version, root, score) if version else FetchedTheta()
    shared = offline_statistics.take_answer(store, bundle, configuration, header, release, root)
    remove(path)
    return ImportedAnswer(
        joined,
        sent,
        refused,
        unlearning.unlearned,
        unlearning.bounded,
        fetched,
        len(data),
        statistics=shared,
        kept=unlearning.kept,
    )


def _check_order(store: Store, header: offline_message.AnswerHeader, where: str) -> None:
    """Raises AnswerError unless the answer is to a message of this device that no newer answer came for.

    A device that has written no message since it was upgraded takes the answer to an older release's.
    """
    waiting = agreement.OFFLINE_MESSAGES.read(store)
    if waiting is None:
        return
    if header.message_id is msgspec.UNSET:
        raise AnswerError(
            "it does not say which message it answers",
            code=Code.UNSIGNED_ANSWER,
            where=where,
            remedy="upgrade the server first, then carry a new message; everything waits here",
        )
    if header.message_id not in waiting:
        remedy = "carry a new message to the aggregator; everything waits here"
        raise AnswerError("answers no message that this device waits for: it is old", where=where, remedy=remedy)
    agreement.OFFLINE_MESSAGES.write(store, waiting[waiting.index(header.message_id) :])


def _store_round(
    store: Store, bundle: Bundle, header: offline_message.AnswerHeader, root: str, where: str
) -> tuple[bool, RoundConfiguration]:
    """Stores the round configuration of an answer; returns whether the device has joined by it, and that one."""
    signed, bundle_id = (header.round, header.certificate, header.round_signature), header.bundle_id
    configuration = read_round(*signed, bundle_id=bundle_id, root=root, where=where)
    joining = PENDING_INVITATION.read(store)
    with store.step("round by hand"):
        enrolment.store_aggregator(store, header.certificate, header.school)
        if joining is None:
            agreement.renew_round(store, configuration)
        else:
            agreement.store_round(store, configuration)
            enrolment.ENROLMENT.write(store, enrolment_of(joining))
            PENDING_INVITATION.write(store, None)
        carry_over_global(store, bundle, configuration)
    return joining is not None, configuration


def _store_receipts(store: Store, header: offline_message.AnswerHeader) -> tuple[tuple[str, ...], dict[str, str]]:
    """Marks what the answer acknowledges; returns the ids sent, and those refused with the reason.

    Receipts of updates that do not wait here are ignored.
    """
    waiting = {digest(update.data): update.update_id for update in store.outbox.pending()}
    sent, refused = [], {}
    for receipt in header.receipts:
        update_id = waiting.get(receipt.update)
        if update_id is None:
            continue
        if receipt.status in ("accepted", "already"):
            store.outbox.mark_sent(update_id)
            sent.append(update_id)
            continue
        if receipt.status == "refused":
            store.outbox.mark_refused(update_id)
        refused[update_id] = f"{receipt.message} ({receipt.remedy})" if receipt.remedy else receipt.message
    return tuple(sent), refused


def _store_unlearning(store: Store, header: offline_message.AnswerHeader) -> UnlearningOutcome:
    """Marks the unlearning that the answer settles."""
    asked = set(store.outbox.unlearning())
    settled = [update_id for update_id in header.unlearned if update_id in asked]
    kept = tuple(update_id for update_id in settled if update_id in header.kept)
    bounded = tuple(update_id for update_id in header.bounded if update_id in asked)
    for update_id in (*settled, *bounded):
        store.outbox.mark_unlearned(update_id)
    unlearned = tuple(update_id for update_id in settled if update_id not in kept)
    return UnlearningOutcome(unlearned, bounded, kept)


def _not_joined(store: Store) -> InputError:
    remedy = "`homeroom device offline join`"
    return InputError("this device has not joined", where=str(store.directory), remedy=remedy)


def _sealing_key(store: Store) -> X25519PrivateKey:
    key = SEALING_KEY.read(store)
    if key is None:
        SEALING_KEY.write(store, key := X25519PrivateKey.generate())
    return key
