"""The budget of a training, and the watch that stops it in time.

The watch is asked before every batch of features and every step; a spent budget ends the work there, and what was done
is kept. Memory is the resident memory of this process and its decoder; battery and temperature count where the system
tells them.
"""

from __future__ import annotations

import datetime
import math
import re
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from homeroom.data.decoder import client
from homeroom.errors import Code, InputError, TrainError
from homeroom.runtime.graphs import check_threads
from homeroom.system import clock, hardware
from homeroom.train.settings import is_number

CHECK_INTERVAL_S = 5.0  # between checks of disk, battery, temperature and the time of day
CGROUP_SHARE = 0.9  # of a control group's memory: at its limit the system kills the process
LIMITS = {"minutes": math.inf, "free_megabytes": math.inf, "battery": 1.0, "celsius": math.inf}  # the most of each
WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
WEEKLY_HOURS = re.compile(r"^(?:([a-z]{3})(?:-([a-z]{3}))? )?(\d\d):(\d\d)-(\d\d):(\d\d)$")


@dataclass(frozen=True)
class WeeklyHours:
    """Hours of local time on some weekdays (Monday is 0), over midnight where `until` is not after `since`."""

    days: frozenset[int]
    since: datetime.time
    until: datetime.time

    def holds(self, now: datetime.datetime) -> bool:
        """Whether a local time lies in these hours."""
        hour, day = now.time(), now.weekday()
        if self.since < self.until:
            return day in self.days and self.since <= hour < self.until
        return (day in self.days and hour >= self.since) or ((day - 1) % 7 in self.days and hour < self.until)


def read_weekly_hours(text: str) -> WeeklyHours:
    """Reads `mon-fri 08:00-15:30`, `sat 09:00-12:00` or, every day, `22:00-06:00`; raises InputError otherwise."""
    match = WEEKLY_HOURS.match(text.strip().lower())
    try:
        if match is None:
            raise ValueError(text)
        first, last, *times = match.groups()
        days = frozenset(range(7))
        if first:
            begin, end = WEEKDAYS.index(first), WEEKDAYS.index(last or first)
            days = frozenset((begin + i) % 7 for i in range((end - begin) % 7 + 1))
        hours = [int(part) for part in times]
        return WeeklyHours(days, datetime.time(hours[0], hours[1]), datetime.time(hours[2], hours[3]))
    except ValueError:
        raise InputError(f"{text!r} is not a span of hours", remedy="write for example mon-fri 08:00-15:30") from None


@dataclass(frozen=True)
class Budget:
    """Limits of a training; None is no limit.

    `minutes`: of time. `megabytes`: 10^6 bytes of memory, of the whole process. `free_megabytes`: of disk that stay
    free. `battery`: share of charge below which an unplugged machine does not train. `celsius`: the hottest its
    processor may get. `quiet`: hours in which it does not train.
    """

    minutes: float = 10.0
    megabytes: float | None = None
    threads: int | None = None
    free_megabytes: float = 100.0
    battery: float = 0.3
    celsius: float = 85.0
    quiet: tuple[WeeklyHours, ...] = ()

    def __post_init__(self) -> None:
        """Raises InputError where a limit is not valid."""
        check_threads(self.threads)
        for name, most in (*LIMITS.items(), *([("megabytes", math.inf)] if self.megabytes is not None else ())):
            value = getattr(self, name)
            if not is_number(value) or not 0 <= value <= most or (name == "megabytes" and not value):
                asked = "a number above 0, or None" if name == "megabytes" else f"a number from 0 to {most:g}"
                raise InputError(f"{name} is {value!r}, and has to be {asked}", where="budget")
        if not isinstance(self.quiet, tuple | list) or not all(isinstance(span, WeeklyHours) for span in self.quiet):
            what = f"quiet is {self.quiet!r}, and has to be a tuple of WeeklyHours"
            raise InputError(what, where="budget", remedy='quiet=(read_weekly_hours("mon-fri 08:00-15:30"),)')

    @property
    def limit_bytes(self) -> int | None:
        """The lower of `megabytes` and the control group's limit, in bytes; None if there is neither."""
        group = hardware.cgroup_limit()
        limits = [self.megabytes * 1e6 if self.megabytes else None, group * CGROUP_SHARE if group else None]
        return min((int(limit) for limit in limits if limit is not None), default=None)

    def begin(self, directory: Path, cancel: threading.Event | None = None) -> BudgetWatch:
        """Starts the clock; raises TrainError where a limit other than time and memory is spent already.

        cancel: ends the work as a spent limit does, once another thread sets it.
        """
        watch = BudgetWatch(self, directory, cancel or threading.Event())
        if spent := watch.look():
            code = Code.LOW_DISK if spent.limit == "disk" else Code.NOT_NOW
            what = f"it does not train now: {spent}"
            raise TrainError(what, code=code, where=str(directory), remedy="run it again later")
        return watch


