"""Dashboard sessions, kept in memory by the digest of a cookie; a restart signs everybody out."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from homeroom_aggregator.admin.configuration import DashboardSection
from homeroom_aggregator.state.login_links import LoginLink
from homeroom_aggregator.state.members import Members

SESSIONS_LIMIT = 200  # the longest idle one makes room


@dataclass
class Session:
    """One sign-in. `form`: a token that this session's forms carry, so that no other site's form is taken for one."""

    link: LoginLink
    form: str
    began_s: float
    seen_s: float


class Sessions:
    """The sessions of one server. times: after which they are over."""

    def __init__(self, times: DashboardSection, clock: Callable[[], float] = time.monotonic) -> None:
        self.life_s, self.idle_s, self._clock = times.session_hours * 3600, times.idle_minutes * 60, clock
        self._open: dict[str, Session] = {}

    def begin(self, link: LoginLink) -> str:
        """Begin a session; its cookie's value."""
        if len(self._open) >= SESSIONS_LIMIT:
            del self._open[min(self._open, key=lambda name: self._open[name].seen_s)]
        token, at_s = secrets.token_urlsafe(32), self._clock()
        self._open[_name(token)] = Session(link, secrets.token_urlsafe(24), at_s, at_s)
        return token

    def find(self, token: str, members: Members) -> Session | None:
        """The session, unless it is over, or whoever it is for was revoked or has another role now."""
        session, at_s = self._open.get(_name(token)), self._clock()
        if session is None:
            return None
        over = at_s - session.began_s > self.life_s or at_s - session.seen_s > self.idle_s
        if over or not _still(session.link, members):
            self.end(token)
            return None
        session.seen_s = at_s
        return session

    def end(self, token: str) -> None:
        """End the session of a cookie's value."""
        self._open.pop(_name(token), None)


def _still(link: LoginLink, members: Members) -> bool:
    if not link.holder:
        return True
    member = members.find(link.holder)
    return member is not None and member.role == link.rank


def _name(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
