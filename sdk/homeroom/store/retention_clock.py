"""The day that retention dates go by, on devices whose clock may be years off.

A wrong clock must neither destroy samples early nor keep them for ever: a day before one that was seen does not
count, and a jump of more than half a year ahead counts only after it has stood for a week.
"""

from __future__ import annotations

import datetime

import msgspec

LONGEST_BELIEVED_JUMP = datetime.timedelta(days=180)
CONFIRMATION_TIME = datetime.timedelta(days=7)


class RetentionClock(msgspec.Struct, frozen=True):
    """`newest`: the latest day that was believed; `doubted`: since when the clock has shown a day far beyond it."""

    newest: datetime.date
    doubted: datetime.date | None = None

    @property
    def warning(self) -> str | None:
        """A sentence about a clock that has jumped, or None."""
        if self.doubted is None:
            return None
        return f"the clock jumped from {self.newest} to {self.doubted}; retention dates wait until it is confirmed"


def believe(clock: RetentionClock | None, today: datetime.date) -> RetentionClock:
    """The clock to believe after the system says it is `today`; retention goes by its `newest`."""
    if clock is None or clock.newest < today <= clock.newest + LONGEST_BELIEVED_JUMP:
        return RetentionClock(today)
    if today <= clock.newest:
        return RetentionClock(clock.newest)
    if clock.doubted is not None and today - clock.doubted >= CONFIRMATION_TIME:
        return RetentionClock(today)
    return RetentionClock(clock.newest, min(clock.doubted or today, today))
