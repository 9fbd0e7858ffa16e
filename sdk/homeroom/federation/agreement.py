"""The round terms a device joined under. A round that weakens them is refused."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import msgspec

from homeroom.contract.privacy import Privacy
from homeroom.contract.round import RoundConfiguration
from homeroom.errors import TrustError
from homeroom.store import Store
from homeroom.store.device_state import StateRecord, bytes_record, json_record

ROUND = json_record("identity.round", RoundConfiguration)
PROMISE = StateRecord[Privacy](
    "identity.promise", msgspec.json.encode, partial(msgspec.json.decode, type=Privacy | None)
)
OFFLINE_MESSAGES = json_record("identity.messages", list[str])  # ids, newest last: their answers may be imported
SECURE_ROUNDS = bytes_record("identity.secure")  # there since this device agreed to secure rounds


@dataclass(frozen=True)
class Agreement:
    """The terms that this device last agreed to.

    configuration: of the round; None before it joins, and after a change of bundle.
    privacy: the promise, which a change of bundle keeps.
    secure: whether it joined for secure rounds.
    """

    configuration: RoundConfiguration | None = None
    privacy: Privacy | None = None
    secure: bool = False


def read_agreement(store: Store) -> Agreement:
    """The terms that this device last agreed to."""
    return Agreement(ROUND.read(store), PROMISE.read(store), SECURE_ROUNDS.exists(store))


def store_round(store: Store, configuration: RoundConfiguration) -> None:
    """Stores a configuration that the user agreed to by joining; the audit log tells a change of its promise."""
    before, promise = PROMISE.read(store), configuration.privacy
    ROUND.write(store, configuration)
    SECURE_ROUNDS.write(store, b"1" if configuration.secure else None)
    if before != promise:
        with store.step("private rounds on" if promise else "private rounds off"):
            PROMISE.write(store, promise)


def renew_round(store: Store, configuration: RoundConfiguration) -> None:
    """Stores the configuration that the aggregator gives now; raises TrustError if it promises less than at joining."""
    agreement = read_agreement(store)
    before = agreement.privacy
    weaker = ""
    if agreement.secure and not configuration.secure:
        weaker = "the aggregator asks for plain updates now, but this device joined for secure rounds"
    elif before and before != configuration.privacy:
        now = f"epsilon {configuration.privacy.epsilon:g}" if configuration.privacy else "no privacy"
        weaker = f"the aggregator promises {now} now, and epsilon {before.epsilon:g} when this device joined"
    if weaker:
        remedy = "nothing was sent; join with a new invitation if your school agrees"
        raise TrustError(weaker, where="round", remedy=remedy)
    store_round(store, configuration)
