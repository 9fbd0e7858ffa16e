"""The round terms a device joined under. A round that weakens them is refused."""

from __future__ import annotations

import msgspec

from homeroom.contract.privacy import Privacy
from homeroom.contract.round import RoundConfiguration
from homeroom.errors import TrustError
from homeroom.store import Store

ROUND_SECRET, PRIVACY_SECRET = "identity.round", "identity.promise"
SECURE_SECRET = "identity.secure"  # there since this device agreed to secure rounds


def agreed_round(store: Store) -> RoundConfiguration | None:
    """The round configuration that this device last agreed to."""
    body = store.get_secret(ROUND_SECRET)
    return None if body is None else msgspec.json.decode(body, type=RoundConfiguration)


def agreed_privacy(store: Store) -> Privacy | None:
    """The privacy promise that this device last agreed to; a change of bundle keeps it."""
    return msgspec.json.decode(store.get_secret(PRIVACY_SECRET) or b"null", type=Privacy | None)


def store_round(store: Store, configuration: RoundConfiguration) -> None:
    """Stores a configuration that the user agreed to by joining; the audit log tells a change of its promise."""
    before, promise = agreed_privacy(store), configuration.privacy
    store.put_secret(ROUND_SECRET, msgspec.json.encode(configuration))
    store.put_secret(SECURE_SECRET, b"1" if configuration.secure else None)
    if before != promise:
        with store.step("private rounds on" if promise else "private rounds off"):
            store.put_secret(PRIVACY_SECRET, msgspec.json.encode(promise))


def renew_round(store: Store, configuration: RoundConfiguration) -> None:
    """Stores the configuration that the aggregator gives now; raises TrustError if it promises less than at joining."""
    before = agreed_privacy(store)
    if store.get_secret(SECURE_SECRET) and not configuration.secure:
        raise TrustError(
            "the aggregator asks for plain updates now, but this device joined for secure rounds",
            where="round",
            remedy="nothing was sent; join with a new invitation if your school agrees",
        )
    if before and before != configuration.privacy:
        now = f"epsilon {configuration.privacy.epsilon:g}" if configuration.privacy else "no privacy"
        raise TrustError(
            f"the aggregator promises {now} now, and epsilon {before.epsilon:g} when this device joined",
            where="round",
            remedy="nothing was sent; join with a new invitation if your school agrees",
        )
    store_round(store, configuration)
