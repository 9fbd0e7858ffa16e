"""When each device was last here, to the day, and what it told of how the newest version does there; imports the store.

A day, not a moment: more would tell when people work. Days wait in memory for the next thing that is written anyway;
what a kill loses of them comes again with the device.
"""

from __future__ import annotations

import threading

import msgspec

from homeroom.contract.evaluation_report import EvaluationReport
from homeroom.system.clock import now
from homeroom.system.sqlite import Database

TABLES = (
    "CREATE TABLE IF NOT EXISTS contacts (device TEXT PRIMARY KEY, day TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS reports (device TEXT PRIMARY KEY, day TEXT NOT NULL, body BLOB NOT NULL)",
)


class Contacts:
    """Of one server. `note` from any thread; `write` inside a step of the writer's."""

    def __init__(self, database: Database) -> None:
        self._days: dict[str, str] = dict[str, str]()
        self._waiting: dict[str, str] = {}
        self._lock = threading.Lock()
        for statement in TABLES:
            database.write(statement)

    def note(self, device: str) -> None:
        """A device with this key was here today."""
        today = now().date().isoformat()
        if self._days.get(device) != today:
            with self._lock:
                self._days[device] = self._waiting[device] = today

    def write(self, database: Database) -> None:
        if self._waiting:
            with self._lock:
                waiting, self._waiting = self._waiting, {}
            database.write_many("INSERT OR REPLACE INTO contacts VALUES (?, ?)", list(waiting.items()))

    def days(self, database: Database) -> dict[str, str]:
        """By key, the day (ISO 8601, UTC) when a device was last here."""
        with self._lock:
            return dict(database.rows("SELECT device, day FROM contacts")) | self._days


def keep_report(database: Database, device: str, report: EvaluationReport) -> None:
    """In place of the one before."""
    body, today = msgspec.json.encode(report), now().date().isoformat()
    database.write("INSERT OR REPLACE INTO reports VALUES (?, ?, ?)", (device, today, body))


def reports(database: Database) -> dict[str, tuple[str, EvaluationReport]]:
    """By key: the day, and what was told."""
    rows = database.rows("SELECT device, day, body FROM reports")
    return {device: (day, msgspec.json.decode(body, type=EvaluationReport)) for device, day, body in rows}
