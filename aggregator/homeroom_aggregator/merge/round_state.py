"""The state of the running rounds: what is admitted, when a release is due, what it holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
import numpy as np

from homeroom.contract.layout import Layout, segment_of
from homeroom.contract.round import RoundConfiguration
from homeroom.contract.update import Update
from homeroom_aggregator.merge import private_release
from homeroom_aggregator.merge.segment_sums import SegmentSums, Undo, owned, school_of
from homeroom_aggregator.merge.server_optimizers import Moments, Server
from homeroom_aggregator.state.secure_sum import SecureSum

Own = dict[str, np.ndarray]  # a school's own segments by name, float32 [size]


@dataclass(frozen=True)
class Rules:
    """start: float32 [P], the bundle's theta, version 0. school: of a member by its name, the same for ever."""

    layout: Layout
    configuration: RoundConfiguration
    start: np.ndarray
    school: Callable[[str], str] = lambda _: ""

    def begin(self) -> State:
        """The state of version 0."""
        return State(self.start.copy(), clip=private_release.first_clip(self.configuration))


@dataclass
class State:
    """Where the rounds stand. `theta`, `moments` and `own` are replaced, `sums` change in place.

    pending: updates since the last release. moments: what the server's optimizer remembers, by segment. clip: the clip
    in force, in units of the grid, where it adapts; else 0. own: by school, those of its own segments that were ever
    released; `theta` holds the bundle's values in their place.
    """

    theta: np.ndarray
    version: int = 0
    pending: int = 0
    sums: SegmentSums = field(default_factory=SegmentSums)
    moments: dict[str, Moments] = field(default_factory=dict)
    clip: int = 0
    own: dict[str, Own] = field(default_factory=dict)

    def copy(self) -> State:
        sums, moments, own = self.sums.copy(), dict(self.moments), dict(self.own)
        return State(self.theta.copy(), self.version, self.pending, sums, moments, self.clip, own)


@dataclass(frozen=True)
class Made:
    """What a release changed: by segment how many devices fed it; the same by school; and what undoes it."""

    devices: dict[str, int]
    schools: dict[str, dict[str, int]]
    undo: Undo


Released = Callable[[State, Made], None]


def admit(state: State, update: Update, version: int, rules: Rules, member: str) -> Undo:
    """Take a member's update in that arrived when `version` was the newest; return what takes it out again."""
    update = private_release.shortened(update, state.clip, rules.configuration)
    if apart := rules.configuration.apart(rules.layout) & update.values.keys():
        school = rules.school(member)
        rings = {owned(r, school if segment_of(r) in apart else ""): v for r, v in update.rings.items()}
        update = msgspec.structs.replace(update, rings=rings)
    undo_sums = state.sums.add(update, version - update.header.base_version, rules.configuration, member)
    state.pending += 1

    def undo() -> None:
        undo_sums()
        state.pending -= 1

    return undo


def admit_sum(state: State, found: SecureSum) -> Undo:
    """Take a cohort's sum in, which counts as an update of each of its devices; return what takes it out again."""
    undo_sums = state.sums.add_sum(found.numerators, found.header.weights, found.header.fed)
    state.pending += len(found.header.updates)

    def undo() -> None:
        undo_sums()
        state.pending -= len(found.header.updates)

    return undo


def due(state: State, rules: Rules) -> bool:
    """Whether enough updates came, and some segment was fed by enough devices."""
    return state.pending >= rules.configuration.buffer_size and bool(state.sums.ready(rules.configuration))


def release(state: State, rules: Rules, body: bytes = b"") -> Made:
    """Make the next version of what is ready. body: of a private release, its sums after noise."""
    theta, version, pending, sums = state.theta, state.version, state.pending, state.sums
    moments, clip, own = state.moments, state.clip, state.own
    server = Server(rules.configuration, dict(moments))
    schools, undone = dict[str, dict[str, int]](), list[Undo]()
    for school in sorted({school_of(name) for name in sums.ready(rules.configuration)} - {""}):
        before = own.get(school, {})
        start = rules.layout.join(before, rules.start)
        after, schools[school], undo_school = sums.release(start, rules.layout, rules.configuration, server, school)
        undone.append(undo_school)
        parts = rules.layout.split(after)
        state.own = {**state.own, school: {**before, **{name: parts[name].copy() for name in schools[school]}}}
    if rules.configuration.central:
        state.theta, devices = private_release.apply(theta, body, rules.layout, rules.configuration, server)
        state.clip = private_release.next_clip(clip, body, rules.configuration)
        state.sums = SegmentSums()
    else:
        state.theta, devices, undo_sums = sums.release(theta, rules.layout, rules.configuration, server)
        undone.append(undo_sums)
    state.version, state.pending, state.moments = version + 1, 0, server.moments

    def undo() -> None:
        for undo_one in undone:
            undo_one()
        state.theta, state.version, state.pending, state.sums = theta, version, pending, sums
        state.moments, state.clip, state.own = moments, clip, own

    return Made(devices, schools, undo)


def go_back(state: State, theta: np.ndarray) -> Undo:
    """Make the next version out of an older one's theta; return what undoes it.

    What waits goes on waiting. The server's optimizer begins anew: its momentum led to where one goes back from.
    """
    before, moments = state.theta, state.moments
    state.theta, state.version, state.moments = theta, state.version + 1, {}

    def undo() -> None:
        state.theta, state.version, state.moments = before, state.version - 1, moments

    return undo
