"""The system's clock, in one place, so that tests can set it."""

from __future__ import annotations

import datetime


def now() -> datetime.datetime:
    """The current time, UTC, with its time zone set."""
    return datetime.datetime.now(datetime.UTC)
