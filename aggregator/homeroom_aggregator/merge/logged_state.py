"""A round state that is always what a replay of its log gives: computed at a start, and changed in durable steps.

With `replays_outside` the owner has replays of withdrawals computed elsewhere (`replayed`); meanwhile the state is
stale, and no version is released.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from homeroom_aggregator.merge import checkpoint, configuration_change, correlated_noise
from homeroom_aggregator.merge.bounded import UnreadableBodyError
from homeroom_aggregator.merge.replay import Replayed, replay_log
from homeroom_aggregator.merge.round_state import MergeRules, RoundState
from homeroom_aggregator.merge.segment_sums import Undo
from homeroom_aggregator.state.log import Log, LogEntry
from homeroom_aggregator.state.members import Members
from homeroom_aggregator.state.privacy_ledger import PrivacyLedger
from homeroom_aggregator.state.set_apart import SetApart


class LoggedState:
    """The state of one log. `stale`: it holds an update that was withdrawn. `apart`: what is not read again."""

    log: Log
    members: Members
    state: RoundState
    ledger: PrivacyLedger | None
    apart: SetApart
    _begun: MergeRules
    replays_outside = stale = _erased = False
    _bands = 1

    def __init__(self) -> None:
        self._undos = list[Undo]()

    def _rules_at(self, number: int | None, log: Log | None = None) -> MergeRules:
        """The merge's rules after entry `number`, None for the last. log: a connection of the caller's own."""
        configuration = configuration_change.in_force(log or self.log, self._begun.configuration, number)
        school, body = Members((log or self.log).database).school, (log or self.log).body
        return dataclasses.replace(self._begun, configuration=configuration, school=school, body=body)

    @contextmanager
    def change(self) -> Iterator[None]:
        """Make everything inside durable together, or undo all of it, in the state too.

        A change inside another is a part of it that may fail alone, so that many updates can share one fsync.
        """
        outer, self._undos = self._undos, []
        try:
            with self.log.step():
                yield
        except BaseException:
            for undo in reversed(self._undos):
                undo()
            raise
        else:
            if self.log.stepping:
                outer.extend(self._undos)
            elif self._erased:  # so that SQLite's write-ahead log does not keep what was erased
                if self._bands > 1 and self.log.waiting:
                    correlated_noise.forget(self.log.waiting, self.state.version, self._bands)
                self._erased = not self.log.sweep()
        finally:
            self._undos = outer

    def sweep_after(self) -> None:
        """Has SQLite's write-ahead log emptied after the present change, which erases something."""
        self._erased = True

    def _keep_state(self) -> None:
        before = {name: getattr(self, name) for name in ("state", "stale")}
        self._undos.append(lambda: vars(self).update(before))

    def settle(self) -> None:
        """Replay here and now, where the state holds an update that was withdrawn."""
        if self.stale:
            self._keep_state()
            self._resume()

    def replayed(self, log: Log) -> Replayed:
        """The state that the log gives; in any thread, through a connection of its own."""
        last, without = log.last(), log.all_withdrawn()
        return Replayed(replay_log(log, lambda after: self._rules_at(after, log), without, last), last, without)

    def _resume(self) -> None:
        """Take the state that the log gives."""
        self._checkpoint_entry, self._since_bytes = max(self.log.checkpoints(), default=0), 0
        lost = list[tuple[LogEntry, str]]()
        told: dict[str, Any] = {
            "reading": self.apart.reading,
            "unreadable": lambda entry, why: lost.append((entry, why)),
        }
        try:
            self.state, self.stale = replay_log(self.log, self._rules_at, self.log.all_withdrawn(), **told), False
        except UnreadableBodyError as problem:
            self._set_body_apart(problem)
            return self._resume()
        for entry, why in lost:
            with self.log.step():
                self.apart.add(f"entry {entry.number}", why)
                self.log.append("withdraw", self.state.version, update_id=entry.update_id, device=entry.device)

    def _set_body_apart(self, problem: UnreadableBodyError) -> None:
        """Withdraw an update that waits, and whose body cannot be read any more; the state is stale from then on."""
        number, base = problem.number, self.log.base
        with self.log.step():
            self.apart.add(f"entry {number}", problem.why)
            for update_id, device in filter(None, [self.log.update_at(number)]):
                entry = self.log.append("withdraw", self.log.newest(), update_id=update_id, device=device)
                self.log.drop_checkpoints(max(number, base + 1), entry)
                self.log.empty_body(number)
        self.stale = True

    def _newest_in_sums(self, member: str) -> tuple[str, int] | None:
        """The id and entry of an update that takes this member out of what waits, or a part of it; None if none does.

        One that the log still has the bytes of, or waits to read again.
        """
        sums = self.state.sums
        return (sums.waiting_of(member) or self.log.newest_update(member)) if member in sums.all_devices() else None

    def _set_entry_apart(self) -> None:
        """Withdraw the update that ended the process before this one while it was replayed."""
        for update_id, device in filter(None, map(self.log.update_at, self.apart.entries())):
            if not self.log.withdrawn(update_id):
                self.log.append("withdraw", self.log.newest(), update_id=update_id, device=device)

    def facts(self) -> dict[str, int | float]:
        """Counts for /health and /metrics."""
        ledger = self.ledger
        private = {"epsilon_spent": ledger.spent(), "epsilon_budget": ledger.privacy.epsilon} if ledger else {}
        return private | {
            "version": self.state.version,
            "pending": self.state.pending,
            "devices": self.members.count(),
            "updates": self.log.count("update"),
            "withdrawn": self.log.count("withdraw") + self.log.count("unlearn"),
            "set_apart": len(self.apart.names),
        }

    def put_checkpoint(self) -> None:
        """Write a checkpoint of the present state, unless the last one is of it."""
        if (last := self.log.last()) > self._checkpoint_entry:
            with self.change():
                self.settle()
                self._put_checkpoint(last)

    def _put_checkpoint(self, number: int) -> None:
        if self.stale or (self.ledger and self.state.pending):
            return  # a sum without noise is never written down: the next release brings the checkpoint
        self.log.put_checkpoint(number, checkpoint.pack(self.state))
        self._checkpoint_entry, self._since_bytes = number, 0
