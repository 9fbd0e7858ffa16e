"""Sums of statistics in secure rounds: `coordinator.SecureRounds` over the changes of devices' totals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from homeroom.contract.secagg import Advertisement
from homeroom.contract.statistics.secure import segment_of
from homeroom.errors import InputError, UpdateError
from homeroom.privacy.secagg.encoding import decode, feeders
from homeroom.privacy.secagg.statistics_shape import HOLDS, StatisticsShape
from homeroom.system.clock import now
from homeroom_aggregator.merge import rollback
from homeroom_aggregator.merge.rounds import Rounds
from homeroom_aggregator.merge.secure_statistics import SummedChange, take_sum
from homeroom_aggregator.secagg.sums import Merged, OpenedSum
from homeroom_aggregator.state import audit
from homeroom_aggregator.state.log import Log
from homeroom_aggregator.state.statistics_totals import SecureTotal, StatisticsTotals


class StatisticsSums:
    """Sums of statistics, merged into one total. `durable` sees only what cannot be lost any more."""

    opens_anyway = True

    def __init__(self, rounds: Rounds, durable: Log) -> None:
        self.rounds, self.durable = rounds, durable
        self._before_merge: StatisticsShape | None = None  # of the newest round that was merged

    @property
    def _secure(self) -> SecureTotal:
        return self.rounds.statistics.totals.secure()

    @property
    def shape(self) -> StatisticsShape:
        """The changes that the next sum takes."""
        return StatisticsShape(self.rounds.bundle.manifest, self.rounds.configuration, self._secure.terms)

    def close(self) -> None:
        """Close the second connection to the log."""
        self.durable.close()

    def on_withdrawal(self, advance: Callable[[], object]) -> None:
        """Nothing: what was summed is taken away by a later change."""

    def terms(self, rules_id: str) -> dict[str, Any]:
        """What devices agree on before they mask; of a round that is merged here alone, those that it began with."""
        before = self._before_merge
        terms = before.terms if before and before.rules_id == rules_id else self._secure.terms
        return {"terms": msgspec.to_builtins(terms)}

    def summed(self, member: str) -> list[str]:
        """Id of the member's newest change in this total."""
        known = self.rounds.statistics.totals.find(member) if self._secure.filled else None
        return [known.digest] if known else []

    def check(self, advertisement: Advertisement, member: str) -> None:
        """Refuse a change that is in the total."""
        if advertisement.update_id.hex() in self.summed(member):
            raise UpdateError("this change is in a sum already", code="past_phase", remedy="sync again")

    def claim(self, advertisement: Advertisement, member: str) -> bool:
        """Nobody else's change can have this id: a member is told of its own alone."""
        return True

    def withdrawn(self, advertisement: Advertisement, member: str) -> bool:
        """Never: a device that takes something back does so with its next change."""
        return False

    def is_void(self, version: int) -> bool:
        """Never: statistics are of samples, and not of a version."""
        return False

    def merged(self, round_id: str) -> Merged:
        """Whether this is the newest sum of the total."""
        if self._secure.round_id != round_id:
            return "not"
        return "durably" if StatisticsTotals(self.durable.database).secure().round_id == round_id else "here"

    def let_go(self, version: int) -> bool:
        """At once: who signed offers its change to the next round."""
        return True

    def merge(self, opened: OpenedSum) -> None:
        """Add the sum to the total, and release it if it may be."""
        shape, view, statistics = self.shape, opened.view, self.rounds.statistics
        self._before_merge = shape
        values, subjects = decode(opened.terms, opened.total)
        announced = feeders(shape, view.cohort)
        poolings = shape.settle(announced, opened.least)
        who = {view.slot(one.device): member for member, one in opened.members.items()}
        remain = {name: announced[HOLDS + name] for name in announced if HOLDS + name in announced}
        holds = {}
        for one in map(segment_of, values):
            slots = shape.feeders_of(one, poolings[one.task], remain)
            holds[one] = frozenset(who[slot] for slot in slots if slot in who)
        tasks = {one.task for one in holds} | shape.terms.shared.keys()
        summed = SummedChange(
            round_id=opened.round_id,
            change=shape.segments.statistics({segment_of(name): array for name, array in values.items()}),
            poolings={task: pooling for task, pooling in poolings.items() if task in tasks},
            subjects={segment_of(name): number for name, number in subjects.items()},
            offers={member: one.update_id.hex() for member, one in opened.members.items()},
            fed={segment_of(name): members for name, members in opened.fed.items()},
            holds=holds,
        )
        try:
            with self.rounds.change():
                take_sum(statistics.totals, shape.segments, summed, now().isoformat())
                self.rounds.sweep_after()
                statistics.look_again()
                statistics.look(self.rounds.configuration.statistics, now())
        except BaseException:
            statistics.look_again()
            raise


def new_total(rounds: Rounds, by: str, why: str) -> int:
    """Begins a new total, to which every device sends its whole sums; its number.

    by, why: who does so, and the reason, for the audit log. InputError where there are no secure statistics.
    """
    rollback.check_reason(by, why)
    if rounds.configuration.statistics.mode != "secure":
        raise InputError("statistics are not summed in secure rounds here", remedy="only those have a total to begin")
    with rounds.change():
        rounds.statistics.begin_total(now())
        number = rounds.statistics.totals.secure().terms.total
        audit.record(rounds.log.database, "statistics begun anew", total=number, by=by, why=why)
        rounds.sweep_after()
    return number
