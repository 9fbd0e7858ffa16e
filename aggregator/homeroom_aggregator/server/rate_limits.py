"""Rate limits and shares: requests and a day's updates, withdrawals and audit entries of a device and of a school; the
bytes of all bodies held at once.

Counted in memory by the server's monotonic clock: a restart begins anew.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from homeroom_aggregator.admin.configuration import DeviceLimits

DAY_S = 86_400.0
SCHOOL_DEVICES = 20  # a school's devices together have a day's shares of so many devices
SHARES = {"member": 4, "school": 2}  # one device holds a quarter of the bodies' memory at most, one school a half
Daily = Literal["withdrawals", "audit_entries"]


@dataclass(frozen=True)
class MemoryHolder:
    """Who holds memory: a device and its school; both empty for a stranger, whose bodies are short."""

    member: str = ""
    school: str = ""


@dataclass
class MemoryBudget:
    """Memory for the bodies of all requests that are read or wait to be done; used by the event loop alone."""

    limit_bytes: int
    used_bytes: int = 0
    _held: Counter[tuple[str, str]] = field(default_factory=Counter)

    def take(self, size_bytes: int, holder: MemoryHolder, held_bytes: int = 0, *, common: bool = False) -> bool:
        """Reserve bytes until they are given back; False if they do not fit, or pass the holder's share.

        held_bytes: of the same body, reserved before; a single body may fill more than a share.
        common: the bytes are in memory once for all who get them: only the share counts.
        """
        others = (used - held_bytes for used in self._uses(holder))
        fits = (common or self.used_bytes + size_bytes <= self.limit_bytes) and all(
            not used or used + held_bytes + size_bytes <= self.limit_bytes // share
            for used, share in zip(others, SHARES.values(), strict=True)
        )
        self._count(size_bytes if fits else 0, holder)
        return fits

    def give_back(self, size_bytes: int, holder: MemoryHolder) -> None:
        """Free bytes that were taken."""
        self._count(-size_bytes, holder)

    def _uses(self, holder: MemoryHolder) -> list[int]:
        return [self._held[kind, name] if (name := getattr(holder, kind)) else 0 for kind in SHARES]

    def _count(self, size_bytes: int, holder: MemoryHolder) -> None:
        self.used_bytes += size_bytes
        for kind in SHARES:
            if size_bytes and (name := getattr(holder, kind)):
                self._held[kind, name] += size_bytes
                if not self._held[kind, name]:
                    del self._held[kind, name]


@dataclass
class _Use:
    tokens: float
    at_s: float
    day_s: float
    today: Counter[str] = field(default_factory=Counter)


class RateMeter:
    """Requests, updates, withdrawals and audit entries of each enrolled device, the latter two of each school too."""

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
        use = self._today(device)
        limit, limit_bytes = self.limits.updates_a_day, self.limits.mb_a_day * 1_000_000
        full = limit and use.today["updates"] >= limit
        return self._rest_of_day(use) if full or (limit_bytes and use.today["bytes"] + size_bytes > limit_bytes) else 0

    def accepted(self, device: str, size_bytes: int) -> None:
        """Count an update of this size."""
        self._use(device).today += Counter(updates=1, bytes=size_bytes)

    def share(self, kind: Daily, device: str, school: str) -> float:
        """Count one of the day's shares of a device and its school; 0, or the seconds until the next day begins."""
        limit = int(getattr(self.limits, f"{kind}_a_day"))
        holders = [(self._today(device), limit)]
        if school:
            holders.append((self._today(f"school {school}"), SCHOOL_DEVICES * limit))
        if limit and (full := [use for use, most in holders if use.today[kind] >= most]):
            return max(map(self._rest_of_day, full))
        for use, _ in holders:
            use.today[kind] += 1
        return 0.0

    def _rest_of_day(self, use: _Use) -> float:
        return DAY_S - (self._clock() - use.day_s)

    def _today(self, name: str) -> _Use:
        use = self._use(name)
        if self._clock() - use.day_s >= DAY_S:
            use.day_s, use.today = self._clock(), Counter()
        return use

    def _use(self, name: str) -> _Use:
        """Only enrolled devices are counted, so that strangers cost no memory."""
        now_s = self._clock()
        return self._uses.setdefault(name, _Use(float(self.limits.burst), now_s, now_s))
