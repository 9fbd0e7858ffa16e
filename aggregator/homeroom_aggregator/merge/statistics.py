"""Statistics: takes each device's change of its total in plain rounds, and releases the sum of all, row by row.

A number is released where k schools and enough subjects fed it (`contract.statistics.pooling`), and where since it was
last released none or at least k schools changed it. So neither a release nor the difference of two that follow each
other shows fewer than k schools in any number. When it does not hold: what devices say of their subjects is believed;
where schools label different tasks of the same samples, numbers of two tasks taken together may show fewer; three
releases together may, where changes are taken back or rows without a name get others beside them; and whoever has two
devices in two schools counts as two. Sums of secure rounds (`merge.secure_statistics`) are released by the same rules.
"""

from __future__ import annotations

import datetime
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from homeroom.contract.canonical_json import digest
from homeroom.contract.manifest import Manifest
from homeroom.contract.round import StatisticsRules
from homeroom.contract.signing import Certificate
from homeroom.contract.statistics.limits import check_release, check_shared
from homeroom.contract.statistics.messages import (
    ChangeHeader,
    StatisticsStatus,
    digest_of,
    make_release,
)
from homeroom.contract.statistics.pooling import Pair, pairs_of, plan, pool
from homeroom.contract.statistics.sums import NOTHING, Cell, Statistics, add, difference
from homeroom.contract.update import REFUSALS
from homeroom.errors import UpdateError
from homeroom_aggregator.merge import secure_statistics
from homeroom_aggregator.state import audit, statistics_totals
from homeroom_aggregator.state.log import Log
from homeroom_aggregator.state.members import Members
from homeroom_aggregator.state.statistics_totals import (
    Mark,
    MarkKind,
    Poolings,
    SecureTotal,
    StatisticsTotals,
    StoredRelease,
    StoredTotal,
)

ZERO = np.zeros(1, np.int64)
SEND_ALL = "sync again: the device then sends its whole total"


@dataclass(frozen=True)
class Signer:
    """Signs releases. bundle_id, manifest: of the bundle that is served."""

    key: Ed25519PrivateKey
    certificate: Certificate
    bundle_id: str
    manifest: Manifest


