"""Synchronous rounds: the devices selected for the present one, and its deadline.

A round asks the first devices that come, some more than it needs, since some will not finish (over-selection, Bonawitz
et al. 2019, section 4.2). It ends when enough updates came; or at its deadline, if a quorum came; else it asks anew,
and whoever has sent stays counted. Kept in memory: after a restart a device comes in again by asking. The clock decides
only *when* a release is written into the log, so replay needs none; and it is looked at when somebody asks, which is
the only time when anybody could tell the difference.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from math import ceil
from typing import Literal

from homeroom.contract.round import CohortRules
from homeroom.contract.secagg import exact_share
from homeroom.errors import UpdateError


class SynchronousRound:
    """The synchronous round under way. One thread at a time is inside."""

    def __init__(self, rules: CohortRules, size: int, clock: Callable[[], float] = time.monotonic) -> None:
        """size: updates that make a release."""
        self.rules, self.places, self._clock = rules, ceil(exact_share(rules.over, size)), clock
        self._asked: set[str] = set()
        self._version, self._began_s = -1, 0.0

    def ask(self, member: str, version: int) -> bool:
        """Whether a member may send an update on `version`: it gets a place if one is left, and keeps it."""
        if version != self._version:
            self._asked, self._version, self._began_s = set(), version, self._clock()
        if not self._asked:
            self._began_s = self._clock()
        if member not in self._asked and len(self._asked) < self.places:
            self._asked = {*self._asked, member}
        return member in self._asked

    def check(self, member: str, version: int, fed: Collection[str]) -> None:
        """Raise UpdateError if it was not asked into the round of this version, or has sent already."""
        if member in fed:
            raise UpdateError("this round has an update of this device", code="not_selected", remedy="sync later")
        if version != self._version or member not in self._asked:
            raise UpdateError("this device was not asked into this round", code="not_selected", remedy="sync later")

    def verdict(self, version: int, updates: int) -> Literal["wait", "release", "again"]:
        """What the deadline brings, when so many updates have come."""
        over = version == self._version and self._asked and self._clock() - self._began_s >= self.rules.deadline_s
        if not over:
            return "wait"
        return "release" if updates >= self.rules.quorum else "again"

    def begin_again(self) -> None:
        """Select anew: who was asked and did not come loses the place."""
        self._asked = set()
