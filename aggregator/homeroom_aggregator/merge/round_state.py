"""Round state: what waits, when a release is due and what it makes; used by live rounds and by their replay."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
import numpy as np

from homeroom.contract.layout import Layout, segment_of
from homeroom.contract.round import RoundConfiguration, weight
from homeroom.contract.update import Update
from homeroom_aggregator.merge import bounded, private_release
from homeroom_aggregator.merge.bounded import NO_BOUNDS, Bounds
from homeroom_aggregator.merge.multi_krum import check_room, multi_krum_sums
from homeroom_aggregator.merge.segment_sums import SegmentSums, Undo, WaitingUpdate, school_of_key, sum_key
from homeroom_aggregator.merge.server_optimizers import Moments, OptimizerState
from homeroom_aggregator.merge.trimmed import trimmed_sums
from homeroom_aggregator.state.secure_sum import SecureSum

SchoolSegments = dict[str, np.ndarray]  # a school's own segments by name, float32 [size]


@dataclass(frozen=True)
class MergeRules:
    """What a merge needs beside the log.

    start: float32 [P], the bundle's theta, version 0. school: of a member by its name, the same for ever.
    body: of the log's entry with a number, an update that waits.
    """

    layout: Layout
    configuration: RoundConfiguration
    start: np.ndarray
    school: Callable[[str], str] = lambda _: ""
    body: Callable[[int], bytes] = lambda _: b""

    def begin(self) -> RoundState:
        """The state of version 0."""
        return RoundState(self.start.copy(), clip=private_release.first_clip(self.configuration))


@dataclass
class RoundState:
    """The state after an entry of the log. `theta`, `moments` and `own` are replaced, `sums` change in place.

    theta: float32 [P], the newest version's.
    pending: updates since the last release.
    moments: the server optimizer's, by segment.
    clip: the clip in force, in units of the grid, where it adapts; else 0.
    own: by school, those of its own segments that were ever released; `theta` holds the bundle's values in their place.
    bounds: by running sum, the bound of its last release by the bounded rule, unless that was 0.
    """

    theta: np.ndarray
    version: int = 0
    pending: int = 0
    sums: SegmentSums = field(default_factory=SegmentSums)
    moments: dict[str, Moments] = field(default_factory=dict)
    clip: int = 0
    own: dict[str, SchoolSegments] = field(default_factory=dict)
    bounds: dict[str, int] = field(default_factory=dict)

    def copy(self) -> RoundState:
        """The same state, not sharing anything that changes in place."""
        sums, moments, own = self.sums.copy(), dict(self.moments), dict(self.own)
        return RoundState(self.theta.copy(), self.version, self.pending, sums, moments, self.clip, own, self.bounds)


@dataclass(frozen=True)
class ReleaseResult:
    """By segment, how many devices fed a release; the same by school; what undoes it; and its bounds, if it has any."""

    devices: dict[str, int]
    schools: dict[str, dict[str, int]]
    undo: Undo
    bounds: Bounds = NO_BOUNDS


MERGES: dict[str, bounded.Merge] = {"trimmed": trimmed_sums, "multi-krum": multi_krum_sums}
OnRelease = Callable[[RoundState, ReleaseResult], None]


def add_update(
    state: RoundState, update: Update, version: int, rules: MergeRules, member: str, number: int = 0
) -> Undo:
    """Add a member's update that came when `version` was the newest; return what takes it out again.

    number: of the log's entry that holds it. By the bounded rule it waits there for the release.
    """
    update = private_release.reclipped(update, state.clip, rules.configuration)
    if apart := rules.configuration.school_segments(rules.layout) & update.values.keys():
        schools = dict.fromkeys(apart, rules.school(member))
        keys = (sum_key(name, schools.get(segment_of(name), "")) for name in update.tier_slices)
        update = msgspec.structs.replace(update, tier_slices=dict(zip(keys, update.tier_slices.values(), strict=True)))
    staleness = version - update.header.base_version
    if rules.configuration.rule != "mean":
        norms = {key: bounded.norm_of(values) for key, values in update.tier_slices.items()}
        if rules.configuration.rule == "multi-krum":
            check_room(state.sums, norms, member, rules.configuration.k_of, rules.school)
        units, update_id = weight(1, staleness, rules.configuration), update.header.update_id
        waiting = WaitingUpdate(update_id=update_id, member=member, units=units, norms=norms)
        return _count(state, 1, bounded.wait(state.sums, number, waiting))
    undo_sums = state.sums.add(update, staleness, rules.configuration, member)
    return _count(state, 1, undo_sums)


def add_secure_sum(state: RoundState, total: SecureSum) -> Undo:
    """Add a secure round's sum, which counts as an update of each of its devices; return what takes it out again."""
    undo_sums = state.sums.add_sum(total.numerators, total.header.weights, total.header.fed)
    return _count(state, len(total.header.updates), undo_sums)


