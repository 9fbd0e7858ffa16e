"""Federated evaluation: takes each device's counts of a version, and shows sums that at least k fed.

A task's sum is shown where `min_devices` of `k_of` fed each figure of it, and changes only where as many more fed every
figure that changes: neither a figure nor the difference of two that are shown is of fewer. When it does not hold: in
plain rounds the aggregator has each device's counts; what a device counts of itself is believed within its bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal

from homeroom.contract.evaluation_counts import (
    BINS,
    OTHERS,
    CountsShape,
    DeviceCounts,
    Group,
    GroupCounts,
    add_counts,
    check_counts,
    shown_as,
)
from homeroom.contract.manifest import Manifest
from homeroom.errors import UpdateError
from homeroom.federation.evaluation_shape import languages_of, own_bins, task_shapes
from homeroom_aggregator.merge.segment_sums import count_fed
from homeroom_aggregator.state import audit
from homeroom_aggregator.state.evaluations import Evaluations, TaskSum
from homeroom_aggregator.state.log import Log
from homeroom_aggregator.state.members import Members

CountMembers = Callable[[Collection[str]], int]


class Evaluation:
    """The evaluation of one log's versions. Every method that changes something is part of the caller's step."""

    def __init__(self, log: Log, members: Members, manifest: Manifest) -> None:
        self.log, self.members, self.manifest = log, members, manifest
        self.stored = Evaluations(log.database)

    def take(self, counts: DeviceCounts, member: str, k: int, k_of: str) -> Literal["accepted", "already"]:
        """Takes what a member tells of a version, once, and shows the sums that may be; UpdateError where refused.

        k, k_of: how many of what must feed a figure.
        """
        if not self.log.has_version(counts.version) or counts.before >= counts.version:
            what = f"version {counts.version} after {counts.before} was never released here"
            raise UpdateError(what, code="malformed", where="evaluation")
        check_device_counts(counts, self.manifest)
        known = self.stored.find(counts.version, member)
        if known is not None:
            if known == counts:
                return "already"
            raise UpdateError("other counts of this version were told before", code="malformed", where="evaluation")
        self.stored.put(member, counts)
        self._show(counts.version, k, lambda fed: count_fed(fed, k_of, self.members.school))
        return "accepted"

    def _show(self, version: int, k: int, count: CountMembers) -> None:
        told, before = dict(self.stored.of_version(version)), self.stored.sums().get(version, {})
        for task, shape in task_shapes(self.manifest).items():
            parts = {member: counts.tasks[task] for member, counts in told.items() if task in counts.tasks}
            since = [counts.before for member, counts in told.items() if member in parts]
            summed = sum_of(shape, parts, k, count, since)
            if summed is not None and may_follow(before.get(task), summed, k, count):
                self.stored.put_sum(version, task, summed)
                audit.record(self.log.database, "evaluated", version=version, task=task, devices=summed.devices)

    def forget(self, gone: frozenset[str]) -> bool:
        """Erases the counts of members that are gone; sums that are shown stay. Whether there were any."""
        return self.stored.forget(gone)

    def follow(self, mode: str) -> bool:
        """Erases each device's own counts where they are not asked for any more; whether there were any."""
        return mode != "plain" and self.stored.forget_every()


def check_device_counts(counts: DeviceCounts, manifest: Manifest) -> None:
    """UpdateError where no samples of one device have such counts, or they are of no task of this bundle."""
    known, languages = task_shapes(manifest), languages_of(manifest)
    for name, groups in counts.tasks.items():
        where = f"evaluation of {name}"
        if name not in known:
            raise UpdateError("the bundle has no such task", code="malformed", where=where)
        if not groups or len({part.group for part in groups}) < len(groups):
            raise UpdateError("no groups, or one twice", code="malformed", where=where)
        if any(part.language not in languages for part in groups):
            raise UpdateError("a language that the bundle does not know", code="malformed", where=where)
        for part in groups:
            check_counts(known[name], part.now, part.before, where)


def sum_of(
    shape: CountsShape,
    parts: Mapping[str, Sequence[GroupCounts]],
    k: int,
    count: CountMembers,
    since: Collection[int] = (),
) -> TaskSum | None:
    """The sum of a task's counts over members, as it may be shown; None where too few fed it.

    parts: by member. since: numbers of the versions before.
    """
    fed: dict[Group, set[str]] = {}
    for member, groups in parts.items():
        for part in groups:
            fed.setdefault(part.group, set()).add(member)
    names = shown_as(fed, k, count)
    if not names:
        return None
    shown, who = dict[Group, GroupCounts](), dict[Group, set[str]]()
    bins = (0,) * 2 * BINS
    for member, groups in parts.items():
        bins = add_counts([bins, own_bins(shape, groups)], 2 * BINS)
        for part in groups:
            name = names[part.group]
            known = shown.get(name)
            now, before = (
                add_counts([values, getattr(known, version)] if known else [values], shape.size)
                for version, values in (("now", part.now), ("before", part.before))
            )
            shown[name] = GroupCounts(*name, now, before)
            who.setdefault(name, set()).add(member)
    order = sorted(shown, key=lambda name: (name == OTHERS, name))
    return TaskSum(
        devices=len(parts),
        now=bins[:BINS],
        before=bins[BINS:],
        groups=tuple(shown[name] for name in order),
        fed=tuple(len(who[name]) for name in order),
        members=tuple(tuple(sorted(who[name])) for name in order),
        since=(min(since, default=0), max(since, default=0)),
    )


def may_follow(before: TaskSum | None, after: TaskSum, k: int, count: CountMembers) -> bool:
    """Whether a sum may be shown after another of the same version: at least k more fed every figure that changes."""
    if before is None:
        return True
    old = {part.group: set(members) for part, members in zip(before.groups, before.members, strict=True)}
    new = {part.group: set(members) for part, members in zip(after.groups, after.members, strict=True)}
    everybody = set().union(*new.values()) - set().union(*old.values())
    if not everybody or old.keys() != new.keys():
        return False
    changes = [new[name] ^ old[name] for name in new]
    return all(not change or count(change) >= k for change in (*changes, everybody))