class SharedStatistics:
    """The statistics of one log. Every method that changes something is part of the caller's step."""

    def __init__(self, log: Log, members: Members, signer: Signer) -> None:
        self.log, self.members, self.signer = log, members, signer
        statistics_totals.prepare(log.database)
        self.totals = StatisticsTotals(log.database)
        self._waits: str | None = None  # unknown: something changed since it was looked at
        self._late: datetime.datetime | None = None  # when it must be looked at again

    def take(
        self,
        header: ChangeHeader,
        change: Statistics,
        sender: str,
        member: str,
        rules: StatisticsRules,
        now: datetime.datetime,
    ) -> tuple[int, Literal["accepted", "already"]]:
        """Takes a device's change; its sequence number, and what became of it. UpdateError where it is refused.

        sender: the key that the request is signed with. member: whose that is.
        """
        if rules.mode != "plain":
            raise UpdateError(REFUSALS["no_statistics"], code="no_statistics", remedy="sync again")
        if header.device != sender and header.device not in self.members.names(sender):
            raise UpdateError("it is signed by another device than the one that sends it", code="bad_signature")
        known = self.totals.find(member)
        if known and (header.sequence, header.total) == (known.sequence, known.digest):
            return known.sequence, "already"
        before = self.totals.total(member)
        total = self._changed(header, change, known, before)
        check_shared(total, header.subjects, self.signer.manifest, rules.sample_limit)
        included = known.included if known else 0
        stored = StoredTotal(member, header.sequence, header.total, included, header.subjects)
        fewer = any(cell.kind == "count" and total.cells.get(cell, ZERO)[0] < count[0] for cell, count in before)
        self._replace(member, before, total, stored, now, away=fewer or header.takes_away)
        self.look(rules, now)
        return header.sequence, "accepted"

    def _changed(
        self, header: ChangeHeader, change: Statistics, known: StoredTotal | None, before: Statistics
    ) -> Statistics:
        """The total after a change; UpdateError where it does not go on from the one that is here."""
        last = known.sequence if known else 0
        base = known.digest if known else None
        if header.base and (header.base != base or header.sequence != last + 1):
            raise UpdateError(REFUSALS["unknown_base"], code="unknown_base", remedy=SEND_ALL)
        if header.sequence <= last:
            what = f"change {header.sequence} is not newer than {last}, which is here"
            raise UpdateError(what, code="unknown_base", remedy=SEND_ALL)
        total = add(before, change) if header.base else change
        if digest_of(total) != header.total:
            raise UpdateError("it does not lead to the total that it names", code="malformed", remedy=SEND_ALL)
        return total

    def _replace(
        self,
        member: str,
        before: Statistics,
        total: Statistics,
        stored: StoredTotal | None,
        now: datetime.datetime,
        *,
        away: bool,
    ) -> None:
        self._waits = None
        self.totals.put_sum(add(self.totals.sum(), difference(total, before)))
        self.totals.mark(member, before, total, now.isoformat(), away=away)
        if stored is None:
            self.totals.remove(member)
            audit.record(self.log.database, "statistics taken out", device=member)
        else:
            self.totals.put(stored, total)
            about = {"device": member, "sequence": stored.sequence, "sha256": stored.digest}
            audit.record(self.log.database, "statistics", **about)

    def take_out(self, gone: Iterable[str], rules: StatisticsRules, now: datetime.datetime) -> bool:
        """Erases the totals of members who left; whether there were any."""
        if self.totals.secure().filled:  # a part of a sum: a new total takes it out
            return False
        left = [member for member in sorted(gone) if self.totals.find(member)]
        for member in left:
            self._replace(member, self.totals.total(member), NOTHING, None, now, away=True)
        if left:
            self.look(rules, now)
        return bool(left)

    def take_out_all(self, rules: StatisticsRules, now: datetime.datetime, *, above: int = 0) -> None:
        """Erases every total, which its device sends anew where it may, and what is served.

        After a restore a total may hold what was taken away since. above: the next release has a higher number.
        """
        if rules.mode == "secure" or self.totals.secure().filled:  # devices may know of sums that are lost here
            self.begin_total(now, above)
        self.take_out([total.member for total in self.totals.each()], rules, now)
        self.totals.stop_serving()
        self.totals.number_at_least(above)

    def follow(self, rules: StatisticsRules, now: datetime.datetime) -> bool:
        """Goes by other rules from now on; whether totals were erased, as where statistics are off."""
        self.look_again()
        kind = "secure" if self.totals.secure().filled else "plain"
        if rules.mode == kind or not any(self.totals.each()):
            return False
        self.take_out_all(rules, now)
        return True

    def begin_total(self, now: datetime.datetime, above: int = 0) -> None:
        """Begins a new total of secure rounds, to which every device sends its whole sums. above: its number is."""
        self.look_again()
        secure_statistics.begin_total(self.totals, self.signer.manifest, now.isoformat(), above)

    def look_again(self) -> None:
        """Lets the next look compute what may be released anew, since the rules or the tables are others."""
        self._waits = None

    # Releases

    def look(self, rules: StatisticsRules, now: datetime.datetime) -> str:
        """Releases what may be released; why nothing is, in words, or empty.

        A release waits while it would serve less by name than the one before, for `within_days` at most. Where by then
        something was taken away, and it cannot be released, nothing is served until it can.
        """
        if rules.mode == "off":
            return ""
        if self._waits is None or (self._late is not None and now >= self._late):
            self._waits = self._look(rules, now)
        return self._waits

    def _look(self, rules: StatisticsRules, now: datetime.datetime) -> str:
        self._late = None
        last, total = self.totals.release(), self.totals.sum()
        if why := self._impossible(rules, total):
            return why
        judges = self._judges(rules, last.poolings)
        poolings = judges.poolings(total)
        changed = judges.changed(poolings)
        overdue = self._is_late(judges.oldest(away=False), rules, now)
        less = "" if overdue else _less(last.poolings, poolings)
        if changed and poolings and not less:
            self._release(last.number + 1, rules, total, poolings)
            return ""
        if not judges.changed(last.poolings) and (last.poolings or not total.cells):
            return ""
        if self._is_late(judges.oldest(away=True), rules, now) and self.totals.stop_serving():
            audit.record(self.log.database, "statistics not served", release=last.number)
        who = f"{rules.k} {rules.k_of}"
        if less:
            return f"{less}, since fewer than {who} changed it: it waits for more, or {rules.within_days} days"
        return f"it needs {who} with a change, and rows of {who} and {rules.subjects} subjects"

    def _impossible(self, rules: StatisticsRules, total: Statistics) -> str:
        """Why the sum of secure rounds, whose parts nobody can check, is no samples' sums; empty where it may be."""
        if rules.mode != "secure":
            return ""
        why = self.totals.secure().wrong
        try:
            check_release(total, self.signer.manifest)
        except UpdateError as problem:
            why = why or str(problem)
        return f"a device sent sums that no samples have ({why}): `homeroom district new-total`" if why else ""

    def _is_late(self, since: str | None, rules: StatisticsRules, now: datetime.datetime) -> bool:
        """Whether something has waited for `within_days`; else notes when it will have."""
        if since is None:
            return False
        end = datetime.datetime.fromisoformat(since) + datetime.timedelta(days=rules.within_days)
        if now < end:
            self._late = min(end, self._late or end)
        return now >= end

    def _release(self, number: int, rules: StatisticsRules, total: Statistics, poolings: Poolings) -> None:
        signer, shared = self.signer, pool(total, poolings)
        body = make_release(signer.key, signer.certificate, signer.bundle_id, number, rules.k, shared)
        marked = {mark.cell for mark in self.totals.marks() if mark.cell.task in poolings}
        found = {cell: poolings[cell.task].cell(cell) for cell in marked}
        shown = {cell: where == cell for cell, where in found.items() if where is not None}
        self.totals.put_release(StoredRelease(number, poolings, body), shown)
        if rules.mode == "secure":
            self.totals.put_secure(msgspec.structs.replace(self.totals.secure(), fresh=False))
        rows = sum(len(pooling.named) for pooling in poolings.values())
        audit.record(self.log.database, "statistics released", release=number, rows=rows, sha256=digest(body))

    def _judges(self, rules: StatisticsRules, last: Poolings) -> Judges:
        totals, marks = list(self.totals.each()), list(self.totals.marks())
        members = {total.member for total in totals} | {mark.member for mark in marks}
        unit = {member: self._unit(rules, member) for member in members}
        kinds = {task.name: task.kind for task in self.signer.manifest.tasks}
        summed = self.totals.secure() if rules.mode == "secure" else None
        return Judges(rules, kinds, totals, marks, unit, last, summed)

    def _unit(self, rules: StatisticsRules, member: str) -> str:
        """What counts as one: a school, or a device without one."""
        school = self.members.school(member) if rules.k_of == "schools" else ""
        return f"school {school}" if school else f"device {member}"

    def status(self, member: str, rules: StatisticsRules, now: datetime.datetime) -> StatisticsStatus:
        """What is here of a member, and what is served."""
        waits, known, release = self._waits_of(rules, now), self.totals.find(member), self.totals.release()
        return StatisticsStatus(
            sequence=known.sequence if known else 0,
            total=known.digest if known else "",
            included=known.included if known and release.body else 0,
            waits=waits,
            release=release.number if release.body else 0,
            size=len(release.body),
            sha256=digest(release.body) if release.body else "",
        )

    def _waits_of(self, rules: StatisticsRules, now: datetime.datetime) -> str:
        """As `look`; of secure rounds also how many who left are still in the sum."""
        waits = self.look(rules, now)
        left = sum(total.member in self.members.gone() for total in self.totals.each()) if rules.mode == "secure" else 0
        if not left:
            return waits
        still = f"{left} {'device that left is' if left == 1 else 'devices that left are'} still in the sum"
        return "; ".join(filter(None, (waits, f"{still}: `homeroom district new-total`")))

    def differs(self) -> str:
        """What in the tables does not follow from the totals; empty where all does."""
        if self.totals.secure().filled or self.totals.computed_sum() == self.totals.sum():
            return ""
        return "the sum of statistics"


