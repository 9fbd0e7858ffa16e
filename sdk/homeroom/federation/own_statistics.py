"""What of this device's statistics may leave in plain rounds: whole rows, of enough samples and subjects.

The same holds of each change: what differs between two totals that leave is of LEAST_SUBJECTS subjects, or it waits. So
the device notes of each subject what is in the total that the aggregator has: a count and a digest for each number, no
sums, under a name that only this device can tell. What a task may not send yet, it sends with a later change.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import msgspec

from homeroom.contract.canonical_json import digest
from homeroom.contract.manifest import Task
from homeroom.contract.statistics.limits import (
    LEAST_MOMENT_SAMPLES,
    LEAST_SAMPLES,
    LEAST_SUBJECTS,
    moment_samples,
)
from homeroom.contract.statistics.messages import Support, supports
from homeroom.contract.statistics.pooling import NOT_SHARED, OTHERS, Pair, Pooling, pairs_of, plan, pool
from homeroom.contract.statistics.sums import NOTHING, Cell, CellKind, Statistics, merge

LEAST_WITH_REMOVAL = 5  # other subjects whose change travels with what is taken away

Key = tuple[str, str, str, str]  # task, row (MOMENTS of second moments), first and last block
NUMBER_KINDS: tuple[CellKind, ...] = ("number", "product")
GONE = "gone "  # how the name of a forgotten subject begins
MOMENTS = "\x01"  # in place of the row, of second moments: no row is called so


class Fingerprint(msgspec.Struct, frozen=True, array_like=True):
    """What a subject has in one row, or in second moments. count: of samples. digest: of the numbers."""

    task: str
    row: str
    first: str
    last: str
    count: int
    digest: str


Fingerprints = dict[str, tuple[Fingerprint, ...]]  # by the name that only this device can tell


@dataclass(frozen=True)
class OwnTotal:
    """What leaves: the sums and what the aggregator is told of their subjects.

    prints: of each subject in it; poolings: by task.
    """

    total: Statistics = NOTHING
    subjects: tuple[Support, ...] = ()
    prints: Fingerprints = field(default_factory=dict)
    poolings: Mapping[str, Pooling] = field(default_factory=dict)


def fingerprint(sums: Statistics, tasks: Iterable[Task]) -> tuple[Fingerprint, ...]:
    """What a subject has in each row and in the second moments of these tasks."""
    found = []
    for task in tasks:
        part = sums.of_task(task.name)
        for cell, values in part:
            if cell.kind == "count":
                first, last = cell.blocks
                found.append(Fingerprint(task.name, cell.row, first, last, int(values[0]), _digest(part, cell)))
        for pair in sorted(pairs_of(part, task.name)):
            if count := moment_samples(part, task, pair):
                moments = Cell(task.name, "moment", "", pair)
                found.append(Fingerprint(task.name, MOMENTS, *pair, count, _digest(part, moments)))
    return tuple(found)


def _digest(sums: Statistics, cell: Cell) -> str:
    """Of a row's numbers for a pair of blocks, or of second moments."""
    task, row, blocks = cell.task, cell.row, cell.blocks
    names = [cell]
    if cell.kind == "count":
        names += [Cell(task, "vector", row, (block,)) for block in blocks]
        names += [Cell(task, kind, "", (block,)) for kind in NUMBER_KINDS for block in blocks]
    values = (sums.cells.get(name) for name in names)
    return digest(b"".join(one.astype("<i8").tobytes() for one in values if one is not None))[:16]


def own_total(
    tasks: Mapping[str, Task], sums: Mapping[str, Statistics], sample_limit: int
) -> tuple[OwnTotal, dict[str, str]]:
    """What all samples of this device may send, and by task why it sends nothing of it.

    tasks: that may be shared. sums: of each subject, by the name that only this device can tell.
    """
    whole = merge(sums.values())
    prints = {name: fingerprint(one, tasks.values()) for name, one in sums.items()}
    counts = _counts(prints)
    poolings, held = dict[str, Pooling](), dict[str, str]()
    for name, task in sorted(tasks.items()):
        judge = _SubjectJudge(name, counts)
        sizes = {row: max(whole.count(name, row, *pair) for pair in pairs_of(whole, name)) for row in whole.rows(name)}
        if sum(sizes.values()) > sample_limit:
            held[name] = f"more than {sample_limit:,} samples"
            continue
        pooling = plan(task.kind, sizes, pairs_of(whole, name), judge)
        if pooling is not NOT_SHARED:
            poolings[name] = pooling
        elif sizes:
            held[name] = (
                f"it needs {LEAST_MOMENT_SAMPLES} samples, and {LEAST_SAMPLES} of {LEAST_SUBJECTS} subjects in each row"
            )
    return OwnTotal(pool(whole, poolings), subjects_of(prints, poolings), prints, poolings), held


def subjects_of(prints: Fingerprints, poolings: Mapping[str, Pooling]) -> tuple[Support, ...]:
    """How many subjects are in each row that leaves, and in the second moments."""
    who: dict[Key, set[str]] = defaultdict(set)
    for name, fingerprints in prints.items():
        for one in fingerprints:
            if key := _shared_key(one, poolings):
                task, row, first, last = key
                who[task, "" if row == MOMENTS else row, first, last].add(name)
    return supports({key: len(names) for key, names in who.items()})


def _shared_key(one: Fingerprint, poolings: Mapping[str, Pooling]) -> Key | None:
    """Where these samples are counted in what leaves; None where they do not leave."""
    if one.task not in poolings:
        return None
    kind: CellKind = "moment" if one.row == MOMENTS else "count"
    row = "" if one.row == MOMENTS else one.row
    cell = poolings[one.task].cell(Cell(one.task, kind, row, (one.first, one.last)))
    return None if cell is None else (one.task, MOMENTS if one.row == MOMENTS else cell.row, one.first, one.last)


