"""Withdrawals: an update that waits is erased at once; one that a version holds is left out, or waits for a rewind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from homeroom.contract.round import RoundConfiguration
from homeroom.contract.update_checks import read_admitted
from homeroom.system.clock import now
from homeroom_aggregator.merge import waiting_parts
from homeroom_aggregator.merge.admission import Admission
from homeroom_aggregator.merge.evaluation import Evaluation
from homeroom_aggregator.merge.logged_state import LoggedState
from homeroom_aggregator.merge.statistics import SharedStatistics
from homeroom_aggregator.state import audit, claims, rewinds, secure_sum
from homeroom_aggregator.state.members import Members

KEPT = b"kept"  # the body of a withdrawal that came too late for a replay
REPLAYED_AT_ONCE = 32  # entries; a longer replay may run outside


class Withdrawals(LoggedState):
    """The part of rounds that takes updates out again."""

    admission: Admission
    members: Members
    statistics: SharedStatistics
    evaluation: Evaluation
    after_withdrawal: Callable[[], object]  # what a secure round under way does about it
    _gathering = False  # of many withdrawals, before the last

    @property
    def configuration(self) -> RoundConfiguration:
        """The round configuration in force."""
        return self.admission.rules.configuration

    def withdraw(self, update_id: str, member: str) -> bool:
        """Unlearn an update of this member; False where another's, or so old that no replay leaves it out.

        An id never seen stays out should this member send it. One that still waits is erased as well; one that a
        version holds waits for the next rewind, where rounds rewind; of a secure sum the whole sum goes. An update that
        a private release holds is `bounded`, and stays in.
        """
        owner, number = self.admission.owner(update_id)
        if owner not in (None, member) or self.bounded(update_id, member):
            return False
        if owner is None:
            return self.log.withdraw_early(update_id, member)
        if number is None and claims.is_summed(self.log.database, update_id):
            return False  # its sum is not kept any more
        goes = number is None or number > self.log.base or number in self.state.sums.waiting
        if not self.log.withdrawn(update_id):
            with self.change():
                self._withdraw(update_id, member, number)
            if not self._gathering:
                self.after_withdrawal()
        return goes

    def withdraw_all(self, updates: Mapping[str, Sequence[str]]) -> None:
        """As `withdraw`, of many updates by member, in one durable step with one replay."""
        self._gathering, before = True, self._gathering
        try:
            with self.change():
                for member, ids in updates.items():
                    for update_id in ids:
                        self.withdraw(update_id, member)
                self._gathering = before
                if self.stale:
                    self._settle_if_short()
        finally:
            self._gathering = before
        self.after_withdrawal()

    def withdrawable(self, member: str) -> list[str]:
        """The ids of a member's updates that `withdraw` would take out, the oldest first; a sum goes as a whole."""
        sql = f"""SELECT update_id FROM log AS came WHERE kind = 'update' AND device = ? AND NOT EXISTS
                 (SELECT 1 FROM log WHERE kind IN ('withdraw', 'unlearn') AND update_id = came.update_id)
                 AND {rewinds.not_void(self.log.database)} ORDER BY number"""
        found = [one for (one,) in self.log.database.rows(sql, (member,)) if not self.bounded(one, member)]
        if self.configuration.secure and not self.ledger:
            own = set(claims.summed(self.log.database, member, 0))
            sums = secure_sum.headers(self.log.database, self.log.base, 1 << 62)
            found += [one for header in sums for one in header.updates if one in own and not self.log.withdrawn(one)]
        return found

    def _withdraw(self, update_id: str, member: str, number: int | None, **why: str) -> None:
        """number: of the entry that holds the update; None while it waits in a secure round."""
        audit.record(self.log.database, "withdrawn", device=member, **why)
        is_void = number is not None and rewinds.is_void(self.log.database, number)
        if (
            number is not None
            and self.log.base < number <= self.log.last_release()
            and not is_void
            and self.configuration.rewinds
        ):
            if self.log.number(update_id) is None:
                body = rewinds.holder(number)
            elif parts := waiting_parts.find(self.log, self._rules_at(number), self.state.sums, member, number):
                self._undos.append(waiting_parts.take_out(self.state.sums, *parts, member))
                body = waiting_parts.pack(parts[1])
            else:
                body = b""
            self.log.append("unlearn", self.state.version, update_id=update_id, device=member, body=body)
            rewinds.ask(self.log.database, now().date())
            sums, waiting = self.state.sums, self.state.sums.waiting
            self._undos.append(lambda: setattr(sums, "waiting", waiting))
            sums.leave_out({update_id})  # the parts of it that wait by the bounded rule
            return
        kept = number is not None and not is_void and self._kept_at(number)
        body = KEPT if kept else b""
        entry = self.log.append("withdraw", self.state.version, update_id=update_id, device=member, body=body)
        if number is None or is_void:
            return
        if self.ledger or number > self.log.last_release():
            self.log.erase_updates(update_id)
            self._erased = True
        if number > self.log.base or number in self.state.sums.waiting:
            self.log.drop_checkpoints(max(number, self.log.base + 1), entry)  # they hold it
            self._keep_state()
            self.stale = True
            if not self._gathering:
                self._settle_if_short()

    def _settle_if_short(self) -> None:
        """Replay at once, unless that takes long and may run outside."""
        short = self.log.last() - max(self.log.checkpoints(), default=0) <= REPLAYED_AT_ONCE
        if short or not self.replays_outside or self.log.waiting:  # what waits apart is this connection's own
            self.settle()

    def withdraw_gone(self) -> None:
        """Withdraw what waits of members whose key was revoked or whose school took its consent back; erase it."""
        gone = self.members.gone()
        with self.change():
            self._undos.append(self.statistics.look_again)
            self._erased = self.statistics.take_out(gone, self.configuration.statistics, now()) or self._erased
            self._erased |= self.evaluation.forget(gone)
        for member in sorted(self.state.sums.all_devices() & gone):
            with self.change():
                while (newest := self._newest_in_sums(member)) and not self.log.withdrawn(newest[0]):
                    self._withdraw(newest[0], member, newest[1], why="key or consent gone")
                    self.settle()
        self.after_withdrawal()

    def stays(self, update_id: str, member: str) -> bool:
        """Whether this member's update, which it withdrew, stays in versions: what made them is not kept any more."""
        owner, number = self.admission.owner(update_id)
        if owner != member or self.bounded(update_id, member):
            return False
        if number is None:  # in no sum, or in one whose bytes are gone: too old, or void
            summed_at = claims.summed_at(self.log.database, update_id)
            return summed_at is not None and not self.log.withdrawn(update_id) and not self._is_void(summed_at)
        return self.log.withdrawal_of(update_id) == KEPT

    def _is_void(self, version: int) -> bool:
        """Whether what was made of this version is void."""
        return any(one.to <= version < one.version for one in rewinds.rewinds(self.log.database))

    def _kept_at(self, number: int) -> bool:
        """Whether a part of an entry's update is in versions that no replay makes again."""
        if number > self.log.base:
            return False
        waiting = self.state.sums.waiting.get(number)
        slices = read_admitted(self.log.body(number), self.admission.rules.layout).tier_slices if waiting else ()
        return waiting is None or len(waiting.norms) < len(slices)

    def bounded(self, update_id: str, member: str) -> bool:
        """Whether this member's update is in a private release, which cannot give it back."""
        return self.admission.bounded(update_id, member)
