"""Verification: every kept version and checkpoint computed again from the log and compared bit for bit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from homeroom.contract.version import VersionHeader
from homeroom_aggregator.merge import checkpoint, rollback
from homeroom_aggregator.merge.replay import replay
from homeroom_aggregator.merge.round_state import MergeRules, ReleaseResult, RoundState, SchoolSegments
from homeroom_aggregator.state import school_segments
from homeroom_aggregator.state.log import Log


def differences(
    log: Log,
    rules: MergeRules,
    state: RoundState,
    read: Callable[[int], tuple[VersionHeader, np.ndarray]],
    apart: frozenset[str] = frozenset(),
) -> list[str]:
    """What differs from a replay of the log, a sentence each; empty where all is as it was released.

    log: the rounds' log.
    rules: the merge's, with which the log is replayed.
    state: the present one.
    read: a kept version's header and its theta float32 [P], the signature checked.
    apart: ids of updates that were set apart, and are not read.
    """
    problems: list[str] = []

    def compare_version(replayed: RoundState, result: ReleaseResult) -> None:
        version = replayed.version
        if log.version(version) is None:
            problems.append(f"version {version} is missing")
            return
        header, theta = read(version)
        if theta.tobytes() != replayed.theta.tobytes() or header.devices != result.devices:
            problems.append(f"version {version} is not what the log gives")
        for school, devices in result.schools.items():
            kept = school_segments.at(log.database, version, school)
            if kept is None or kept.devices != devices or not _equal(kept.segments, replayed.own[school]):
                problems.append(f"version {version} of {school} is not what the log gives")

    def compare_checkpoint(number: int, replayed: RoundState) -> None:
        if checkpoint.pack(replayed) != log.checkpoint(number):
            problems.append(f"the checkpoint after entry {number} is not what the log gives")

    base = log.base
    last = replay(
        lambda: log.entries(base),
        rules,
        start=checkpoint.unpack(log.checkpoint(base), rules.layout) if base else None,
        on_release=compare_version,
        without=apart,
        targets=rollback.targets(log.database),
        watched=frozenset(log.checkpoints()) - {base},
        watch=compare_checkpoint,
    )
    if checkpoint.pack(last) != checkpoint.pack(state):
        problems.append("the present state is not what the log gives")
    return problems


def _equal(one: SchoolSegments, other: SchoolSegments) -> bool:
    return one.keys() == other.keys() and all(one[name].tobytes() == other[name].tobytes() for name in one)
