"""Rate limits: a device's requests and its day's updates; the bytes of all bodies held at once.

Counted in memory by the server's monotonic clock: a restart begins anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from homeroom_aggregator.admin.configuration import DeviceLimits

DAY_S = 86_400.0


@dataclass
class MemoryBudget:
    """Memory for the bodies of all requests that are read or wait to be done; used by the event loop alone."""

    limit_bytes: int
    used_bytes: int = 0

    def take(self, size_bytes: int) -> bool:
        """Reserve bytes until they are given back; False if they do not fit."""
        fits = self.used_bytes + size_bytes <= self.limit_bytes
        self.used_bytes += size_bytes if fits else 0
        return fits

    def give_back(self, size_bytes: int) -> None:
        """Free bytes that were taken."""
        self.used_bytes -= size_bytes


@dataclass
class _Use:
    tokens: float
    at_s: float
    day_s: float
    updates: int = 0
    size_bytes: int = 0


class RateMeter:
    """Requests and updates of each enrolled device."""

    def __init__(self, limits: DeviceLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits, self._clock = limits, clock
        self._uses: dict[str, _Use] = {}

    def request(self, device: str) -> float:
        """Count a request; 0, or the seconds to wait where there were too many."""
        if not self.limits.requests_a_minute:
            return 0.0
        use, now_s = self._use(device), self._clock()
        rate = self.limits.requests_a_minute / 60
        use.tokens = min(float(self.limits.burst), use.tokens + (now_s - use.at_s) * rate)
        use.at_s = now_s
        if use.tokens < 1:
            return (1 - use.tokens) / rate
        use.tokens -= 1
        return 0.0

    def room(self, device: str, size_bytes: int) -> float:
        """0 if the device may send an update of this size today, else the seconds until its next day begins."""
        use, now_s = self._use(device), self._clock()
        if now_s - use.day_s >= DAY_S:
            use.day_s, use.updates, use.size_bytes = now_s, 0, 0
        limit, limit_bytes = self.limits.updates_a_day, self.limits.mb_a_day * 1_000_000
        if (limit and use.updates >= limit) or (limit_bytes and use.size_bytes + size_bytes > limit_bytes):
            return DAY_S - (now_s - use.day_s)
        return 0.0

    def accepted(self, device: str, size_bytes: int) -> None:
        """Count an update of this size."""
        use = self._use(device)
        use.updates += 1
        use.size_bytes += size_bytes

    def _use(self, device: str) -> _Use:
        """Only enrolled devices are counted, so that strangers cost no memory."""
        now_s = self._clock()
        return self._uses.setdefault(device, _Use(float(self.limits.burst), now_s, now_s))
