"""Running counts of one task of one version: each device's are added once, however many told before.

`Evaluation` keeps them in memory and makes them anew from the log where they may not be what it holds.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from homeroom.contract.evaluation_counts import BINS, OTHERS, CountsShape, Group, GroupCounts, add_counts, shown_as
from homeroom.federation.evaluation_shape import own_bins
from homeroom_aggregator.state.evaluations import TaskSum

CountMembers = Callable[[Collection[str]], int]


@dataclass
class TaskTally:
    """Sums over the devices that told of a task.

    sums: by group the counts of the version and of the one before. fed: whose they are. bins: the twenty of devices.
    since: the lowest and highest number of the versions before; (0, 0) without devices.
    shown: the sum that is shown. unshown: who told since.
    """

    shape: CountsShape
    shown: TaskSum | None = None
    sums: dict[Group, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    fed: dict[Group, set[str]] = field(default_factory=dict)
    bins: tuple[int, ...] = (0,) * 2 * BINS
    members: set[str] = field(default_factory=set)
    unshown: set[str] = field(default_factory=set)
    since: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        self._in_shown = set[str]().union(*self.shown.members) if self.shown else set[str]()

    def add(self, member: str, groups: Sequence[GroupCounts], before: int) -> None:
        """Adds a member's counts, which are in no sum yet. before: the number of the version it had before."""
        low, high = self.since if self.members else (before, before)
        self.since, self.bins = (min(low, before), max(high, before)), _plus(self.bins, own_bins(self.shape, groups))
        self.members.add(member)
        if member not in self._in_shown:
            self.unshown.add(member)
        for part in groups:
            now, earlier = self.sums.get(part.group, ((0,) * self.shape.size,) * 2)
            self.sums[part.group] = _plus(now, part.now), _plus(earlier, part.before)
            self.fed.setdefault(part.group, set()).add(member)

    def show(self, k: int, count: CountMembers) -> TaskSum | None:
        """The sum, where it may be shown now and is another than is shown; None where it stays.

        k: how many must feed a figure, and every change of one. count: how many members are.
        """
        if self.shown and count(self.unshown) < k:
            return None
        found = self.sum(k, count)
        if found is None or not may_follow(self.shown, found, k, count):
            return None
        self.shown, self.unshown, self._in_shown = found, set(), set(self.members)
        return found

    def sum(self, k: int, count: CountMembers) -> TaskSum | None:
        """The sum as it may be shown by itself; None where too few fed it."""
        names = shown_as(self.fed, k, count)
        if not names:
            return None
        shown, who = dict[Group, tuple[tuple[int, ...], tuple[int, ...]]](), dict[Group, set[str]]()
        for group, (now, before) in self.sums.items():
            name = names[group]
            known = shown.get(name)
            shown[name] = (_plus(known[0], now), _plus(known[1], before)) if known else (now, before)
            who.setdefault(name, set()).update(self.fed[group])
        order = sorted(shown, key=lambda name: (name == OTHERS, name))
        return TaskSum(
            devices=len(self.members),
            now=self.bins[:BINS],
            before=self.bins[BINS:],
            groups=tuple(GroupCounts(*name, *shown[name]) for name in order),
            fed=tuple(len(who[name]) for name in order),
            members=tuple(tuple(sorted(who[name])) for name in order),
            since=self.since,
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


def _plus(one: Sequence[int], other: Sequence[int]) -> tuple[int, ...]:
    return add_counts((one, other), len(one))
