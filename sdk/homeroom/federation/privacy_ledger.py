"""The privacy budget this device has spent. Refuses an update that would exceed the one it agreed to.

The ledger of its sent updates is sealed in the store and only grows; the device needs no aggregator to know it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from homeroom.contract.layout import Layout
from homeroom.contract.privacy import Privacy, epsilon_spent
from homeroom.contract.round import RoundConfiguration
from homeroom.contract.update_checks import read_update
from homeroom.errors import UpdateError
from homeroom.federation.agreement import read_agreement
from homeroom.store import Store
from homeroom.store.device_state import json_record


class LedgerEntry(msgspec.Struct, frozen=True):
    """An update of this device that went, or may have gone, into a private release."""

    update_id: str
    noise_multiplier: float


LEDGER = json_record("privacy.ledger", list[LedgerEntry])


def charge_update(store: Store, data: bytes, update_id: str, configuration: RoundConfiguration, layout: Layout) -> None:
    """Checks an update as the aggregator will, and enters it in the ledger before its first byte leaves.

    Plain rounds are not charged, and an update that is sent again counts once. Raises UpdateError if the update was not
    clipped for this promise, or if one more release would pass the budget.

    data: the signed update.
    update_id: its id.
    configuration: of the round it is sent to.
    layout: of the bundle in use.
    """
    privacy = configuration.privacy
    if privacy is None:
        return
    read_update(data, configuration, layout)
    ledger = ledger_with(store, update_id, configuration)
    if ledger[-1].update_id == update_id:
        store.outbox.charge(repr(ledger[-1].noise_multiplier), update_id)
    LEDGER.write(store, ledger)


def ledger_with(store: Store, update_id: str, configuration: RoundConfiguration) -> list[LedgerEntry]:
    """The ledger with this update entered; raises UpdateError if that would pass the round's budget."""
    ledger, privacy = read_ledger(store), configuration.privacy
    if privacy is None or any(entry.update_id == update_id for entry in ledger):
        return ledger
    after = [*ledger, LedgerEntry(update_id, _noise_multiplier(privacy, configuration))]
    if epsilon_spent((entry.noise_multiplier for entry in after), privacy.delta) > privacy.epsilon:
        raise UpdateError(
            f"one more private release would pass epsilon {privacy.epsilon:g}",
            code="budget_spent",
            remedy="this device can go on using new versions, and training for itself",
        )
    return after


def read_ledger(store: Store) -> list[LedgerEntry]:
    """The ledger, with the charges noted outside the directory where an older copy of the store was put back."""
    ledger = LEDGER.read(store) or []
    for noise, count in store.outbox.charges().items():
        known = sum(repr(entry.noise_multiplier) == noise for entry in ledger)
        ledger += [LedgerEntry(f"before this copy {number}", float(noise)) for number in range(known, count)]
    return ledger


def privacy_status(store: Store) -> dict[str, Any] | None:
    """The part of `status` about privacy; None if this device never was in a private round."""
    ledger, privacy = read_ledger(store), read_agreement(store).privacy
    if privacy is None:
        return {"updates_sent": len(ledger), "promise": None} if ledger else None
    spent = round(epsilon_spent((entry.noise_multiplier for entry in ledger), privacy.delta), 4)
    return {"updates_sent": len(ledger), "epsilon_spent": spent, "promise": msgspec.to_builtins(privacy)}


def _noise_multiplier(privacy: Privacy, configuration: RoundConfiguration) -> float:
    """The noise multiplier on the integer grid, never below the promised one; that one where the clip adapts."""
    if privacy.adapts:
        return privacy.noise_multiplier
    bits = configuration.scale_bits
    return privacy.noise_grid(bits) / privacy.sensitivity_grid(bits)
