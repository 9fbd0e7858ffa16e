"""secure.db: the one secure round that is under way, its messages, and how earlier rounds ended.

It is emptied with each round, and freed pages are zeroed (`secure_delete`): a masked vector and the shares that open
masks stay no longer than the round.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from homeroom.contract.roster import Roster
from homeroom.contract.secagg import Notice, Phase, SecureCohort, pack
from homeroom.system.sqlite import Database

ROUND_TABLES = """
CREATE TABLE IF NOT EXISTS live (
    id INTEGER PRIMARY KEY CHECK (id = 1), notice BLOB NOT NULL, roster BLOB NOT NULL, phase TEXT NOT NULL,
    since REAL NOT NULL, cohort BLOB, sharers BLOB, survivors BLOB);
CREATE TABLE IF NOT EXISTS messages (
    phase TEXT NOT NULL, device TEXT NOT NULL, body BLOB NOT NULL, PRIMARY KEY (phase, device)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS outcomes (round_id TEXT PRIMARY KEY, outcome TEXT NOT NULL);
"""


SUMMED = "summed"  # the outcome of a round whose sum was merged; others say why there is none


class ActiveRound(msgspec.Struct, frozen=True, kw_only=True):
    """The round under way.

    since: when its phase began, seconds since 1970. sharers, survivors: indexes in the cohort.
    """

    notice: Notice
    roster: Roster
    phase: Phase
    since: float
    cohort: SecureCohort | None = None
    sharers: tuple[int, ...] = ()
    survivors: tuple[int, ...] = ()


class RoundStore:
    """Owns secure.db; every write is durable when it returns."""

    def __init__(self, path: Path) -> None:
        self.database = Database(path)
        for statement in filter(str.strip, ROUND_TABLES.split(";")):
            self.database.write(statement)

    def close(self) -> None:
        """Close the database."""
        self.database.close()

    def save(self, live: ActiveRound) -> None:
        """Write the round under way."""
        row = (
            msgspec.json.encode(live.notice),
            msgspec.json.encode(live.roster),
            live.phase,
            live.since,
            pack(live.cohort) if live.cohort else None,
            msgspec.msgpack.encode(live.sharers),
            msgspec.msgpack.encode(live.survivors),
        )
        self.database.write("INSERT OR REPLACE INTO live VALUES (1, ?, ?, ?, ?, ?, ?, ?)", row)

    def live(self) -> ActiveRound | None:
        """The round under way, or None."""
        row = self.database.one("SELECT notice, roster, phase, since, cohort, sharers, survivors FROM live")
        if row is None:
            return None
        notice, roster, phase, since, cohort, *slots = row
        sharers, survivors = (msgspec.msgpack.decode(body, type=tuple[int, ...]) for body in slots)
        return ActiveRound(
            notice=msgspec.json.decode(notice, type=Notice),
            roster=msgspec.json.decode(roster, type=Roster),
            phase=phase,
            since=since,
            cohort=msgspec.msgpack.decode(cohort, type=SecureCohort) if cohort else None,
            sharers=sharers,
            survivors=survivors,
        )

    def body(self, phase: str, device: str) -> bytes | None:
        """A device's message of a phase, or None."""
        row = self.database.one("SELECT body FROM messages WHERE phase = ? AND device = ?", (phase, device))
        return None if row is None else row[0]

    def bodies(self, phase: str) -> dict[str, bytes]:
        """A phase's messages by device."""
        return dict(self.database.rows("SELECT device, body FROM messages WHERE phase = ?", (phase,)))

    def senders(self, phase: str) -> list[str]:
        """The devices whose message of a phase has come."""
        return [row[0] for row in self.database.rows("SELECT device FROM messages WHERE phase = ?", (phase,))]

    def put(self, phase: str, device: str, body: bytes) -> None:
        """Keep a device's message of a phase, in place of an earlier one."""
        self.database.write("INSERT OR REPLACE INTO messages VALUES (?, ?, ?)", (phase, device, body))

    def forget(self, phase: str, device: str) -> None:
        """Delete a device's message of a phase."""
        self.database.write("DELETE FROM messages WHERE phase = ? AND device = ?", (phase, device))

    def end(self, round_id: str, outcome: str) -> None:
        """Forget the round and every message of it."""
        with self.database.transaction():
            self.database.write("DELETE FROM messages")
            self.database.write("DELETE FROM live")
            self.database.write("INSERT OR IGNORE INTO outcomes VALUES (?, ?)", (round_id, outcome))

    def last_failure(self) -> str:
        """Why the newest round that ended has failed; empty where it did not."""
        row = self.database.one("SELECT outcome FROM outcomes ORDER BY rowid DESC LIMIT 1")
        return row[0].removeprefix("failed: ") if row and row[0] != SUMMED else ""

    def failed(self) -> int:
        """How many rounds ended without a sum."""
        return int(self.database.one("SELECT count(*) FROM outcomes WHERE outcome != ?", (SUMMED,))[0])
