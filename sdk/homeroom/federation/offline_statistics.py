"""Statistics on a removable folder: the change goes out with the device's message, the release comes with the answer.

An aggregator says in each answer what it has of this device; a change is made only where it has said so once. So an
older aggregator is asked for nothing that it does not know. Sums of secure rounds take several turns, and do not go by
hand; their release does.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from homeroom.contract.offline_message import AnswerHeader
from homeroom.contract.round import RoundConfiguration
from homeroom.federation import statistics
from homeroom.federation.statistics import BY_HAND, PENDING, PENDING_MESSAGE, TEXT, StatisticsReport, StatisticsText
from homeroom.runtime.bundle import Bundle
from homeroom.store import Store
from homeroom.train.solve.vectors.samples import sums_id

NOT_TOLD = "the aggregator has not said by hand yet what it has of this device: the answer to this message does"
NOT_BY_HAND = (
    "secure rounds take several turns, which no message makes: connect this device once, and `homeroom device sync`"
)


def change_for_message(
    store: Store, bundle: Bundle, key: Ed25519PrivateKey, configuration: RoundConfiguration | None
) -> tuple[bytes, StatisticsReport | None]:
    """The signed change for the next message, or b"", and what stays here and why; None where none are collected.

    It stays as it is until an answer tells what became of it, so that a message may be written again.
    """
    if configuration is None or configuration.statistics.mode == "off" or not sums_id(bundle.manifest):
        return b"", None
    if configuration.statistics.mode == "secure":
        return b"", StatisticsReport(held={"": NOT_BY_HAND})
    reason, status = statistics.why_not(store, configuration), BY_HAND.read(store)
    if status is None:
        return b"", StatisticsReport(why_not=reason, held={} if reason else {"": NOT_TOLD})
    pending, held = PENDING.read(store), dict[str, str]()
    if reason or pending is None or pending.sums_id != sums_id(bundle.manifest):
        pending, held = statistics.prepare_change(store, bundle, key, configuration, status, allowed=not reason)
    change = PENDING_MESSAGE.read(store) or b"" if pending else b""
    return change, statistics.note_how_it_stands(store, reason, held, status, sent=bool(change))


def take_answer(
    store: Store, bundle: Bundle, configuration: RoundConfiguration, header: AnswerHeader, release: bytes, root: str
) -> StatisticsReport | None:
    """Notes what became of the change, and takes the release in; None where no statistics are collected.

    configuration: of the answer. release: as it came, or b"". root: fingerprint of the trusted root key.
    """
    status, mode = header.statistics, configuration.statistics.mode
    if mode == "off" or not sums_id(bundle.manifest):
        statistics.forget_sent(store)
        return None
    if status is None:
        return None
    waited = PENDING.exists(store)
    statistics.settled(store, status, sums_id(bundle.manifest))  # the release may hold it already
    arrived = waited and not PENDING.exists(store)
    if release:
        statistics.take_release(store, bundle, release, status, root)
    if mode == "secure":
        if not TEXT.exists(store):
            statistics.put_text(store, StatisticsText(held={"": NOT_BY_HAND}, waits=status.waits))
        return StatisticsReport(False, statistics.release_mark(store) or None, "", {"": NOT_BY_HAND}, status.waits)
    held = {"": f"refused: {header.statistics_refused}"} if header.statistics_refused else {}
    with store.step("statistics by hand"):
        BY_HAND.write(store, status)
        if held:
            PENDING.write(store, None)
            PENDING_MESSAGE.write(store, None)
    reason = statistics.why_not(store, configuration)
    return statistics.note_how_it_stands(store, reason, held, status, sent=arrived)
