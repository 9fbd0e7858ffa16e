"""Sums of an evaluation in secure rounds: `coordinator.SecureRounds` over the counts of devices, one sum a version."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from homeroom.contract.evaluation_counts import BINS, check_counts
from homeroom.contract.secagg import Advertisement
from homeroom.errors import UpdateError
from homeroom.federation.evaluation_shape import DEVICES, EvaluationShape, read_sum, segment_name
from homeroom.privacy.secagg.encoding import decode
from homeroom_aggregator.merge.rounds import Rounds
from homeroom_aggregator.secagg.sums import Merged, OpenedSum
from homeroom_aggregator.state import audit
from homeroom_aggregator.state.evaluations import Evaluations, TaskSum
from homeroom_aggregator.state.log import Log


class EvaluationSums:
    """Sums of counts. `durable` sees only what cannot be lost any more.

    A round is of the version that was the newest when it was announced, until its cohort is closed of a newer one.
    begun: the version of the round under way whose cohort is closed; None where there is none.
    """

    opens_anyway = True

    def __init__(self, rounds: Rounds, durable: Log) -> None:
        self.rounds, self.durable = rounds, durable
        self.begun: Callable[[], int | None] = lambda: None

    @property
    def _stored(self) -> Evaluations:
        return self.rounds.evaluation.stored

    @property
    def shape(self) -> EvaluationShape:
        """The counts of the version that is told of: none where the newest was summed, or there is none."""
        version = self.begun()
        if version is None:
            newest = self.rounds.state.version
            version = newest if newest and not self._stored.summed(newest) else 0
        return EvaluationShape(self.rounds.bundle.manifest, self.rounds.configuration, version)

    def close(self) -> None:
        """Close the second connection to the log."""
        self.durable.close()

    def on_withdrawal(self, advance: Callable[[], object]) -> None:
        """Nothing: counts are no update."""

    def terms(self, rules_id: str) -> dict[str, Any]:
        """The version that is told of."""
        shape = self.shape
        return {"counted_version": shape.version if shape.rules_id == rules_id else 0}

    def summed(self, member: str) -> list[str]:
        """Id of the member's counts in the newest sum, where they are of the newest version or of the round's."""
        newest = self._stored.newest_summed()
        return [newest.offers[member]] if newest and member in newest.offers else []

    def check(self, advertisement: Advertisement, member: str) -> None:
        """Refuse counts where there is nothing to tell of."""
        if not self.shape.version:
            raise UpdateError("there is no version to tell of", code="past_phase", remedy="sync again")

    def claim(self, advertisement: Advertisement, member: str) -> bool:
        """Nobody else's counts can have this id: a member is told of its own alone."""
        return True

    def withdrawn(self, advertisement: Advertisement, member: str) -> bool:
        """Never: counts of a version are not taken back."""
        return False

    def is_void(self, version: int) -> bool:
        """Never: counts of a version say how it did, whatever became of it."""
        return False

    def merged(self, round_id: str) -> Merged:
        """Whether the round's sum is here."""
        newest = self._stored.newest_summed()
        if newest is None or newest.round_id != round_id:
            return "not"
        durable = Evaluations(self.durable.database, prepare=False).newest_summed()
        return "durably" if durable and durable.round_id == round_id else "here"

    def let_go(self, version: int) -> bool:
        """At once: who signed offers its counts to the next round."""
        return True

    def merge(self, opened: OpenedSum) -> None:
        """Show the sum of a version; UpdateError, which the audit log keeps, where no devices have such counts."""
        shape, (values, weights) = self.shape, decode(opened.terms, opened.total)
        fed = {name: len(members) for name, members in opened.fed.items()}
        try:
            sums = _task_sums(shape, values, weights, fed)
        except UpdateError as problem:
            of = {"roster": opened.roster, "devices": len(opened.members), "keys": sorted(opened.members)}
            with self.rounds.change():
                database, why = self.rounds.log.database, str(problem)
                audit.record(database, "evaluation refused", version=shape.version, why=why, **of)
            raise
        offers = {member: one.update_id.hex() for member, one in opened.members.items()}
        with self.rounds.change():
            self._stored.put_summed(shape.version, opened.round_id, offers)
            for task, one in sums.items():
                self._stored.put_sum(shape.version, task, one)
                audit.record(
                    self.rounds.log.database, "evaluated", version=shape.version, task=task, devices=one.devices
                )


def _task_sums(
    shape: EvaluationShape, values: dict[str, Any], weights: dict[str, int], fed: dict[str, int]
) -> dict[str, TaskSum]:
    """By task what is shown; UpdateError where no devices that announced these groups have such counts."""
    found = {}
    for task, (bins, groups) in read_sum(shape, values).items():
        where, devices = f"evaluation of {task}", fed[segment_name(task, DEVICES)]
        names = [segment_name(task, group) for group in (DEVICES, *groups)]
        if any(weights[name] != fed[name] for name in names):
            raise UpdateError("devices fed other groups than they announced", code="malformed", where=where)
        now, before = bins[:BINS], bins[BINS:]
        if min(bins) < 0 or sum(now) != devices or sum(before) != devices:
            raise UpdateError("the tenths are not one a device", code="malformed", where=where)
        for group, one in groups.items():
            check_counts(shape.shapes[task], one.now, one.before, where, fed[segment_name(task, group)])
        counts = tuple(fed[name] for name in names[1:])
        found[task] = TaskSum(devices=devices, now=now, before=before, groups=tuple(groups.values()), fed=counts)
    return found