class Judges:
    """What the totals that are here allow to be released, by task."""

    def __init__(
        self,
        rules: StatisticsRules,
        kinds: dict[str, str],
        totals: list[StoredTotal],
        marks: list[Mark],
        unit: dict[str, str],
        last: Poolings,
        summed: SecureTotal | None,
    ) -> None:
        """summed: where the members' own totals are not known. Other arguments: as in `SharedStatistics`."""
        self.rules, self.kinds, self.last, self._marks, self._unit = rules, kinds, last, marks, unit
        self._changed: dict[tuple[MarkKind, Cell], set[str]] = defaultdict(set)
        for mark in marks:
            self._changed[mark.kind, mark.cell].add(unit[mark.member])
        self._cells: dict[tuple[str, str], set[Cell]] = defaultdict(set)  # with a mark, by task and row
        for _, cell in self._changed:
            self._cells[cell.task, cell.row].add(cell)
        self._fed: dict[tuple[str, str, Pair], list[tuple[str, str, int]]] = defaultdict(list)
        self._fresh = summed is not None and summed.fresh
        self._subjects: dict[tuple[str, str, Pair], int] | None = None
        if summed is not None:
            self._subjects = {(s.task, s.row, (s.first, s.last)): s.subjects for s in summed.subjects}
        for total in totals:
            for s in total.subjects:
                self._fed[s.task, s.row, (s.first, s.last)].append((total.member, unit[total.member], s.subjects))

    def changed(self, poolings: Poolings) -> set[str]:
        """Who changed something of what is shared by these, since it was last released."""
        return {self._unit[mark.member] for mark in self._shared(poolings)}

    def oldest(self, *, away: bool) -> str | None:
        """Since when something that is served has changed; None where nothing has. away: by taking away."""
        since = [mark.away if away else mark.since for mark in self._shared(self.last)]
        return min((moment for moment in since if moment), default=None)

    def _shared(self, poolings: Poolings) -> Iterator[Mark]:
        for mark in self._marks:
            pooling = poolings.get(mark.cell.task)
            if mark.kind == "released" and pooling and _pair(mark.cell) in pooling.pairs:
                yield mark

    def poolings(self, total: Statistics) -> Poolings:
        """What of the sum of all totals may be released, by task; tasks of which nothing may are left out."""
        found = {}
        for task in sorted({cell.task for cell in total.cells}):
            sizes: dict[str, int] = defaultdict(int)
            pairs = pairs_of(total, task)
            for row in total.rows(task):
                sizes[row] = max(total.count(task, row, *pair) for pair in pairs)
            found[task] = plan(self.kinds[task], sizes, pairs, _TaskJudge(self, task))
        return {task: pooling for task, pooling in found.items() if pooling.named}

    def enough(self, task: str, rows: Iterable[str], pair: Pair, *, needed: bool) -> bool:
        """Whether k units and enough subjects fed these rows together for a pair of blocks, or, unless needed, none."""
        subjects: dict[str, int] = defaultdict(int)
        units = set()
        for row in rows:
            for member, unit, number in self._fed.get((task, row, pair), ()):
                subjects[member] = max(subjects[member], number)  # of several rows at least so many
                units.add(unit)
        if not units and not needed:
            return True
        number = sum(subjects.values())
        if self._subjects is not None:  # of several rows at least as many as of one
            number = max((self._subjects.get((task, row, pair), 0) for row in rows), default=0)
        return len(units) >= self.rules.k and number >= self.rules.subjects

    def unseen(self, units: set[str]) -> bool:
        """Whether a change by these units may be shown: by none, or by at least k.

        After a new total of secure rounds nobody knows that none changed.
        """
        return (not units and not self._fresh) or len(units) >= self.rules.k

    def row_unseen(self, task: str, row: str, pairs: frozenset[Pair]) -> bool:
        """Whether each number of a row may be shown after it was last shown under its name."""
        cells = [cell for cell in self._cells.get((task, row), ()) if _pair(cell) in pairs]
        return all(self.unseen(self._changed.get(("named", cell), set())) for cell in cells)

    def pair_unseen(self, task: str, pair: Pair) -> bool:
        """Whether the second moments of a pair of blocks may be shown after they were last."""
        return self.unseen(self._changed.get(("named", Cell(task, "moment", "", pair)), set()))

    def pool_unseen(self, task: str, rows: Iterable[str], pairs: frozenset[Pair]) -> bool:
        """Whether the sum of some rows may be shown after what was shown last, those that had no name then included.

        And after each was shown by its name: where those without a name get one, the others' sum is compared with that.
        """
        rows, named = frozenset(rows), self.last[task].named if task in self.last else frozenset()
        nameless = {row for of_task, row in self._cells if of_task == task and row not in named}
        unseen = self._sum_unseen("released", task, rows | nameless, pairs)
        return unseen and self._sum_unseen("named", task, rows, pairs)

    def _sum_unseen(self, kind: MarkKind, task: str, rows: Iterable[str], pairs: frozenset[Pair]) -> bool:
        units: dict[tuple[str, tuple[str, ...]], set[str]] = defaultdict(set)
        for cell in (cell for row in rows for cell in self._cells.get((task, row), ())):
            if cell.kind != "moment" and _pair(cell) in pairs:
                units[cell.kind, cell.blocks] |= self._changed.get((kind, cell), set())
        return all(map(self.unseen, units.values()))


