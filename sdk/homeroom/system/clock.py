"""The system's clock, in one place, so that tests can set it."""

from __future__ import annotations

import datetime


def now() -> datetime.datetime:
    """The current time, UTC, with its time zone set."""
    return datetime.datetime.now(datetime.UTC)


def local_now() -> datetime.datetime:
    """The current time of this machine's own time zone, which is not set: for hours and days that people agree on."""
    return datetime.datetime.now()


def timestamp() -> str:
    """The current time, UTC, ISO 8601, to the second."""
    return now().isoformat(timespec="seconds")
