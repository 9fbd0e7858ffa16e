"""Federated evaluation: takes each device's counts of a version, and shows sums that at least k fed.

A task's sum is shown where `min_devices` of `k_of` fed each figure of it, and changes only where as many more fed every
figure that changes: neither a figure nor the difference of two that are shown is of fewer. When it does not hold: in
plain rounds the aggregator has each device's counts; what a device counts of itself is believed within its bounds.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

from homeroom.contract.evaluation_counts import DeviceCounts, check_counts
from homeroom.contract.manifest import Manifest
from homeroom.errors import UpdateError
from homeroom.federation.evaluation_shape import languages_of, task_shapes
from homeroom_aggregator.merge.evaluation_tally import CountMembers, TaskTally
from homeroom_aggregator.merge.segment_sums import count_fed
from homeroom_aggregator.state import audit
from homeroom_aggregator.state.evaluations import Evaluations
from homeroom_aggregator.state.log import Log
from homeroom_aggregator.state.members import Members

Tallies = dict[str, TaskTally]  # by task
MOST_TALLIES = 4  # versions; of others, each device's counts are read again


class Evaluation:
    """The evaluation of one log's versions. Every method that changes something is part of the caller's step."""

    def __init__(self, log: Log, members: Members, manifest: Manifest) -> None:
        self.log, self.members, self.manifest = log, members, manifest
        self.stored = Evaluations(log.database)
        self._tallies = dict[int, Tallies]()  # by version, the last that was told of last

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
        tallies = self._tallies_of(counts.version)
        self.stored.put(member, counts)
        _add(tallies, member, counts)
        schools = cache(self.members.school)
        self._show(counts.version, tallies, k, lambda fed: count_fed(fed, k_of, schools))
        return "accepted"

    def look_again(self) -> None:
        """Makes the running sums anew from the log at the next counts: a step that changed them was undone."""
        self._tallies.clear()

    def _tallies_of(self, version: int) -> Tallies:
        """The running sums of a version, by task."""
        if (known := self._tallies.pop(version, None)) is None:
            shown = self.stored.sums_of(version)
            known = {task: TaskTally(shape, shown.get(task)) for task, shape in task_shapes(self.manifest).items()}
            for member, counts in self.stored.of_version(version):
                _add(known, member, counts)
        self._tallies[version] = known
        if len(self._tallies) > MOST_TALLIES:
            del self._tallies[next(iter(self._tallies))]
        return known

    def _show(self, version: int, tallies: Tallies, k: int, count: CountMembers) -> None:
        for task, tally in tallies.items():
            if (summed := tally.show(k, count)) is not None:
                self.stored.put_sum(version, task, summed)
                audit.record(self.log.database, "evaluated", version=version, task=task, devices=summed.devices)

    def forget(self, gone: frozenset[str]) -> bool:
        """Erases the counts of members that are gone; sums that are shown stay. Whether there were any."""
        if not self.stored.forget(gone):
            return False
        self.look_again()
        return True

    def follow(self, mode: str) -> bool:
        """Erases each device's own counts where they are not asked for any more; whether there were any."""
        self.look_again()
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


def _add(tallies: Tallies, member: str, counts: DeviceCounts) -> None:
    for task, groups in counts.tasks.items():
        if task in tallies:
            tallies[task].add(member, groups, counts.before)
