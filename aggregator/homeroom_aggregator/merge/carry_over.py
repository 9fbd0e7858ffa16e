"""Carry-over: the rounds of a bundle go on in the log of a later one, segment by segment.

The new log has the old one's history: who sent what, what was withdrawn, what is void; so an update may be unlearned
as before. A version that one may have to go back to becomes an entry `carried` with its state as the later bundle has
it, the newest with the server optimizer's moments too. The bytes of updates that versions hold stay behind; updates
that wait for the next version come along as they were signed, and count where their segments go on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from homeroom.contract.continuation import (
    Growth,
    carry_theta,
    grow,
    growths_of,
    same_segments,
    same_slices,
    same_tiers,
    segment_bounds,
)
from homeroom.contract.layout import Layout, segment_of
from homeroom.contract.round import EarlierBundle, RoundConfiguration, ServerOptimizer
from homeroom.contract.signing import Certificate
from homeroom.contract.update_checks import read_update
from homeroom.contract.version import VersionHeader, make_version
from homeroom.errors import UpdateError
from homeroom.runtime.bundle import Bundle
from homeroom.system.sqlite import Database
from homeroom_aggregator.merge import checkpoint, configuration_change, round_state, waiting_parts
from homeroom_aggregator.merge.replay import VERSION_KINDS
from homeroom_aggregator.merge.round_state import RoundState, SchoolSegments
from homeroom_aggregator.merge.rounds import Rounds
from homeroom_aggregator.merge.segment_sums import SegmentSums, tier_slice_of
from homeroom_aggregator.state import claims, rewinds, school_segments, secure_sum
from homeroom_aggregator.state.log import BASES_TABLE, EARLY_TABLE, Log

CARRIED_FACTS = (rewinds.REWINDS, rewinds.SINCE)


class CarriedOver(msgspec.Struct, frozen=True, kw_only=True):
    """What goes on in a later bundle.

    version: the newest global one, from which it goes on. same, grown, new: names of segments.
    updates: that wait for the next version and count there. left: that waited and do not, since nothing in them goes on
        or they cannot be read.
    parts: segments of which parts of updates that versions hold still waited for more schools; these are left behind.
    """

    version: int
    same: list[str]
    grown: list[str]
    new: list[str]
    updates: int
    left: int
    parts: list[str]


@dataclass(frozen=True)
class Successor:
    """The later bundle, the configuration of its rounds, and the key that signs its versions."""

    bundle: Bundle
    configuration: RoundConfiguration
    key: Ed25519PrivateKey
    certificate: Certificate


def later_configuration(before: Rounds, bundle: Bundle) -> RoundConfiguration:
    """The configuration in force for the rounds of a later bundle, which takes updates of those before it."""
    old, after = before.configuration, bundle.layout
    kept = {segment.segment_id for segment in after}
    newest = _earlier(old.bundle_id, before.state.version, before.rules.layout, after)
    older = [_still(one, kept) for one in old.earlier_bundles if one.bundle_id != bundle.bundle_id]
    known = tuple(one for one in (newest, *older) if one.segments)
    return msgspec.structs.replace(old, bundle_id=bundle.bundle_id, earlier_bundles=known)


def _earlier(bundle_id: str, version: int, before: Layout, after: Layout) -> EarlierBundle:
    names = same_segments(before, after)
    ids = tuple(after[name].segment_id for name in names)
    return EarlierBundle(bundle_id=bundle_id, version=version, segments=ids, tiers=tuple(same_tiers(before, after)))


def _still(earlier: EarlierBundle, kept: set[str]) -> EarlierBundle:
    return msgspec.structs.replace(earlier, segments=tuple(one for one in earlier.segments if one in kept))


def carry_state(state: RoundState, before: Layout, bundle: Bundle, rules: RoundConfiguration) -> RoundState:
    """A round state as a later bundle has it, without what waits. rules: of the rounds, for the optimizer's moments."""
    after, start, growths = bundle.layout, bundle.theta(), growths_of(bundle.manifest.continues)
    names, slices = {*same_segments(before, after)}, same_slices(before, after)

    def goes_on(key: str) -> bool:
        """Whether the running sums of this key are of the same values in both; secure ones are of whole segments."""
        name = tier_slice_of(key)
        return name in slices or (name in names and name == segment_of(name))

    own = {school: carry_segments(segments, before, bundle) for school, segments in state.own.items()}
    moments = {key: one for key, one in state.moments.items() if goes_on(key)}
    first = {"v": (rules.optimizer or ServerOptimizer()).tau ** 2}  # of new columns; other moments begin at zero
    for growth in _growths_from(before, growths):
        segment = after[growth.segment]
        for key, one in state.moments.items():
            if tier_slice_of(key) == segment.name:
                moments[key] = {
                    name: grow(values, np.full(segment.size, first.get(name, 0.0))) for name, values in one.items()
                }
    return RoundState(
        theta=carry_theta(state.theta, segment_bounds(before), after, start, growths),
        version=state.version,
        sums=SegmentSums(),
        moments=moments,
        clip=state.clip,
        own={school: segments for school, segments in own.items() if segments},
        bounds={key: bound for key, bound in state.bounds.items() if goes_on(key)},
    )


