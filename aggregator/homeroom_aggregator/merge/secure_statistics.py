"""Statistics in secure rounds: takes a sum of changes into the total, and begins a new total.

The aggregator has the total, never a member's part of it. It knows which segments each member feeds and holds, as the
member announced, and how many subjects are in a segment of all together, which is summed with it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec

from homeroom.contract.manifest import Manifest
from homeroom.contract.statistics.messages import supports
from homeroom.contract.statistics.pooling import Pooling
from homeroom.contract.statistics.secure import StatisticsSegment, StatisticsSegments, shared_rows
from homeroom.contract.statistics.sums import NOTHING, Statistics, add
from homeroom.errors import UpdateError
from homeroom_aggregator.state import audit
from homeroom_aggregator.state.statistics_totals import IN_EARLIER_TOTAL, IN_SUM, StatisticsTotals, StoredTotal


@dataclass(frozen=True)
class SummedChange:
    """The sum of a secure round's changes.

    poolings: what it settles, by task. subjects: how many more are in each segment.
    offers: id of what each member offered. fed: the members that feed each segment. holds: that keep samples in it.
    """

    round_id: str
    change: Statistics
    poolings: Mapping[str, Pooling]
    subjects: Mapping[StatisticsSegment, int]
    offers: Mapping[str, str]
    fed: Mapping[StatisticsSegment, Iterable[str]]
    holds: Mapping[StatisticsSegment, frozenset[str]]


def take_sum(totals: StatisticsTotals, segments: StatisticsSegments, summed: SummedChange, now: str) -> None:
    """Adds a sum to the total, with who feeds and holds what; part of the caller's step. now: ISO 8601, UTC."""
    before = totals.secure()
    number, wrong = before.terms.sums + 1, before.wrong
    try:
        totals.put_sum(add(totals.sum(), summed.change))
    except UpdateError as problem:  # what it was stays, and is of no use any more
        wrong = wrong or str(problem)
    subjects = Counter({(s.task, s.row, s.first, s.last): s.subjects for s in before.subjects})
    for (task, row, first, last), more in summed.subjects.items():
        subjects[task, row, first, last] = max(0, subjects[task, row, first, last] + more)
    for member, offered in sorted(summed.offers.items()):
        known = totals.find(member)
        held = {(s.task, s.row, s.first, s.last) for s in known.subjects} if known else set()
        for segment, members in summed.fed.items():
            if member in members:
                totals.mark_summed(member, segments.cells(segment), now, IN_SUM)
                task, row, first, last = segment
                (held.add if member in summed.holds[segment] else held.discard)((task, row, first, last))
        facts = supports(dict.fromkeys(held, 1))  # that there are some; how many it does not say
        totals.put(StoredTotal(member, number, offered, known.included if known else 0, facts), NOTHING)
    terms = msgspec.structs.replace(
        before.terms, sums=number, shared={name: shared_rows(one) for name, one in sorted(summed.poolings.items())}
    )
    after = msgspec.structs.replace(
        before, terms=terms, subjects=supports(subjects), round_id=summed.round_id, filled=True, wrong=wrong
    )
    totals.put_secure(after)
    audit.record(totals.database, "statistics summed", sum=number, devices=len(summed.offers), total=terms.total)


def begin_total(totals: StatisticsTotals, manifest: Manifest, now: str, above: int = 0) -> None:
    """Begins a new, empty total, whose number is above this one; part of the caller's step.

    What was released of the one before is not served any more. Until k schools' parts differ for certain, as of those
    who are in only one of both, nothing is released: the difference could be of one.
    """
    before, segments, released = totals.secure(), StatisticsSegments(manifest), totals.release().number > 0
    if not released:
        totals.forget_marks()
    for known in list(totals.each()):
        for s in known.subjects if released else ():
            cells = segments.cells(StatisticsSegment(s.task, s.row, s.first, s.last))
            totals.mark_summed(known.member, cells, now, IN_EARLIER_TOTAL)
        totals.remove(known.member)
    totals.put_sum(NOTHING)
    totals.stop_serving()
    terms = msgspec.structs.replace(before.terms, total=max(before.terms.total, above) + 1, shared={})
    after = msgspec.structs.replace(before, terms=terms, subjects=(), round_id="", filled=False, wrong="")
    totals.put_secure(msgspec.structs.replace(after, fresh=released))
