"""Replay: sums and theta computed from the log, bit for bit.

A withdrawn update is left out as if it had never come: what waits is recomputed at once, and the next release starts
from a theta recomputed without it. That version differs from the last one by more than the withdrawn update, so nobody
can read it off the difference. What other devices learned from a version that held it is not undone. A private release
is replayed from its sums after noise, whatever is withdrawn later: what it says of one update is bounded by its noise.
Where rounds rewind, an update that a version holds is unlearned by an entry `rewind`, which goes on from the state of
before that update; what it made void is not replayed. Versions of an earlier bundle are entries `carried`: each holds
its state as the present bundle has it (`merge.carry_over`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from homeroom.contract.update_checks import read_admitted, read_update
from homeroom.errors import StoreError, UpdateError
from homeroom_aggregator.merge import checkpoint, configuration_change, rollback, round_state, waiting_parts
from homeroom_aggregator.merge.bounded import UnreadableBodyError
from homeroom_aggregator.merge.round_state import MergeRules, OnRelease, ReleaseResult, RoundState
from homeroom_aggregator.state import secure_sum
from homeroom_aggregator.state.log import Log, LogEntry

Reading = Callable[[str], AbstractContextManager[None]]
VERSION_KINDS = (
    "release",
    "private_release",
    "rollback",
    "restored",
    "rewind",
    "carried",
)  # entries that make a version


@dataclass(frozen=True)
class Replayed:
    """A state as the log gives it after entry `last`, `without` these updates."""

    state: RoundState
    last: int
    without: frozenset[str]


def replay(
    entries: Callable[[], Iterable[LogEntry]],
    rules: MergeRules,
    *,
    start: RoundState | None = None,
    without: frozenset[str] = frozenset(),
    until: int | None = None,
    on_release: OnRelease | None = None,
    targets: Collection[int] = (),
    watched: Collection[int] = (),
    watch: Callable[[int, RoundState], None] | None = None,
    reading: Reading = lambda _: contextlib.nullcontext(),
    unreadable: Callable[[LogEntry, str], None] | None = None,
) -> RoundState:
    """The state after the log's entries, as if the updates `without` had never come.

    entries: gives the entries from `start` on, in order; called again where a withdrawal makes it necessary.
    rules: the merge's, with the configuration that is in force at `start`.
    start: the state before the first entry, by default version 0.
    without: ids of updates to leave out.
    until: the number of the last entry to replay, by default all.
    on_release: called with every version on the way.
    targets: the versions that are rolled back to.
    watched: numbers of entries after each of which `watch` is called with the state.
    reading: entered, with its name, around the decoding of an update.
    unreadable: told an update that cannot be read, and why; it is left out.
    Raises StoreError at an entry of an unknown kind, and at an update that cannot be read where nobody is told; where
    somebody is, `UnreadableBodyError` at one that was read before and waits: then the state before it cannot be kept.
    """
    run = _Replay(rules, start.copy() if start else rules.begin(), set(without), targets, reading, unreadable)

    def recompute(until: int | None) -> RoundState:
        told: dict[str, Any] = {"reading": reading, "unreadable": unreadable}
        without = frozenset(run.withdrawn)
        return replay(entries, rules, start=start, without=without, until=until, targets=targets, **told)

    for entry in entries():
        if until is not None and entry.number > until:
            break
        if run.stale and entry.kind in VERSION_KINDS:
            run.state, run.stale = recompute(entry.number - 1), False
        result = run.apply(entry)
        if result and on_release:
            on_release(run.state, result)
        if watch and entry.number in watched:
            if run.stale:
                run.state, run.stale = recompute(entry.number), False
            watch(entry.number, run.state)
    return recompute(until) if run.stale else run.state


def replay_log(
    log: Log,
    rules_at: Callable[[int], MergeRules],
    without: frozenset[str],
    until: int | None = None,
    **told: Any,
) -> RoundState:
    """The state that a log gives up to an entry, by default the last, from the newest checkpoint before on.

    rules_at: the rules after an entry. told: of an update that cannot be read, as `replay` says.
    """
    after = max((number for number in log.checkpoints() if until is None or number <= until), default=0)
    rules, targets = rules_at(after), rollback.targets(log.database)
    start = checkpoint.unpack(log.checkpoint(after), rules.layout) if after else None
    return replay(
        partial(log.entries, after), rules, start=start, without=without, until=until, targets=targets, **told
    )


def _unreadable(number: int, why: str) -> StoreError:
    says, remedy = f"entry {number} cannot be read: {why}", "serve it: the entry is set apart"
    return StoreError(says, where="log.db", remedy=remedy)


class _Replay:
    """One pass over the log. `stale`: the state holds an update that was withdrawn since."""

    def __init__(
        self,
        rules: MergeRules,
        state: RoundState,
        withdrawn: set[str],
        targets: Collection[int],
        reading: Reading,
        unreadable: Callable[[LogEntry, str], None] | None,
    ) -> None:
        self.rules, self.state, self.withdrawn, self.targets = rules, state, withdrawn, targets
        self.reading, self.unreadable = reading, unreadable
        state.sums.leave_out(withdrawn)
        self.merged, self.stale = {update.update_id for update in state.sums.waiting.values()}, False
        self.target_thetas = dict[int, np.ndarray]()  # float32 [P] by version
        self._remember_target()

    def apply(self, entry: LogEntry) -> ReleaseResult | None:
        """Change the state as an entry says; the result of one that makes a version."""
        if entry.kind in VERSION_KINDS:
            return self._make_version(entry)
        if entry.kind == "update":
            if entry.update_id not in self.withdrawn and entry.body:  # empty once it was released privately
                self._add_update(entry)
        elif entry.kind == "secure":
            total = secure_sum.unpack(entry.body, self.rules.layout) if entry.body else None
            if total and not self.withdrawn & total.header.updates.keys():  # one that is withdrawn takes it all out
                round_state.add_secure_sum(self.state, total)
                self.merged.update(total.header.updates)
        elif entry.kind == "configuration":
            self.rules = configuration_change.adopt(self.rules, self.state, configuration_change.unpack(entry.body))
        elif entry.kind == "withdraw":
            self.stale = self.stale or entry.update_id in self.merged
            self.withdrawn.add(entry.update_id)
        elif entry.kind == "unlearn":
            self._take_parts_out(entry)
        else:
            raise StoreError(f"holds an entry {entry.kind!r}", where="log.db", remedy="update homeroom")
        return None

    def _add_update(self, entry: LogEntry) -> None:
        try:
            with self.reading(f"entry {entry.number}"):
                update = read_update(entry.body, self.rules.configuration, self.rules.layout)
        except UpdateError as problem:
            if self.unreadable is None:
                raise _unreadable(entry.number, problem.what) from None
            self.withdrawn.add(entry.update_id)
            self.unreadable(entry, problem.what)
            return
        round_state.add_update(self.state, update, entry.version, self.rules, entry.device, entry.number)
        self.merged.add(entry.update_id)

    def _take_parts_out(self, entry: LogEntry) -> None:
        """Take out the parts of an update to be unlearned that still wait."""
        self.state.sums.leave_out({entry.update_id})
        parts = waiting_parts.unpack(entry.body)
        if parts is None or entry.update_id in self.withdrawn:
            return
        try:
            update = read_admitted(self.rules.body(parts.number), self.rules.layout)
        except UpdateError as problem:
            raise _unreadable(parts.number, problem.what) from None
        waiting_parts.take_out(self.state.sums, update, parts, entry.device)

    def _make_version(self, entry: LogEntry) -> ReleaseResult | None:
        if entry.kind == "carried" and not entry.body:  # history whose version is not kept, or comes once more later
            return None
        result = ReleaseResult({}, {}, lambda: None)
        if entry.kind == "restored":
            self.state.version = entry.version
        elif entry.kind in ("rewind", "carried"):
            self.state = checkpoint.unpack(entry.body, self.rules.layout)
        elif entry.kind == "rollback":
            target, theta = rollback.unpack(entry.body, len(self.state.theta))
            round_state.replace_theta(self.state, self.target_thetas.get(target, theta))
        else:
            try:
                result = round_state.release(self.state, self.rules, entry.body)
            except UnreadableBodyError as problem:
                if self.unreadable:
                    raise
                raise _unreadable(problem.number, problem.why) from None
        self._remember_target()
        return result

    def _remember_target(self) -> None:
        if self.state.version in self.targets:
            self.target_thetas[self.state.version] = self.state.theta