def _count(state: RoundState, updates: int, undo_sums: Undo) -> Undo:
    state.pending += updates

    def undo() -> None:
        undo_sums()
        state.pending -= updates

    return undo


def ready(state: RoundState, rules: MergeRules) -> list[str]:
    """Keys of the sums that enough devices, or schools, fed for a release."""
    return state.sums.ready(rules.configuration, rules.school)


def release_due(state: RoundState, rules: MergeRules) -> bool:
    """Whether enough updates came, and some segment was fed by enough devices or schools."""
    return state.pending >= rules.configuration.buffer_size and bool(ready(state, rules))


def release(state: RoundState, rules: MergeRules, body: bytes = b"") -> ReleaseResult:
    """Make the next version of what is ready. body: of a private release, its sums after noise.

    Raises `bounded.UnreadableBodyError` with nothing changed.
    """
    before, sums, configuration = dataclasses.replace(state), state.sums, rules.configuration
    merge = MERGES.get(configuration.rule, bounded.bounded_sums)
    fold_rules = bounded.FoldRules(merge, rules.body, rules.layout, configuration.school_share, rules.school)
    keys = ready(state, rules)
    bounds, undo_fold = bounded.fold(sums, keys, fold_rules, state.bounds)
    state.bounds = {key: bound for key, bound in (state.bounds | dict(bounds.by_key)).items() if bound}
    optimizer = OptimizerState(configuration, dict(state.moments))
    schools, undo_sums = dict[str, dict[str, int]](), [undo_fold]
    for school in sorted({school_of_key(key) for key in keys} - {""}):
        segments = state.own.get(school, {})
        start = rules.layout.join(segments, rules.start)
        theta, schools[school], undo_school = sums.release(start, rules.layout, configuration, optimizer, school)
        undo_sums.append(undo_school)
        parts = rules.layout.split(theta)
        state.own = {**state.own, school: {**segments, **{name: parts[name].copy() for name in schools[school]}}}
    if configuration.central:
        state.theta, devices = private_release.apply_release(state.theta, body, rules.layout, configuration, optimizer)
        state.clip = private_release.next_clip(state.clip, body, configuration)
        state.sums = SegmentSums()
    else:
        moved = sums.release(state.theta, rules.layout, configuration, optimizer, school_of=rules.school)
        state.theta, devices, undo_shared = moved
        undo_sums.append(undo_shared)
    state.version, state.pending, state.moments = state.version + 1, 0, optimizer.moments

    def undo() -> None:
        for undo_one in reversed(undo_sums):
            undo_one()
        vars(state).update(vars(before))

    return ReleaseResult(devices, schools, undo, bounds)


def replace_theta(state: RoundState, theta: np.ndarray) -> Undo:
    """Make an older version's theta, float32 [P], the next version; return what undoes it.

    What waits goes on waiting. The server's optimizer begins anew: its momentum led to where one goes back from. So do
    bounds: the way from there may be longer.
    """
    before, moments, bounds = state.theta, state.moments, state.bounds
    state.theta, state.version, state.moments, state.bounds = theta, state.version + 1, {}, {}

    def undo() -> None:
        state.theta, state.version, state.moments, state.bounds = before, state.version - 1, moments, bounds

    return undo
