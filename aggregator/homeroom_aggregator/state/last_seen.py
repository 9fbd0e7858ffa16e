"""The day each device was last seen, and its newest evaluation report.

A day, not a moment: more would tell when people work. Days wait in memory until something else is written; days that a
kill loses come again with the device.
"""

from __future__ import annotations

import contextlib
import threading

import msgspec

from homeroom.contract.evaluation_report import EvaluationReport
from homeroom.system.clock import now
from homeroom.system.sqlite import Database

LAST_SEEN_TABLES = (
    "CREATE TABLE IF NOT EXISTS contacts (device TEXT PRIMARY KEY, day TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS reports (device TEXT PRIMARY KEY, day TEXT NOT NULL, body BLOB NOT NULL)",
)


class LastSeen:
    """Days of one server. `note` may be called from any thread, `write` from the write thread, inside a transaction."""

    def __init__(self, database: Database) -> None:
        self._days: dict[str, str] = dict[str, str]()
        self._waiting: dict[str, str] = {}
        self._lock = threading.Lock()
        for statement in LAST_SEEN_TABLES:
            database.write(statement)

    def note(self, device: str) -> None:
        """Notes that a device with this key was here today."""
        today = now().date().isoformat()
        if self._days.get(device) != today:
            with self._lock:
                self._days[device] = self._waiting[device] = today

    def write(self, database: Database) -> bool:
        """Writes the days that wait; whether there were any."""
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        if waiting:
            database.write_many("INSERT OR REPLACE INTO contacts VALUES (?, ?)", list(waiting.items()))
        return bool(waiting)

    def days(self, database: Database) -> dict[str, str]:
        """By key, the day (ISO 8601, UTC) when a device was last here."""
        with self._lock:
            return dict(database.rows("SELECT device, day FROM contacts")) | self._days


def read_days(database: Database) -> dict[str, str]:
    """By key, the day when a device was last here, as it was written; empty where no server has run yet."""
    there = database.one("SELECT 1 FROM sqlite_schema WHERE name = 'contacts'")
    return dict(database.rows("SELECT device, day FROM contacts")) if there else {}


def put_report(database: Database, device: str, report: EvaluationReport) -> None:
    """Stores a device's report in place of the one before."""
    body, today = msgspec.json.encode(report), now().date().isoformat()
    database.write("INSERT OR REPLACE INTO reports VALUES (?, ?, ?)", (device, today, body))


def reports(database: Database) -> dict[str, tuple[str, EvaluationReport]]:
    """By key: the day and the report; one that cannot be read is left out."""
    found: dict[str, tuple[str, EvaluationReport]] = {}
    for device, day, body in database.rows("SELECT device, day, body FROM reports"):
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            found[device] = day, msgspec.json.decode(body, type=EvaluationReport)
    return found
