"""Offline exchange: messages in a removable folder go through the same admission as over HTTP; one sealed answer each.

The order makes a pulled-out stick harmless: a message's updates are durable, then its answer is in the folder, then the
message is removed. Delivered again, a message changes nothing and gets the same answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from homeroom.contract import offline_message
from homeroom.contract.canonical_json import digest
from homeroom.contract.offline_folder import OfflineFolder, read, remove
from homeroom.contract.offline_message import AnswerHeader, MessageHeader, Receipt
from homeroom.contract.sealed_box import sealing_key
from homeroom.contract.signing import fingerprint, sign
from homeroom.errors import HomeroomError, InputError, StoreError, TrustError, UpdateError
from homeroom.system.files import read_small, write_durable
from homeroom.system.printable import counted
from homeroom_aggregator.admin.folder import SEALING_KEY_FILE, open_rounds, read_secret
from homeroom_aggregator.merge.rounds import Rounds
from homeroom_aggregator.state.members import Member, join_with_code

COUNTS = ("messages", "joined", "accepted", "already", "refused", "waits", "unlearned")


@dataclass(frozen=True)
class OfflineReport:
    """Counts over the messages in one folder. `unreadable`: the reason by file name; those messages stay there."""

    messages: int
    joined: int
    accepted: int
    already: int
    refused: int
    waits: int
    unlearned: int
    unreadable: dict[str, str]


def take_in_messages(folder: Path, stick: Path, tell: Callable[[str], None]) -> OfflineReport:
    """Take in every message in the removable folder `stick`; leave answers, and the key to seal messages to.

    folder: the aggregator's, which must not be served meanwhile. tell: gets one line a message.
    Raises StoreError or DiskFullError where folder or stick fail: run it again, nothing is lost or counted twice.
    """
    rounds, secret = open_rounds(folder), read_secret(folder)
    try:
        rounds.rewind_if_due()
        key = load_sealing_key(folder)
        exchange = OfflineFolder(stick, fingerprint(rounds.certificate.root))
        exchange.put_receiver(sealing_key(key, rounds.key, rounds.certificate))
        counts, unreadable = dict.fromkeys(COUNTS, 0), dict[str, str]()
        answers: list[tuple[Path, MessageHeader, AnswerHeader]] = []
        for path in exchange.messages():
            try:
                message = read(path, offline_message.OFFLINE_MESSAGE_LIMIT_BYTES)
                with rounds.apart.reading(f"letter {digest(message)}"):
                    header, updates, change = offline_message.read_message(message, key, where=path.name)
            except HomeroomError as problem:
                unreadable[path.name] = problem.what
                continue
            answers.append((path, header, answer_message(rounds, secret, header, updates, change)))
        for path, header, answer in answers:  # only now, so that each holds the version that all of them made
            write_durable(exchange.answer(header.device), seal_answer(rounds, header, answer))
            remove(path)
            counts["messages"] += 1
            counts["joined"] += bool(header.code) and not answer.refused
            counts["unlearned"] += len(answer.unlearned)
            for receipt in answer.receipts:
                counts[receipt.status] += 1
            done = f"{counted(len(answer.receipts), 'update')}, {len(answer.unlearned)} to unlearn"
            done += ", a change of statistics" if header.statistics else ""
            done += f", which is refused: {answer.statistics_refused}" if answer.statistics_refused else ""
            tell(f"{header.device[:8]}: {answer.refused or done}")
        return OfflineReport(**counts, unreadable=unreadable)
    finally:
        rounds.close()


def answer_message(
    rounds: Rounds, secret: bytes, header: MessageHeader, updates: list[bytes], change: bytes
) -> AnswerHeader:
    """Do what a message asks for, as far as its device may; the answer says what is refused.

    secret: proves invitation codes. header, updates, change: the message, opened.
    """
    answer = AnswerHeader(
        device=header.device,
        bundle_id=rounds.bundle.bundle_id,
        certificate=rounds.certificate,
        payload_sha256=digest(b""),
        message_id=header.message_id,
    )
    try:
        member = _member(rounds, secret, header)
    except HomeroomError as problem:
        return msgspec.structs.replace(answer, refused=str(problem))
    for update_id in header.unlearn:
        rounds.withdraw(update_id, member.name)
    bounded = tuple(update_id for update_id in header.unlearn if rounds.bounded(update_id, member.name))
    configuration = rounds.configuration.document
    return msgspec.structs.replace(
        answer,
        receipts=tuple(_receipt(rounds, member, update) for update in updates),
        unlearned=tuple(update_id for update_id in header.unlearn if update_id not in bounded),
        bounded=bounded,
        kept=tuple(update_id for update_id in header.unlearn if rounds.stays(update_id, member.name)),
        statistics_refused=_refuses_statistics(rounds, member, change) if change else "",
        round=configuration,
        round_signature=sign(rounds.key, "round", configuration),
        school=member.school if rounds.merges_for(member.school, rounds.members) else "",
    )


def _member(rounds: Rounds, secret: bytes, header: MessageHeader) -> Member:
    if header.bundle_id != rounds.bundle.bundle_id:
        raise InputError("it is about another bundle", remedy="install the institution's bundle")
    if header.code:
        join_with_code(rounds.members, secret, header.device, header.code)
    member = rounds.members.find(header.device)
    if member is None or member.role != "device":
        raise TrustError("this device is not enrolled", remedy="join with a new invitation")
    return member


def _receipt(rounds: Rounds, member: Member, update: bytes) -> Receipt:
    try:
        if not rounds.members.consented(member.school):
            return Receipt(update=digest(update), status="waits", message=f"{member.school} has not consented")
        _, status = rounds.update(update, member.device, member.name)
        return Receipt(update=digest(update), status=status)
    except UpdateError as problem:
        reason = {"code": problem.code, "message": problem.what, "remedy": problem.remedy}
        return Receipt(update=digest(update), status="refused", **reason)


def _refuses_statistics(rounds: Rounds, member: Member, change: bytes) -> str:
    """Takes a change of statistics; why it is refused, or empty."""
    if not rounds.members.consented(member.school):
        return f"{member.school} has not consented"
    try:
        rounds.take_statistics(change, member.device, member.name)
    except UpdateError as problem:
        return str(problem)
    return ""


def seal_answer(rounds: Rounds, header: MessageHeader, answer: AnswerHeader) -> bytes:
    """An answer as it travels, with the newest version and release of statistics that its device does not have."""
    if answer.refused:
        return offline_message.write_answer(rounds.key, answer, b"", header.sealing)
    release, member = b"", rounds.members.find(header.device)
    if member and header.release is not msgspec.UNSET and rounds.configuration.statistics.mode != "off":
        status = rounds.statistics_status(member.name)
        answer = msgspec.structs.replace(answer, statistics=status)
        if status.release > header.release:
            release = rounds.statistics.totals.release().body
    return offline_message.write_answer(rounds.key, answer, newer_version(rounds, header), header.sealing, release)


def newer_version(rounds: Rounds, header: MessageHeader) -> bytes:
    """The newest version as it was signed; empty where the message's device has it."""
    number, member = rounds.state.version, rounds.members.find(header.device)
    return (rounds.version(number, member.school if member else "") or b"") if number > header.after else b""


def load_sealing_key(folder: Path) -> X25519PrivateKey:
    """The key that messages to the aggregator in `folder` are sealed to, made the first time."""
    path = folder / SEALING_KEY_FILE
    if not path.exists():
        pkcs8, no_encryption = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        new = X25519PrivateKey.generate().private_bytes(serialization.Encoding.PEM, pkcs8, no_encryption)
        write_durable(path, new)
    try:
        key = serialization.load_pem_private_key(read_small(path), password=None)
    except (OSError, ValueError, TypeError) as problem:
        raise StoreError(f"cannot be read: {problem}", where=str(path), remedy="restore it from a backup") from None
    if not isinstance(key, X25519PrivateKey):
        raise StoreError("is not an X25519 key", where=str(path))
    return key