@dataclass(frozen=True)
class _TaskJudge:
    """`pooling.Judge` of one task."""

    judges: Judges
    task: str

    def pair(self, pair: Pair) -> bool:
        return self.judges.enough(self.task, ("",), pair, needed=True) and self.judges.pair_unseen(self.task, pair)

    def single(self, row: str, pairs: frozenset[Pair]) -> bool:
        judges, last = self.judges, self.judges.last.get(self.task)
        shown = judges.row_unseen(self.task, row, pairs)
        if last is None or row not in last.named:
            shown = shown and judges.pool_unseen(self.task, (), pairs)
        return shown and self._fed((row,), pairs)

    def together(self, rows: frozenset[str], pairs: frozenset[Pair]) -> bool:
        return self.judges.pool_unseen(self.task, rows, pairs) and self._fed(rows, pairs)

    def _fed(self, rows: Iterable[str], pairs: frozenset[Pair]) -> bool:
        rows = tuple(rows)
        fed = any(self.judges.enough(self.task, rows, pair, needed=True) for pair in pairs)
        return fed and all(self.judges.enough(self.task, rows, pair, needed=False) for pair in pairs)


def _pair(cell: Cell) -> Pair:
    return cell.blocks[0], cell.blocks[-1]


def _less(before: Poolings, after: Poolings) -> str:
    """What was shared before and would not be now, in words; empty where there is none."""
    for task, old in sorted(before.items()):
        new = after.get(task)
        if new is None or old.pairs - new.pairs:
            return f"{task} would be shared less than now"
        if gone := sorted(old.named - new.named):
            return f"{task}: {gone[0] or 'it'} would lose its name"
    return ""
