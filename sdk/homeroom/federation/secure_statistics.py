"""Statistics of this device in secure rounds: offers the change of its total, and notes which of it is in the sum.

The aggregator never has this device's total, so it cannot be replaced: a device that does not know what the sum holds
of it (restored from an older copy, or cloned) waits for a new total, to which every device sends its whole sums.

A round that too few devices open in time ends without a sum; what was offered to it goes into the next one. When it
does not hold: an aggregator that opened such a sum in secret, and asks again without one device, learns that one's
change by subtraction; so it does by two totals, one after another.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path

import msgspec
import numpy as np

from homeroom.contract.statistics.encoding import encode, read
from homeroom.contract.statistics.messages import Support
from homeroom.contract.statistics.pooling import Pooling, pool
from homeroom.contract.statistics.secure import StatisticsSegment, StatisticsTerms
from homeroom.contract.statistics.sums import NOTHING, Statistics, merge
from homeroom.errors import TrustError, UpdateError
from homeroom.federation import statistics
from homeroom.federation.own_statistics import Fingerprints, fingerprint, subjects_of
from homeroom.federation.policy import local_layout
from homeroom.federation.secure_round import (
    Announcement,
    RoundRecords,
    SecureRoundContext,
    drop_state,
    load_state,
    offered_id,
    take_part,
)
from homeroom.federation.statistics import StatisticsReport, StatisticsText
from homeroom.privacy.secagg.client import ClientState, CohortView
from homeroom.privacy.secagg.encoding import SumLayout
from homeroom.privacy.secagg.statistics_shape import HOLDS, StatisticsShape, encode_statistics
from homeroom.store import Store
from homeroom.store.device_state import msgpack_record, text_record
from homeroom.train.solve.vectors.samples import sums_id

OFFERED, LEFT_ROUND = text_record("secure.statistics_offered"), text_record("secure.statistics_left")
CLIENT = msgpack_record("secure.statistics.", ClientState)
RECORDS = RoundRecords(OFFERED, LEFT_ROUND, CLIENT)


class SummedTotal(msgspec.Struct, frozen=True, kw_only=True):
    """What is in the sum of this device.

    place: the aggregator and the bundle. number: of the total that the sum goes into.
    sequence: of the newest sum with a change of this device. offered: its id.
    names: of the subjects in it, which only this device can tell.
    waits_since: the day since when somebody who was forgotten here waits to be taken away.
    left_out: tasks whose change was not in that sum.
    nameless: tasks and rows of this device that the total has under no name of their own.
    """

    place: str
    number: int
    sequence: int
    offered: str
    sums_id: str
    sums: bytes
    subjects: tuple[Support, ...]
    names: frozenset[str]
    salt: bytes
    waits_since: str = ""
    left_out: tuple[str, ...] = ()
    nameless: tuple[tuple[str, str], ...] = ()


class OfferedTotal(msgspec.Struct, frozen=True, kw_only=True):
    """A total whose change is offered to a round. whole, prints: before rows are added up; empty once it is masked.

    masked: whether `after` is what is in the sum of this device if the round succeeds; older releases did not note it.
    signed: whether this device agreed to the survivors.
    """

    round_id: str
    after: SummedTotal
    whole: bytes
    prints: Fingerprints
    masked: bool = True
    signed: bool = False


SUMMED = msgpack_record("identity.statistics_summed", SummedTotal)
OFFER = msgpack_record("identity.statistics_offer", OfferedTotal)

BEHIND = (
    "what the sum holds of this device is not known here (it was restored or copied): "
    "it waits for a new total, `homeroom district new-total` on the server"
)
NOT_OPENED = "the round that this device had agreed to ended without a sum: its change goes into the next one"
NAMELESS = (
    "{} in the sum's row without a name, since too few schools taught that when the total began: once more do, "
    "`homeroom district new-total` on the server gives it one"
)
MOST_ROWS_NAMED = 6  # in a sentence
LEFT_OUT = "too few devices changed the same rows in the newest round: it goes with a later one"


class StatisticsContribution:
    """The change of this device's total, as a `Contribution`."""

    path = "/v1/secure-statistics"
    records, nothing = RECORDS, "nothing to contribute yet"

    def __init__(self, context: SecureRoundContext, *, allowed: bool) -> None:
        """allowed: else what is in the sum is taken out again."""
        self.store, self.bundle, self.configuration = context.store, context.bundle, context.configuration
        self.place = f"{context.root} {context.client.enrolment.institution} {context.bundle.bundle_id}"
        self.allowed, self.device = allowed, context.key.public_key().public_bytes_raw()
        self.held: dict[str, str] = {}
        self.joined = False
        self.not_opened = False  # a round that this device had agreed to ended without a sum
        self._made: OfferedTotal | None = None

    def shape(self, announced: Announcement) -> StatisticsShape:
        """The changes that the round sums."""
        if announced.terms is None:
            raise TrustError("announces no terms of statistics", where="secure round")
        shape = StatisticsShape(self.bundle.manifest, self.configuration, announced.terms)
        if shape.rules_id != announced.notice.configuration_id:  # else devices could be told different ones
            raise TrustError("the notice is for other terms of statistics than those shown", where="secure round")
        return shape

    def offer(self, announced: Announcement) -> tuple[str, AbstractSet[str]] | None:
        """What changed since the newest sum; None where nothing did, or this device does not know what is in it."""
        shape = self.shape(announced)
        known = self._known(announced, shape.terms)
        if known is None or OFFER.exists(self.store):
            return None
        whole, prints, names = self._own_sums(known.salt)
        after = pool_settled(whole, shape.terms.poolings)
        before = read(known.sums)
        changed = shape.segments.changed(shape.open_segments, before, after)
        if not changed:
            return None
        holds = {HOLDS + name for name in shape.segments.changed(shape.open_segments, NOTHING, after)}
        offered = secrets.token_hex(16)
        self._made = OfferedTotal(
            round_id=announced.notice.round_id,
            after=msgspec.structs.replace(
                known, sequence=shape.terms.sums + 1, offered=offered, names=names, waits_since=""
            ),
            whole=encode(whole),
            prints=prints,
            masked=False,
        )
        return offered, changed | holds

    def _known(self, announced: Announcement, terms: StatisticsTerms) -> SummedTotal | None:
        """What is in the sum of this device; None where that is not known here."""
        summed, known = announced.status.summed, SUMMED.read(self.store)
        here = known is not None and (known.place, known.number) == (self.place, terms.total)
        if summed != ((known.offered,) if known and here else ()):
            self.held[""] = BEHIND
            return None
        if known is not None and here:
            return known
        salt, meaning = secrets.token_bytes(16), sums_id(self.bundle.manifest)
        return SummedTotal(
            place=self.place,
            number=terms.total,
            sequence=0,
            offered="",
            sums_id=meaning,
            sums=encode(NOTHING),
            subjects=(),
            names=frozenset(),
            salt=salt,
        )

    def _own_sums(self, salt: bytes) -> tuple[Statistics, Fingerprints, frozenset[str]]:
        """The sums of this device that may leave, what each subject has in them, and the subjects' names."""
        manifest, local = self.bundle.manifest, local_layout(self.store, self.bundle.manifest.layout)
        tasks = statistics.shared_tasks(manifest, local, self.configuration) if self.allowed else {}
        sums = dict(self.store.each_subjects_sums(sums_id(self.bundle.manifest))) if tasks else {}
        whole, limit = merge(sums.values()), self.configuration.statistics.sample_limit
        for name in sorted(tasks):
            pairs = {cell.blocks for cell in whole.of_task(name).cells if cell.kind == "count"}
            rows = whole.rows(name)
            if any(sum(whole.count(name, row, *pair) for row in rows) > limit for pair in pairs):
                self.held[name] = f"more than {limit:,} samples"
        free = {name: task for name, task in tasks.items() if name not in self.held}
        prints = {statistics.name_of(salt, name): fingerprint(one, free.values()) for name, one in sums.items()}
        cells = {cell: values for cell, values in whole.cells.items() if cell.task in free}
        return Statistics(cells), prints, frozenset(name for name, one in prints.items() if one)

    def join(self, announced: Announcement, offered: str) -> None:
        """What is offered stays as it is until it is known whether it is in the sum."""
        OFFER.write(self.store, self._made)
        self.joined = True

    def encode(self, announced: Announcement, state: ClientState, sum_layout: SumLayout) -> np.ndarray:
        """The change of the segments that this device feeds, and of how many subjects are in them."""
        offer, known, shape = OFFER.read(self.store), SUMMED.read(self.store), self.shape(announced)
        if offer is None or offer.after.offered != offered_id(state) or state.cohort is None:
            raise TrustError("its change is gone", where="secure round", remedy="sync again")
        view = CohortView(state.round_id, state.cohort, shape)
        slot, fed = view.slot(self.device), view.fed(state.minimum)
        there = (offer.after.place, offer.after.number)
        here = known is not None and (known.place, known.number) == there
        old = known if known and here else msgspec.structs.replace(offer.after, sums=encode(NOTHING), subjects=())
        before, subjects_before = read(old.sums), counts_of(old.subjects)
        poolings = shape.settle(view.announced(), state.minimum + view.parameters.drops)
        mine = [one for one in shape.segments.of_poolings(poolings) if slot in fed.get(one.name, ())]
        after, counts = pool(read(offer.whole), poolings), counts_of(subjects_of(offer.prints, poolings))
        tasks = {segment.task for segment in mine}
        values = {s.name: shape.segments.values(s, after) - shape.segments.values(s, before) for s in mine}
        more = {s.name: counts.get(s, 0) - subjects_before.get(s, 0) for s in mine}
        whole = pool_settled(read(offer.whole), poolings)
        touched = {cell.task for sums in (whole, before) for cell in sums.cells}
        changed = {task for task in touched if whole.of_task(task) != before.of_task(task)}
        kept = {segment: number for segment, number in counts.items() if segment.task in tasks}
        self._masked(offer, old, after, kept, tasks, tuple(sorted(changed - tasks)))
        return encode_statistics(shape, sum_layout, values, more)

    def _masked(
        self,
        offer: OfferedTotal,
        old: SummedTotal,
        after: Statistics,
        counts: Mapping[StatisticsSegment, int],
        tasks: AbstractSet[str],
        left_out: tuple[str, ...],
    ) -> None:
        """Notes what is in the sum of this device if the round succeeds: tasks that are left out stay as they were."""
        cells = {cell: values for cell, values in after.cells.items() if cell.task in tasks}
        cells |= {cell: values for cell, values in read(old.sums).cells.items() if cell.task not in tasks}
        subjects = [Support(*segment, number) for segment, number in counts.items() if number]
        subjects += [support for support in old.subjects if support.task not in tasks]
        whole, rest = read(offer.whole), tuple(one for one in old.nameless if one[0] not in tasks)
        nameless = {(task, row) for task in tasks for row in {*whole.rows(task)} - {*after.rows(task)}}
        noted = msgspec.structs.replace(
            offer.after,
            sums=encode(Statistics(cells)),
            subjects=tuple(subjects),
            waits_since=offer.after.waits_since or (old.waits_since if left_out else ""),
            left_out=left_out,
            nameless=(*sorted(nameless), *rest),
        )
        OFFER.write(self.store, msgspec.structs.replace(offer, after=noted, masked=True))

    def will_sign(self, state: ClientState) -> None:
        """Nothing: a sum of statistics costs nothing of a promise."""

    def signed(self, state: ClientState) -> None:
        """Nobody's part is needed any more; what is in the sum of this device stays noted."""
        offer = OFFER.read(self.store)
        if offer is not None and offer.after.offered == offered_id(state) and not offer.signed:
            OFFER.write(self.store, msgspec.structs.replace(offer, signed=True, whole=encode(NOTHING), prints={}))

    def refused(self, offered: str) -> None:
        """It is made anew."""
        OFFER.write(self.store, None)

    def finish(self, announced: Announcement, state: ClientState | None) -> None:
        """What was offered is in the sum, or its round is over without it."""
        offer = OFFER.read(self.store)
        if offer is None:
            return
        if offer.after.offered in announced.status.summed and not offer.masked:
            OFFER.write(self.store, None)  # a copy of before it was masked: what went into the sum is not known here
        elif offer.after.offered in announced.status.summed:
            with self.store.step("statistics summed"):
                SUMMED.write(self.store, offer.after)
                statistics.keep_for_releases(self.store, offer.after.sequence, offer.after.sums)
                OFFER.write(self.store, None)
        elif offer.round_id != announced.notice.round_id:
            OFFER.write(self.store, None)
            self.not_opened = offer.signed


