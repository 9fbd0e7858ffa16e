"""Unlearning, as a device asks for it: the updates that it sent, what becomes of each, and that in sentences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from homeroom.store import Store
from homeroom.system.printable import counted

if TYPE_CHECKING:
    from homeroom.federation.network.client import Client, UnlearnReceipt


@dataclass(frozen=True)
class UnlearningOutcome:
    """What becomes of the updates that were asked to be unlearned, by id.

    unlearned: the next version leaves them out, or one that comes by the day `by` (ISO 8601; "" for the next).
    bounded: a private release holds them, which bounds what they tell. kept: they stay in versions that are so old
    that the aggregator does not keep what these were made of.
    """

    unlearned: tuple[str, ...]
    bounded: tuple[str, ...]
    kept: tuple[str, ...]
    by: str = ""


def ask_unlearning(store: Store, client: Client) -> UnlearningOutcome:
    """Sends the unlearning requests that wait."""
    receipts: dict[str, UnlearnReceipt] = {}
    for update_id in store.outbox.unlearning():
        receipts[update_id] = client.unlearn(update_id)
        store.outbox.mark_unlearned(update_id)
    ids = {
        stays: tuple(update_id for update_id, receipt in receipts.items() if receipt.status == stays)
        for stays in ("bounded", "kept")
    }
    unlearned = tuple(update_id for update_id in receipts if update_id not in ids["bounded"] + ids["kept"])
    last = max((receipt.by for receipt in receipts.values()), default="")  # days in this form sort
    return UnlearningOutcome(unlearned, ids["bounded"], ids["kept"], last)


def unlearning_lines(outcome: UnlearningOutcome) -> list[str]:
    """What becomes of what was asked, a line each."""
    lines = []
    if number := len(outcome.unlearned):
        when = f"; by {outcome.by} a version without {'it' if number == 1 else 'them'} comes" if outcome.by else ""
        lines.append(f"asked to unlearn {counted(number, 'update')}{when}")
    if number := len(outcome.bounded):
        what = f"{counted(number, 'update')} in private releases"
        lines.append(f"asked to unlearn {what}: what these tell is bounded, not undone")
    if number := len(outcome.kept):
        stays = f"{'it stays' if number == 1 else 'they stay'} in the shared model"
        why = "the aggregator no longer keeps what those versions were made of"
        lines.append(f"asked to unlearn {counted(number, 'update')} of old versions: {stays}, since {why}")
    return lines
