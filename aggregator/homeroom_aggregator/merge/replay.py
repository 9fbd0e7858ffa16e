"""From the log to sums and theta, bit for bit; imports merge, private, rollback and log.

A withdrawn update is left out as if it had never come: what waits is recomputed at once, and the next release starts
from a theta recomputed without it. That version differs from the last one by more than the withdrawn update, so nobody
can read it off the difference. What other devices learned from a version that held it is not undone. A private release
is replayed from its sums after noise, whatever is withdrawn later: what it says of one update is bounded by its noise.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from homeroom.contract.update import read_update
from homeroom.errors import StoreError
from homeroom_aggregator.merge import rollback
from homeroom_aggregator.merge.round_state import Made, Released, Rules, State, admit, admit_sum, go_back, release
from homeroom_aggregator.state import secure_sum as sums
from homeroom_aggregator.state.log import Entry


def replay(
    entries: Callable[[], Iterable[Entry]],
    rules: Rules,
    *,
    start: State | None = None,
    without: frozenset[str] = frozenset(),
    until: int | None = None,
    released: Released | None = None,
    targets: Collection[int] = (),
    watched: Collection[int] = (),
    watch: Callable[[int, State], None] | None = None,
) -> State:
    """The state after all entries, or those up to number `until`, as if the updates `without` had never come.

    start: the state before the first entry, by default version 0. `released` is told every version on the way, `watch`
    the state after each of the entries `watched`. targets: the versions that are gone back to.
    """
    state = start.copy() if start else rules.begin()
    gone, merged, stale = set(without), set[str](), False
    passed = {state.version: state.theta} if state.version in targets else {}

    def again(until: int | None) -> State:
        return replay(entries, rules, start=start, without=frozenset(gone), until=until, targets=targets)

    for entry in entries():
        if until is not None and entry.number > until:
            break
        if entry.kind == "withdraw":
            stale = stale or entry.update_id in merged
            gone.add(entry.update_id)
        elif entry.kind in ("release", "private_release", "rollback", "restored"):
            if stale:
                state, stale = again(entry.number - 1), False
            made = Made({}, {}, lambda: None)
            if entry.kind == "restored":
                state.version = entry.version
            elif entry.kind == "rollback":
                to, theta = rollback.unpack(entry.body, len(state.theta))
                go_back(state, passed.get(to, theta))
            else:
                made = release(state, rules, entry.body)
            if state.version in targets:
                passed[state.version] = state.theta
            if released:
                released(state, made)
        elif entry.kind == "update":
            if entry.update_id not in gone and entry.body:  # none is left of what was released privately
                update = read_update(entry.body, rules.configuration, rules.layout)
                admit(state, update, entry.version, rules, entry.device)
                merged.add(entry.update_id)
        elif entry.kind == "secure":
            found = sums.unpack(entry.body, rules.layout)
            if not gone & found.header.updates.keys():  # one that is unlearned takes the sum along that hides it
                admit_sum(state, found)
                merged.update(found.header.updates)
        else:
            raise StoreError(f"holds an entry {entry.kind!r}", where="log.db", remedy="update homeroom")
        if watch and entry.number in watched:
            if stale:
                state, stale = again(entry.number), False
            watch(entry.number, state)
    return again(until) if stale else state
