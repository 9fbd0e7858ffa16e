"""Statistics in secure rounds: which segments of a cohort's changes are summed, so that none is of few devices.

Rows depend on each other: second moments are over all of them. So the devices whose change is summed have all of a
task's change in it. Where a total has not settled a task yet, rows that too few feed are added up under OTHERS
(`pooling.plan`). Where it has, devices that change a row which too few others change sit this task out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from homeroom.contract.canonical_json import identity
from homeroom.contract.manifest import Manifest
from homeroom.contract.round import RoundConfiguration
from homeroom.contract.secagg import SecureRules
from homeroom.contract.statistics.limits import largest_of_a_sample, rows_of
from homeroom.contract.statistics.pooling import NOT_SHARED, OTHERS, Pair, Pooling, plan
from homeroom.contract.statistics.secure import StatisticsSegment, StatisticsSegments, StatisticsTerms, segment_of
from homeroom.errors import TrustError
from homeroom.privacy.secagg.encoding import SumLayout, ring_bytes
from homeroom.privacy.secagg.masks import ring_dtype

HOLDS = "holds "  # before a segment's name: the device has samples in it after its change

Fed = Mapping[str, AbstractSet[int]]  # slots by announced name


@dataclass(frozen=True)
class StatisticsShape:
    """Changes of statistics, by the terms of a round."""

    manifest: Manifest
    configuration: RoundConfiguration
    terms: StatisticsTerms

    @cached_property
    def segments(self) -> StatisticsSegments:
        """The segments of the bundle."""
        return StatisticsSegments(self.manifest)

    @property
    def rules_id(self) -> str:
        """Identity of configuration and terms: no notice of other rounds has it."""
        return identity({"statistics": self.terms, "configuration": self.configuration.configuration_id})

    @property
    def secure(self) -> SecureRules:
        """The rules of updates' secure rounds; TrustError where statistics are not summed so."""
        if self.configuration.statistics.mode != "secure" or not self.configuration.secure:
            raise TrustError("the round configuration asks for no secure statistics", where="secure round")
        return self.configuration.secure

    @cached_property
    def open_segments(self) -> list[StatisticsSegment]:
        """The segments that a device may say it changes."""
        settled, tasks = self.terms.poolings, self.segments.tasks
        return [one for name in sorted(tasks) for one in self.segments.of_task(tasks[name], settled.get(name))]

    @cached_property
    def announced(self) -> list[str]:
        """A bit a segment for a change, then one a segment for samples that remain."""
        names = [segment.name for segment in self.open_segments]
        return names + [HOLDS + name for name in names]

    def settle(self, fed: Fed, least: int) -> dict[str, Pooling]:
        """What is summed of each task by name: as the total has settled it, or as these feeders allow."""
        found = dict(self.terms.poolings)
        for name, task in self.segments.tasks.items():
            if name not in found:
                judge = _FeederJudge(name, fed, least)
                here = [s for s in self.open_segments if s.task == name and fed[s.name]]
                pairs = {segment.pair for segment in here}
                rows = {segment.row for segment in here} & rows_of(task)
                sizes = {row: max(len(judge.feeders(row, pair)) for pair in pairs) for row in rows}
                found[name] = plan(task.kind, sizes, pairs, judge)
        return {name: pooling for name, pooling in found.items() if pooling is not NOT_SHARED}

    def chosen(self, fed: Mapping[str, set[int]], least: int) -> dict[str, frozenset[int]]:
        """The segments that are summed, in order, each with the slots that feed it."""
        chosen: dict[str, frozenset[int]] = {}
        for name, pooling in sorted(self.settle(fed, least).items()):
            segments = self.segments.of_task(self.segments.tasks[name], pooling)
            slots = {one: self.feeders_of(one, pooling, fed) for one in segments}
            active = frozenset[int]().union(*slots.values())
            while blocked := {s for some in slots.values() if len(some & active) < least for s in some & active}:
                active -= blocked
            chosen |= {one.name: some & active for one, some in slots.items() if some & active}
        return chosen

    def feeders_of(self, segment: StatisticsSegment, pooling: Pooling, fed: Fed) -> frozenset[int]:
        """Slots that feed a segment, where rows without a name are added up."""
        if segment.task in self.terms.shared or segment.row != OTHERS:
            return frozenset(fed[segment.name])
        rows = {s.row for s in self.open_segments if s.task == segment.task and s.row} - pooling.named
        return frozenset(slot for row in rows for slot in fed[segment._replace(row=row).name])

    def size(self, segment: str) -> int:
        """Values of a segment."""
        return self.segments.size(segment_of(segment))

    def width(self, devices: int) -> int:
        """Bytes of a ring element that holds the changes of so many devices' largest totals."""
        largest = largest_of_a_sample(self.segments.tasks.values())
        return ring_bytes(2 * devices * self.configuration.statistics.sample_limit * largest)


def encode_statistics(
    shape: StatisticsShape, sum_layout: SumLayout, values: Mapping[str, np.ndarray], subjects: Mapping[str, int]
) -> np.ndarray:
    """Encodes a change as ring elements, uint32 or uint64 [count]: values by segment, then subjects by segment.

    values: int64 by segment's name; zeros for those that are left out. subjects: how many more are in a segment.
    """
    sizes = zip(sum_layout.segments, sum_layout.sizes, strict=True)
    parts = [values.get(name, np.zeros(size, np.int64)) for name, size in sizes]
    counts = np.array([subjects.get(name, 0) for name in sum_layout.segments], np.int64)
    encoded: np.ndarray = np.concatenate([*parts, counts]).view(np.uint64).astype(ring_dtype(sum_layout.width))
    return encoded


@dataclass(frozen=True)
class _FeederJudge:
    """`pooling.Judge` of one task, by the devices of a cohort that feed it."""

    task: str
    fed: Fed
    least: int

    def feeders(self, row: str, pair: Pair) -> AbstractSet[int]:
        """Slots that feed a row in a pair of blocks."""
        return self.fed.get(StatisticsSegment(self.task, row, *pair).name, frozenset())

    def pair(self, pair: Pair) -> bool:
        return len(self.feeders("", pair)) >= self.least

    def single(self, row: str, pairs: frozenset[Pair]) -> bool:
        return self.together(frozenset({row}), pairs)

    def together(self, rows: frozenset[str], pairs: frozenset[Pair]) -> bool:
        counts = [len(self._union(rows, pair)) for pair in pairs]
        return any(counts) and all(not count or count >= self.least for count in counts)

    def _union(self, rows: Iterable[str], pair: Pair) -> set[int]:
        return {slot for row in rows for slot in self.feeders(row, pair)}