def _counts(prints: Fingerprints) -> dict[Key, Counter[str]]:
    """Samples by subject, of each row and of second moments."""
    counts = defaultdict[Key, Counter[str]](Counter)
    for name, fingerprints in prints.items():
        for one in fingerprints:
            counts[one.task, one.row, one.first, one.last][name] += one.count
    return counts


@dataclass(frozen=True)
class _SubjectJudge:
    """`pooling.Judge` of one task, by the samples of this device's subjects."""

    task: str
    counts: Mapping[Key, Counter[str]]

    def pair(self, pair: Pair) -> bool:
        return self._enough({MOMENTS}, pair, LEAST_MOMENT_SAMPLES, needed=True)

    def single(self, row: str, pairs: frozenset[Pair]) -> bool:
        return self.together(frozenset({row}), pairs)

    def together(self, rows: frozenset[str], pairs: frozenset[Pair]) -> bool:
        any_pair = any(self._enough(rows, pair, LEAST_SAMPLES, needed=True) for pair in pairs)
        return any_pair and all(self._enough(rows, pair, LEAST_SAMPLES, needed=False) for pair in pairs)

    def _enough(self, rows: Iterable[str], pair: Pair, least: int, *, needed: bool) -> bool:
        parts = [self.counts[key] for row in rows if (key := (self.task, row, *pair)) in self.counts]
        samples, subjects = sum(part.total() for part in parts), len(set().union(*parts))
        return (not samples and not needed) or (samples >= least and subjects >= LEAST_SUBJECTS)


def held_tasks(before: OwnTotal, after: OwnTotal, *, late: bool) -> dict[str, str]:
    """The tasks whose change must wait, and why.

    before: what the aggregator has. late: what is taken away waits no longer.
    """
    held: dict[str, str] = {}
    for task in sorted({cell.task for cell in (*before.total.cells, *after.total.cells)}):
        if before.total.of_task(task) == after.total.of_task(task):
            continue
        involved = _involved(before, after, task)
        others = {name for names in involved.values() for name in names if not name.startswith(GONE)}
        removes = takes_away(before, after, task)
        if late and removes:
            continue
        if removes and len(others) < LEAST_WITH_REMOVAL:
            held[task] = (
                f"what is taken away goes with changes of {LEAST_WITH_REMOVAL} other subjects, or after a while"
            )
            continue
        for key, names in sorted(involved.items()):
            least = LEAST_MOMENT_SAMPLES if key[1] == MOMENTS else LEAST_SAMPLES
            if len(names) < LEAST_SUBJECTS or sum(names.values()) < least:
                what = "it" if key[1] in ("", OTHERS, MOMENTS) else key[1]
                held[task] = f"too little of {what} changed: it goes with {least} samples of {LEAST_SUBJECTS} subjects"
    return held


def _involved(before: OwnTotal, after: OwnTotal, task: str) -> dict[Key, dict[str, int]]:
    """By number that leaves, the subjects whose part in it is another, and how many samples differ at least."""
    old, new = _parts(before, task), _parts(after, task)
    found: dict[Key, dict[str, int]] = defaultdict(dict)
    for key in old.keys() | new.keys():
        was, is_now = old.get(key, {}), new.get(key, {})
        for name in was.keys() | is_now.keys():
            first, last = was.get(name, ()), is_now.get(name, ())
            if set(first) != set(last):
                found[key][name] = max(1, abs(sum(one.count for one in last) - sum(one.count for one in first)))
    return found


def _parts(own: OwnTotal, task: str) -> dict[Key, dict[str, list[Fingerprint]]]:
    parts: dict[Key, dict[str, list[Fingerprint]]] = defaultdict(lambda: defaultdict(list))
    for name, fingerprints in own.prints.items():
        for one in fingerprints:
            if one.task == task and (key := _shared_key(one, own.poolings)):
                parts[key][name].append(one)
    return parts


def takes_away(before: OwnTotal, after: OwnTotal, task: str) -> bool:
    """Whether something that the aggregator has of a subject in a task was removed here."""
    for name, fingerprints in before.prints.items():
        counts = {(one.task, one.row, one.first, one.last): one.count for one in after.prints.get(name, ())}
        for one in fingerprints:
            if one.task == task and counts.get((one.task, one.row, one.first, one.last), 0) < one.count:
                return True
    return False


def keep_tasks(before: OwnTotal, after: OwnTotal, held: Iterable[str]) -> OwnTotal:
    """`after`, with the tasks that wait as they are in `before`."""
    tasks = frozenset(held)
    cells = {cell: values for cell, values in after.total.cells.items() if cell.task not in tasks}
    cells |= {cell: values for cell, values in before.total.cells.items() if cell.task in tasks}
    subjects = [s for s in after.subjects if s.task not in tasks] + [s for s in before.subjects if s.task in tasks]
    prints = {
        name: tuple(one for one in after.prints.get(name, ()) if one.task not in tasks)
        + tuple(one for one in before.prints.get(name, ()) if one.task in tasks)
        for name in {*after.prints, *before.prints}
    }
    poolings = {task: p for task, p in after.poolings.items() if task not in tasks}
    poolings |= {task: p for task, p in before.poolings.items() if task in tasks}
    ordered = tuple(sorted(subjects, key=msgspec.structs.astuple))
    return OwnTotal(Statistics(cells), ordered, {n: p for n, p in prints.items() if p}, poolings)
