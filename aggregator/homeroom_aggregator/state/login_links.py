"""One-time login links to the dashboard, made by whoever has the folder or a member's key.

Redeeming a code is one durable transaction: it opens one session, with or without a restart in between.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Literal

from homeroom.system.clock import now
from homeroom.system.sqlite import Database
from homeroom_aggregator.state import audit
from homeroom_aggregator.state.one_time_codes import LOGIN_LINK, code_digest, new_code

Rank = Literal["district", "auditor"]  # who sees and goes back to older versions; who only sees
LINK_LIFE_MINUTES = 10.0
MOST_WAITING_LINKS = 1000  # the oldest make room
LINKS_TABLE = """CREATE TABLE IF NOT EXISTS links (
    code TEXT PRIMARY KEY, rank TEXT NOT NULL, holder TEXT NOT NULL, name TEXT NOT NULL, ends TEXT NOT NULL)"""


@dataclass(frozen=True)
class LoginLink:
    """A link's user. `holder`: the member's key, or "" for whoever has the folder; `name`: in the audit log."""

    rank: Rank
    holder: str = ""
    name: str = "operator"


def make_link(database: Database, secret: bytes, link: LoginLink, minutes: float = LINK_LIFE_MINUTES) -> str:
    """Stores a link and returns its code, valid for so many minutes by the server's clock."""
    code = new_code(secret, LOGIN_LINK)
    ends = (now() + datetime.timedelta(minutes=minutes)).isoformat(timespec="seconds")
    with database.transaction():
        database.write(LINKS_TABLE)
        database.write("DELETE FROM links WHERE ends < ?", (now().isoformat(timespec="seconds"),))
        sql = "DELETE FROM links WHERE code NOT IN (SELECT code FROM links ORDER BY ends DESC LIMIT ?)"
        database.write(sql, (MOST_WAITING_LINKS - 1,))
        row = (code_digest(code), link.rank, link.holder, link.name, ends)
        database.write("INSERT INTO links VALUES (?, ?, ?, ?, ?)", row)
        audit.record(database, "link made", rank=link.rank, by=link.name)
    return code


def redeem_link(database: Database, code: str) -> LoginLink | None:
    """Redeems a genuine code once, before its end; None afterwards. To be called in the write thread."""
    with database.transaction():
        database.write(LINKS_TABLE)
        row = database.one("SELECT rank, holder, name, ends FROM links WHERE code = ?", (code_digest(code),))
        database.write("DELETE FROM links WHERE code = ?", (code_digest(code),))
        if row is None or datetime.datetime.fromisoformat(row[3]) < now():
            return None
        link = LoginLink(*row[:3])
        audit.record(database, "dashboard opened", rank=link.rank, by=link.name)
    return link