def pool_settled(whole: Statistics, poolings: Mapping[str, Pooling]) -> Statistics:
    """Own sums as the total has settled their rows; tasks that it has not settled as they are."""
    settled = pool(whole, poolings)
    rest = {cell: values for cell, values in whole.cells.items() if cell.task not in poolings}
    return Statistics({**settled.cells, **rest})


def counts_of(subjects: tuple[Support, ...]) -> dict[StatisticsSegment, int]:
    """Subjects by segment."""
    return {StatisticsSegment(s.task, s.row, s.first, s.last): s.subjects for s in subjects}


def exchange_secure_statistics(context: SecureRoundContext, folder: Path) -> StatisticsReport | None:
    """Takes part in the round of statistics and fetches the newest release; None where the bundle has none.

    Raises NetworkError where there is no connection: everything waits. folder: of unfinished downloads.
    """
    store, bundle, configuration, client = context.store, context.bundle, context.configuration, context.client
    if not sums_id(bundle.manifest):
        return None
    reason = statistics.why_not(store, configuration)
    part = StatisticsContribution(context, allowed=not reason)
    try:
        words = take_part(context, part)
    except UpdateError as problem:
        words, part.held[""] = "", f"refused: {problem}"
    status = client.statistics()
    statistics.fetch_release(store, bundle, client, status, context.root, folder)
    summed = SUMMED.read(store)
    held = dict.fromkeys(summed.left_out if summed else (), LEFT_OUT) | part.held
    words = "; ".join(filter(None, (NOT_OPENED if part.not_opened else "", words)))
    rows = summed.nameless if summed else ()
    nameless = {task: NAMELESS.format(_are([row for of_task, row in rows if of_task == task])) for task, _ in rows}
    text = StatisticsText(
        sent=bool(summed and read(summed.sums).cells),
        why_not=reason,
        held=held,
        waits=status.waits,
        to_subtract_since=summed.waits_since if summed else "",
        round=words,
        nameless=nameless,
    )
    statistics.put_text(store, text)
    release = statistics.release_mark(store) or None
    return StatisticsReport(part.joined, release, reason, held, status.waits, words, nameless)