def carry_segments(segments: SchoolSegments, before: Layout, bundle: Bundle) -> SchoolSegments:
    """A school's own segments as a later bundle has them."""
    names, after = {*same_segments(before, bundle.layout)}, bundle.layout
    kept = {name: values for name, values in segments.items() if name in names}
    for growth in _growths_from(before, growths_of(bundle.manifest.continues)):
        if growth.segment in segments:
            start = bundle.theta()[after.slices[growth.segment]]
            kept[growth.segment] = grow(segments[growth.segment], start)
    return kept


def _growths_from(before: Layout, growths: Sequence[Growth]) -> list[Growth]:
    """The heads of an earlier layout that go on with more labels; a head keeps its name."""
    known = {segment.segment_id: segment.name for segment in before}
    return [one for one in growths if known.get(one.earlier) == one.segment]


def carry_rounds(before: Rounds, log: Log, successor: Successor) -> CarriedOver:
    """Fills a log without entries, inside the caller's step; `before` is open and does not change."""
    return _CarryOver(before, log, successor).run()


@dataclass(frozen=True)
class _Waiting:
    """An update that no version holds yet. version: the newest one when it came."""

    number: int
    update_id: str
    device: str
    version: int
    body: bytes


class _CarryOver:
    """One carry-over. `old`, `new`: the two databases."""

    def __init__(self, before: Rounds, log: Log, successor: Successor) -> None:
        self.before, self.log, self.successor = before, log, successor
        self.old, self.new = before.log.database, log.database
        self.layout = successor.bundle.layout
        self.waiting = [*self._find_waiting()]
        for table in (BASES_TABLE, EARLY_TABLE, *([school_segments.OWNED_TABLE] if self._by_school else [])):
            self.new.write(table)
        if before.configuration.secure:
            claims.prepare(self.new, before.members.name_of)

    @property
    def _by_school(self) -> bool:
        return self.before.configuration.by_school

    def run(self) -> CarriedOver:
        self._carry_history()
        for table in ("bases", "early_withdrawals", *(["claims"] if self.before.configuration.secure else [])):
            _copy_rows(self.old, self.new, table)
        for name in CARRIED_FACTS:
            if (value := self.before.log.fact(name)) is not None:
                self.log.put_fact(name, value)
        self.log.put_fact(configuration_change.OLDEST_BASE, str(self.before.oldest_base).encode())
        if self._by_school:
            self._carry_owned()
        if self.before.configuration.rewinds:
            self._carry_older_versions()
        if self.before.state.version:
            self._carry_newest()
        updates = self._take_along()
        before = self.before.rules.layout
        names = same_segments(before, self.layout)
        grown = [one.segment for one in _growths_from(before, growths_of(self.successor.bundle.manifest.continues))]
        return CarriedOver(
            version=self.before.state.version,
            same=names,
            grown=grown,
            new=[segment.name for segment in self.layout if segment.name not in (*names, *grown)],
            updates=updates,
            left=len(self.waiting) - updates,
            parts=self._parts_left(),
        )

    # What waits

    def _find_waiting(self) -> Iterator[_Waiting]:
        """The updates that no version holds yet, the oldest first."""
        sql = f"""SELECT number, update_id, device, version FROM log AS came WHERE kind = 'update' AND number > ?
                  AND {rewinds.not_void(self.old)} AND NOT EXISTS
                  (SELECT 1 FROM log WHERE kind = 'withdraw' AND update_id = came.update_id) ORDER BY number"""
        for row in self.old.rows(sql, (self.before.log.last_release(),)):
            number, update_id, device, version = row
            yield _Waiting(number, update_id, device, version, self.before.log.entry(number).body)

    def _take_along(self) -> int:
        """Appends what waits after the newest version; what cannot count is as if it had never come. How many count."""
        count = 0
        for one in self.waiting:
            try:
                read_update(one.body, self.successor.configuration, self.layout)
            except UpdateError:
                self.new.write("DELETE FROM bases WHERE update_id = ?", (one.update_id,))
                continue
            self.log.append("update", one.version, update_id=one.update_id, device=one.device, body=one.body)
            count += 1
        return count

    def _parts_left(self) -> list[str]:
        """Segments in whose running sums are parts of updates that versions hold."""
        rules, sums = self.before.rules, self.before.state.sums
        alone = RoundState(self.before.state.theta, clip=self.before.state.clip)
        if not rules.configuration.secure:
            for one in self.waiting:
                update = read_update(one.body, rules.configuration, rules.layout)
                round_state.add_update(alone, update, one.version, rules, one.device, one.number)
        keys = {key for key, units in sums.weights.items() if alone.sums.weights.get(key) != units}
        for number, waits in sums.waiting.items():
            keys |= set() if number in alone.sums.waiting else waits.norms.keys()
        return sorted({segment_of(tier_slice_of(key)) for key in keys})

    # What was

    def _carry_history(self) -> None:
        """The old entries without bytes, under their numbers; those that made versions become `carried`.

        A secure sum keeps its header, which says whose updates went with it; a private one is in the ledger.
        """
        moved = {one.number for one in self.waiting}
        left = ("configuration", "secure") if self.before.ledger else ("configuration",)
        rows = self.old.rows("SELECT number, kind, update_id, device, version FROM log ORDER BY number")
        for number, kind, update_id, device, version in (row for row in rows if row[1] not in left):
            if number in moved:
                continue
            made = kind in VERSION_KINDS and kind != "carried"
            kind, device = ("carried", self._made_by(kind, number)) if made else (kind, device)
            sql = "INSERT INTO log (number, kind, update_id, device, version) VALUES (?, ?, ?, ?, ?)"
            self.new.write(sql, (number, kind, update_id, device, version))
            if kind in ("update", "secure", "unlearn"):
                body = self._kept_body(kind, number)
                self.new.write("INSERT INTO bodies (number, body) VALUES (?, ?)", (number, body))

    def _kept_body(self, kind: str, number: int) -> bytes:
        """What a successor needs of an entry's bytes."""
        body = b"" if kind == "update" else self.before.log.entry(number).body
        if kind == "secure" and body:
            return secure_sum.pack(secure_sum.SecureSum(secure_sum.read_header(body), {}))
        return b"" if waiting_parts.unpack(body) else body  # parts that wait stay behind with the sums

    def _made_by(self, kind: str, number: int) -> str:
        """What made a version; of a rollback with the version that it went back to, where that is known."""
        body = self.before.log.entry(number).body if kind == "rollback" else b""
        return f"{rewinds.WENT_BACK}{int.from_bytes(body[:8], 'little')}" if body else kind

    def _carry_owned(self) -> None:
        """Schools' own segments by version, as far as they go on."""
        before, bundle = self.before.rules.layout, self.successor.bundle
        for school, version in self.old.rows("SELECT school, version FROM owned ORDER BY version, school"):
            owned = school_segments.at(self.old, version, school)
            assert owned is not None  # of this very version
            segments = carry_segments(owned.segments, before, bundle)
            devices = {name: count for name, count in owned.devices.items() if name in segments}
            school_segments.put(self.new, version, school, devices, segments)

    def _carry_older_versions(self) -> None:
        """The versions that a rewind may go back to, each with its state; the first is where the log is kept from."""
        base, newest = self.before.log.base, self.before.state.version
        first = self.before.log.entry_version(base) if base else 0
        for version, number in self.old.rows("SELECT version, number FROM versions ORDER BY version"):
            if not first <= version < newest:
                continue
            header, theta = self.before.kept(version)
            state = self._carried(self._state_of(header, theta))
            body = self._put_carried(number, state, header.void or ())
            if version == first:
                self.log.put_checkpoint(number, body)
                self.log.move_base(number)

    def _carry_newest(self) -> None:
        """The newest version, with all that goes on from it."""
        state = self._carried(self.before.state)
        number = self.log.append("carried", state.version)
        body = self._put_carried(number, state, rewinds.told_void(self.new))
        self.log.put_checkpoint(number, body)
        base = self.before.log.base
        if not self.before.configuration.rewinds or (base and self.before.log.entry_version(base) == state.version):
            self.log.move_base(number)

    def _put_carried(self, number: int, state: RoundState, void: Sequence[tuple[int, int]]) -> bytes:
        """Makes an entry's body of a state, and its signed version; the body."""
        successor, bits, body = self.successor, self.successor.configuration.scale_bits, checkpoint.pack(state)
        clip_norm = state.clip * 2.0**-bits if state.clip else msgspec.UNSET
        signer = successor.key, successor.certificate, successor.bundle.bundle_id
        self.new.write("INSERT INTO bodies (number, body) VALUES (?, ?)", (number, body))
        self.log.put_version(
            state.version, number, make_version(*signer, state.version, state.theta, {}, clip_norm, void)
        )
        return body

    def _state_of(self, header: VersionHeader, theta: np.ndarray) -> RoundState:
        """The state that an older version has, without the optimizer's moments: a rewind begins those anew."""
        bits, clip = self.before.configuration.scale_bits, header.clip_norm
        grid = 0 if clip is msgspec.UNSET else round(clip * 2.0**bits)
        return RoundState(theta, header.version, clip=grid, own=dict(self._own_at(header.version)))

    def _own_at(self, version: int) -> Iterator[tuple[str, SchoolSegments]]:
        if self._by_school:
            for (school,) in self.old.rows("SELECT DISTINCT school FROM owned ORDER BY school"):
                if (owned := school_segments.at(self.old, version, school)) is not None:
                    yield school, owned.segments

    def _carried(self, state: RoundState) -> RoundState:
        return carry_state(state, self.before.rules.layout, self.successor.bundle, self.successor.configuration)


def _copy_rows(old: Database, new: Database, table: str) -> None:
    if rows := old.rows(f"SELECT * FROM {table}"):
        marks = ", ".join("?" * len(rows[0]))
        new.write_many(f"INSERT INTO {table} VALUES ({marks})", rows)