def checked_budget(budget: Budget) -> Budget:
    """The budget; InputError where it is none."""
    if not isinstance(budget, Budget):
        what = f"budget is of type {type(budget).__name__}, and has to be a Budget"
        raise InputError(what, remedy="such as Budget(minutes=10)")
    return budget


@dataclass(frozen=True)
class SpentLimit:
    """A limit of a budget that is spent, or that it was cancelled; `text` says it to people."""

    limit: Literal["cancelled", "time", "memory", "disk", "battery", "heat", "hours"]
    text: str

    def __str__(self) -> str:
        return self.text


class BudgetWatch:
    """Watches a budget while it is spent. `spent` is the limit that ended the work, None while none did."""

    def __init__(self, budget: Budget, directory: Path, cancel: threading.Event) -> None:
        self.budget, self.directory, self.cancel = budget, directory, cancel
        self.spent: SpentLimit | None = None
        self._ended = False
        self._sampled = 0
        self._exact = hardware.forget_peak()  # whether the peak starts anew here
        self._limit = budget.limit_bytes
        self._end_s = time.monotonic() + 60 * budget.minutes
        self._looked_s = time.monotonic()

    def end(self) -> None:
        """Ends the work as `cancel` does; for another thread, which closes the device."""
        self._ended = True

    def over(self) -> bool:
        """Whether to stop before the next batch."""
        if self.spent is None:
            self.spent = self._check()
        return self.spent is not None

    @property
    def peak_bytes(self) -> int:
        """Peak resident bytes since the watch began; between two checks only where the system tells."""
        own = hardware.peak_resident() if self._exact else hardware.resident()
        self._sampled = max(self._sampled, own + client.resident_bytes())
        return self._sampled

    def decode_room(self) -> int | None:
        """Bytes that decoding one file may take now: half of what is left, since a backbone runs meanwhile."""
        if self._limit is None:
            return None
        return max(0, self._limit - hardware.resident() - client.resident_bytes()) // 2

    def _check(self) -> SpentLimit | None:
        if self._ended or self.cancel.is_set():
            return SpentLimit("cancelled", "it was cancelled")
        now, held = time.monotonic(), self.peak_bytes
        if now >= self._end_s:
            return SpentLimit("time", f"the {self.budget.minutes:g} minutes are over")
        if self._limit is not None and held > self._limit:
            text = f"{held / 1e6:.0f} MB of memory were in use, {self._limit / 1e6:.0f} MB are allowed"
            return SpentLimit("memory", text)
        if now - self._looked_s < CHECK_INTERVAL_S:
            return None
        self._looked_s = now
        return self.look()

    def look(self) -> SpentLimit | None:
        """The limit of disk, battery, temperature or hours that is spent, if one is."""
        budget, power = self.budget, hardware.power()
        free, heat = hardware.disk_free(self.directory), hardware.celsius()
        if free is not None and free < budget.free_megabytes * 1e6:
            return SpentLimit("disk", f"only {free / 1e6:.0f} MB of disk are free")
        if power.share is not None and power.plugged is False and power.share < budget.battery:
            return SpentLimit("battery", f"the battery is at {power.share:.0%} and not plugged in")
        if heat is not None and heat > budget.celsius:
            return SpentLimit("heat", f"the processor is at {heat:.0f} °C")
        now = clock.local_now()
        if any(span.holds(now) for span in budget.quiet):
            return SpentLimit("hours", "these are quiet hours")
        return None