def _are(rows: list[str]) -> str:
    """`a is`, `a, b are`; of many rows how many."""
    names = ", ".join(rows) if len(rows) <= MOST_ROWS_NAMED else f"{len(rows)} rows"
    return f"{names} {'is' if len(rows) == 1 else 'are'}"


def forget_summed(store: Store) -> None:
    """Forgets what was summed, where statistics are not summed any more."""
    if SUMMED.exists(store) or OFFER.exists(store):
        with store.step("statistics not summed any more"):
            drop_state(store, RECORDS)
            SUMMED.write(store, None)
            OFFER.write(store, None)


def note_removed(store: Store, subject: str = "") -> bool:
    """As `statistics.note_removed`, of plain and of secure rounds.

    A change that was not masked yet is dropped. One that was may be in the sum: it is taken away with a later change.
    """
    sent, summed, offer = statistics.note_removed(store, subject), SUMMED.read(store), OFFER.read(store)
    today = store.today().isoformat()
    if offer is not None:
        state = load_state(store, RECORDS)
        masked = offer.signed or (state is not None and state.masked is not None)
        with store.step("statistics to take away"):
            if not offer.signed:
                drop_state(store, RECORDS)
            after = _without(offer.after, subject, today)
            kept = msgspec.structs.replace(offer, after=after, whole=encode(NOTHING), prints={})
            OFFER.write(store, kept if masked or (state is None) else None)
            sent = sent or (masked and after != offer.after)
    if summed is not None and (after := _without(summed, subject, today)) != summed:
        SUMMED.write(store, after)
        sent = True
    return sent


def _without(total: SummedTotal, subject: str, today: str) -> SummedTotal:
    """A total whose subject is not named any more; from today on it waits to be taken away."""
    name = statistics.name_of(total.salt, subject)
    if name not in total.names:
        return total
    since = total.waits_since or today
    return msgspec.structs.replace(total, names=total.names - {name}, waits_since=since)
