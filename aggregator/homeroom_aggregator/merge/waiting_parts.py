"""Waiting parts: of an update that waits for a rewind, what is in running sums still; it is taken out at once.

A segment that too few fed goes on waiting when others are released. Sums are integers, so a part can be taken out again
exactly; the log's entry says which, so that a replay does the same. When it does not hold: a segment of several tiers
that was released since, and one that a school owns, keep their part until the rewind.
"""

from __future__ import annotations

import struct

import msgspec

from homeroom.contract.layout import segment_of
from homeroom.contract.round import weight
from homeroom.contract.update import Update
from homeroom.contract.update_checks import read_admitted, segment_names
from homeroom_aggregator.merge.round_state import MergeRules
from homeroom_aggregator.merge.segment_sums import SegmentSums, Undo
from homeroom_aggregator.state import rewinds
from homeroom_aggregator.state.log import Log


class WaitingParts(msgspec.Struct, frozen=True):
    """Parts of the update of an entry. units: its weight by running sum. alone: sums where its member has no other."""

    number: int
    units: dict[str, int]
    alone: tuple[str, ...]


class _Released(msgspec.Struct):
    devices: dict[str, int] = {}


def find(
    log: Log, rules: MergeRules, sums: SegmentSums, member: str, number: int
) -> tuple[Update, WaitingParts] | None:
    """A member's update and what of it is in these sums; None where nothing is. rules: in force at its entry."""
    inside, body = any(member in fed for fed in sums.devices.values()), log.body(number)
    if rules.configuration.rule != "mean" or not inside or not body:
        return None
    update, last = read_admitted(body, rules.layout), _last_releases(log, number)
    owned = rules.configuration.school_segments(rules.layout)
    waiting = {name for name in update.values if name not in owned and last.get(name, 0) < number}
    staleness = log.entry_version(number) - update.header.base_version
    weights = {
        name: weight(entry.examples, staleness, rules.configuration)
        for name, entry in zip(update.values, update.header.segments, strict=True)
    }
    keys = [key for key in update.tier_slices if segment_of(key) in waiting and key in sums.numerators]
    if not keys:
        return None
    others = _others(log, member, number, last)
    alone = tuple(key for key in keys if segment_of(key) not in others)
    return update, WaitingParts(number, {key: weights[segment_of(key)] for key in keys}, alone)


def _last_releases(log: Log, number: int) -> dict[str, int]:
    """By segment, the number of the last entry after this one that released it."""
    sql = "SELECT number, substr(body, 9, 4) FROM versions WHERE number > ? ORDER BY number"
    last = dict[str, int]()
    for released, length in log.database.rows(sql, (number,)):
        size = struct.unpack("<I", length)[0]
        (head,) = log.database.one("SELECT substr(body, 13, ?) FROM versions WHERE number = ?", (size, released))
        last |= dict.fromkeys(msgspec.json.decode(head, type=_Released).devices, released)
    return last


def _others(log: Log, member: str, number: int, last: dict[str, int]) -> set[str]:
    """Segments in which another update of the member waits."""
    sql = f"""SELECT number FROM log AS came WHERE kind = 'update' AND device = ? AND number != ? AND number > ?
              AND NOT EXISTS (SELECT 1 FROM log WHERE kind IN ('withdraw', 'unlearn') AND update_id = came.update_id)
              AND {rewinds.not_void(log.database)}"""
    found = set[str]()
    for (other,) in log.database.rows(sql, (member, number, log.base)):
        if body := log.body(other):
            since = last if other > number else last | _last_releases(log, other)
            found |= {name for name in segment_names(body) if since.get(name, 0) < other}
    return found


def take_out(sums: SegmentSums, update: Update, parts: WaitingParts, member: str) -> Undo:
    """Take the parts out of the sums; return what puts them back."""
    values = {key: update.tier_slices[key] for key in parts.units}
    return sums.take_out(values, parts.units, member, parts.alone)


def pack(parts: WaitingParts) -> bytes:
    """The body of the entry that asks to unlearn the update."""
    return msgspec.json.encode(parts)


def unpack(body: bytes) -> WaitingParts | None:
    """What such an entry says; None where nothing of the update waited."""
    return msgspec.json.decode(body, type=WaitingParts) if body.startswith(b"{") else None
