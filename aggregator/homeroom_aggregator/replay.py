"""From the log to sums and theta, bit for bit; imports merge and log.

A withdrawn update is left out as if it had never come: what waits is recomputed at once, and the next release starts
from a theta recomputed without it. That version differs from the last one by more than the withdrawn update, so nobody
can read it off the difference. What other devices learned from a version that held it is not undone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from homeroom.contract.layout import Layout
from homeroom.contract.update import RoundConfiguration, Update, read_update
from homeroom_aggregator.log import Entry
from homeroom_aggregator.merge import SegmentSums

Released = Callable[[int, np.ndarray, dict[str, int]], None]  # version, theta, devices by segment


@dataclass(frozen=True)
class Rules:
    layout: Layout
    configuration: RoundConfiguration
    start: np.ndarray  # float32 [P], the bundle's theta: version 0


@dataclass
class State:
    """Where the rounds stand. `pending`: updates since the last release."""

    theta: np.ndarray
    version: int = 0
    pending: int = 0
    sums: SegmentSums = field(default_factory=SegmentSums)

    def copy(self) -> State:
        return State(self.theta.copy(), self.version, self.pending, self.sums.copy())


def admit(state: State, update: Update, version: int, rules: Rules) -> None:
    """Take an update in that arrived when `version` was the newest."""
    state.sums.add(update, version - update.header.base_version, rules.configuration)
    state.pending += 1


def due(state: State, rules: Rules) -> bool:
    """Whether enough updates came, and some segment was fed by enough devices."""
    return state.pending >= rules.configuration.buffer_size and bool(state.sums.ready(rules.configuration))


def release(state: State, rules: Rules) -> dict[str, int]:
    """Make the next version of what is ready; return by segment how many devices fed it."""
    state.theta, devices = state.sums.release(state.theta, rules.layout, rules.configuration)
    state.version += 1
    state.pending = 0
    return devices


def replay(
    entries: Callable[[], Iterable[Entry]],
    rules: Rules,
    *,
    without: frozenset[str] = frozenset(),
    until: int | None = None,
    released: Released | None = None,
) -> State:
    """The state after all entries, or those before number `until`, as if the updates `without` had never come.

    `released` is told every version on the way.
    """
    state = State(rules.start.copy())
    gone, merged, stale = set(without), set[str](), False
    for entry in entries():
        if until is not None and entry.number >= until:
            break
        if entry.kind == "withdraw":
            stale = stale or entry.update_id in merged
            gone.add(entry.update_id)
        elif entry.kind == "release":
            if stale:
                state, stale = replay(entries, rules, without=frozenset(gone), until=entry.number), False
            devices = release(state, rules)
            if released:
                released(state.version, state.theta, devices)
        elif entry.update_id not in gone:
            admit(state, read_update(entry.body, rules.configuration, rules.layout), entry.version, rules)
            merged.add(entry.update_id)
    return replay(entries, rules, without=frozenset(gone), until=until) if stale else state
