"""What the receipts of the inbox's last entries say, sealed in the store: the entries themselves are deleted."""

from __future__ import annotations

from pathlib import Path

import msgspec

from homeroom.device.receipt import AddReceipt
from homeroom.device.receipt_lines import receipt_lines
from homeroom.store import Store
from homeroom.store.device_state import TAKEN_IN_RECORD, json_record
from homeroom.system import clock

MOST_KEPT = 20  # entries


class TakenIn(msgspec.Struct, frozen=True):
    """An entry that was taken in. at: when, UTC, ISO 8601. lines: of its receipt."""

    name: str
    at: str
    lines: list[str]


TAKEN_IN = json_record(TAKEN_IN_RECORD, list[TakenIn], made_again=True)


def note_receipt(store: Store, entry: Path, receipt: AddReceipt) -> None:
    """Keeps what a receipt says, the newest first."""
    lines = [line.strip() for line in receipt_lines(receipt, store.directory)]
    known = TAKEN_IN.read(store) or []
    TAKEN_IN.write(store, [TakenIn(entry.name, clock.timestamp(), lines), *known][:MOST_KEPT])
