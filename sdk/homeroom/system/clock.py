"""The clock: UTC now."""

from __future__ import annotations

import datetime


def now() -> datetime.datetime:
    """What the system says, UTC."""
    return datetime.datetime.now(datetime.UTC)
