"""Which day it is for retention dates, on devices whose clock may be years off; imports nothing.

A wrong clock must neither destroy samples early nor keep them for ever: a day before one that was seen does not
count, and a jump of more than half a year ahead counts only after it has stood for a week.
"""

from __future__ import annotations

import datetime

import msgspec

JUMP = datetime.timedelta(days=180)
DOUBT = datetime.timedelta(days=7)


class Clock(msgspec.Struct, frozen=True):
    """`newest`: the latest day that was believed; `doubted`: since when the clock has shown a day far beyond it."""

    newest: datetime.date
    doubted: datetime.date | None = None

    @property
    def warning(self) -> str | None:
        if self.doubted is None:
            return None
        return f"the clock jumped from {self.newest} to {self.doubted}; retention dates wait until it is confirmed"


def look(clock: Clock | None, today: datetime.date) -> Clock:
    """What to believe after the system says it is `today`; `newest` is then the day that retention goes by."""
    if clock is None or clock.newest < today <= clock.newest + JUMP:
        return Clock(today)
    if today <= clock.newest:
        return Clock(clock.newest)
    if clock.doubted is not None and today - clock.doubted >= DOUBT:
        return Clock(today)
    return Clock(clock.newest, min(clock.doubted or today, today))
