"""One-time links that open the dashboard: made by whoever has the folder or a member's key; imports audit.

A code proves itself by a MAC, so that a made-up one never reaches the database; it is kept as a digest, and taking it
away is one durable step, so that it opens one session, a restart in between or not.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import hmac
import secrets
from dataclasses import dataclass
from typing import Literal

from homeroom.system.clock import now
from homeroom.system.sqlite import Database
from homeroom_aggregator.state import audit

Rank = Literal["district", "auditor"]  # who sees and goes back to older versions; who only sees
LIFE_MINUTES = 10.0
WAITING = 1000  # links at once; the oldest make room
TABLE = """CREATE TABLE IF NOT EXISTS links (
    code TEXT PRIMARY KEY, rank TEXT NOT NULL, holder TEXT NOT NULL, name TEXT NOT NULL, ends TEXT NOT NULL)"""


@dataclass(frozen=True)
class Link:
    """For whom a link is. `holder`: the member's key, or "" for whoever has the folder; `name`: how the log says it."""

    rank: Rank
    holder: str = ""
    name: str = "operator"


def make(database: Database, secret: bytes, link: Link, minutes: float = LIFE_MINUTES) -> str:
    """A new code for this link, good for so many minutes of the server's clock."""
    random = secrets.token_bytes(18)
    code = base64.urlsafe_b64encode(random + _mac(secret, random)).decode()
    ends = (now() + datetime.timedelta(minutes=minutes)).isoformat(timespec="seconds")
    with database.transaction():
        database.write(TABLE)
        database.write("DELETE FROM links WHERE ends < ?", (now().isoformat(timespec="seconds"),))
        database.write(
            "DELETE FROM links WHERE code NOT IN (SELECT code FROM links ORDER BY ends DESC LIMIT ?)", (WAITING - 1,)
        )
        row = (_digest(code), link.rank, link.holder, link.name, ends)
        database.write("INSERT INTO links VALUES (?, ?, ?, ?, ?)", row)
        audit.record(database, "link made", rank=link.rank, by=link.name)
    return code


def genuine(secret: bytes, code: str) -> bool:
    try:
        raw = base64.urlsafe_b64decode(code.encode("ascii"))
    except (ValueError, UnicodeEncodeError):
        return False
    return len(raw) == 36 and hmac.compare_digest(raw[18:], _mac(secret, raw[:18]))


def take(database: Database, code: str) -> Link | None:
    """Use up a genuine code: whom it is for, once, before its end; None afterwards. In the writer's thread."""
    with database.transaction():
        database.write(TABLE)
        found = database.one("SELECT rank, holder, name, ends FROM links WHERE code = ?", (_digest(code),))
        database.write("DELETE FROM links WHERE code = ?", (_digest(code),))
        if found is None or datetime.datetime.fromisoformat(found[3]) < now():
            return None
        link = Link(*found[:3])
        audit.record(database, "dashboard opened", rank=link.rank, by=link.name)
    return link


def _mac(secret: bytes, random: bytes) -> bytes:
    return hmac.digest(secret, b"homeroom/dashboard\n" + random, "sha256")[:18]


def _digest(code: str) -> str:
    return hashlib.sha256(code.encode()).hexdigest()
