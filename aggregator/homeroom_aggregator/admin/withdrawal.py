"""Withdrawals that an officer asks for: of a device or a school, of all it sent or of what one task or modality taught.

One request is one durable step, and what it takes out of versions shares the next rewind with all other requests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from homeroom.contract.layout import Layout
from homeroom.contract.update_checks import segment_names
from homeroom.errors import Code, InputError, UpdateError
from homeroom.system.printable import counted
from homeroom_aggregator.admin.officers import Officer
from homeroom_aggregator.merge.rounds import Rounds
from homeroom_aggregator.state import audit, secure_sum

MOST_AT_ONCE = 20_000  # updates of one request while others wait for the server


@dataclass(frozen=True)
class Part:
    """Of updates, those that learned from samples of this task, or with this modality; of neither: all."""

    task: str = ""
    modality: str = ""

    def __str__(self) -> str:
        if self.task and self.modality:
            return f"task {self.task} or modality {self.modality}"
        return f"task {self.task}" if self.task else f"modality {self.modality}" if self.modality else ""


@dataclass(frozen=True)
class Found:
    """Updates that can be taken out, by member, the oldest first.

    others: of the same members that hold nothing of the part, and stay. kept: that stay since their bytes are gone.
    statistics: members whose statistics are here; they stay.
    """

    updates: Mapping[str, Sequence[str]]
    others: int = 0
    kept: int = 0
    statistics: int = 0

    @property
    def count(self) -> int:
        """Updates that go."""
        return sum(map(len, self.updates.values()))


def find(rounds: Rounds, officer: Officer, key: str, school: str, part: Part = Part()) -> Found:
    """What a request would take out. InputError where it is not the officer's to ask, or nothing would go.

    key: of a device, or the beginning of one that is clear; one that was revoked or changed counts too.
    school: whose devices, in place of one key.
    """
    if officer.role not in (None, "district", "school"):
        raise InputError("only an officer takes updates back", code=Code.NOT_ALLOWED)
    own = officer.school if officer.role == "school" else ""
    if own and school and school != own:
        raise InputError("a school speaks for itself only", code=Code.NOT_ALLOWED, remedy="ask the district")
    members = rounds.members
    if school:
        members.check_school(school)
    rows = [row for row in members.every(school or own or None) if row["role"] == "device"]
    names = dict.fromkeys(row["member"] for row in rows if row["device"].startswith(key))
    if not school and len(names) != 1:
        why = "is the beginning of several devices' keys" if names else "is no device's key here"
        raise InputError(why, where=key[:64], remedy="`homeroom district members` lists them")
    segments = _segments(rounds, part)
    updates, others, kept = dict[str, list[str]](), 0, 0
    for name in names:
        of_part, rest, gone = _sorted_out(rounds, name, segments)
        others, kept = others + rest, kept + gone
        if of_part:
            updates[name] = of_part
    if not updates:
        raise InputError(_nothing(rounds, part, others, kept), where=school or key[:8])
    statistics = sum(rounds.statistics.totals.find(name) is not None for name in names)
    return Found(updates, others, kept, statistics)


def _nothing(rounds: Rounds, part: Part, others: int, kept: int) -> str:
    if others:
        sent = f"none of what it sent ({counted(others, 'update')} here)"
        return f"{sent} learned from {part}, so nothing of it is in a version"
    why = "has no update here that can be withdrawn: none came, or all were taken out already"
    why += f"; {kept} are older than what is kept (`log.retain`), and stay" if kept else ""
    return why + ("; private releases cannot give one back" if rounds.configuration.privacy else "")


def _segments(rounds: Rounds, part: Part) -> frozenset[str]:
    """The merged segments that tell whether an update learned from the part; empty for all updates."""
    layout: Layout = rounds.rules.layout
    merged = {segment.name for segment in rounds.configuration.merged(layout)}
    found = set[str]()
    for kind, name in (("task", part.task), ("modality", part.modality)):
        if not name:
            continue
        known = sorted({getattr(one, kind) for one in layout} - {None})
        own = {one.name for one in layout if getattr(one, kind) == name}
        if not own:
            raise InputError(f"is no {kind} with a segment here", where=name, remedy=f"one of {', '.join(known)}")
        if not own & merged:
            says = f"{kind} {name} has no segment that leaves a device, so no update says whether it learned from it"
            raise InputError(says, where=name, remedy="withdraw all updates of the device or school")
        found |= own & merged
    return frozenset(found)


def _sorted_out(rounds: Rounds, member: str, segments: frozenset[str]) -> tuple[list[str], int, int]:
    """A member's updates that hold one of the segments; how many do not, and of how many the bytes are gone."""
    log, found, others, kept = rounds.log, list[str](), 0, 0
    for update_id in rounds.withdrawable(member):
        number = log.number(update_id)
        if number is not None and number <= log.base and number not in rounds.state.sums.waiting:
            kept += 1
        elif not segments or segments & _held(rounds, member, update_id, number):
            found.append(update_id)
        else:
            others += 1
    return found, others, kept


def _held(rounds: Rounds, member: str, update_id: str, number: int | None) -> frozenset[str]:
    """The names of the segments that an update holds; of one that cannot be read, all."""
    if number is None:  # in a secure sum
        sums = secure_sum.headers(rounds.log.database, rounds.log.base, 1 << 62)
        fed = next((header.fed for header in sums if update_id in header.updates), {})
        return frozenset(name for name, members in fed.items() if member in members)
    try:
        return segment_names(rounds.log.entry(number).body)
    except UpdateError:
        return frozenset(one.name for one in rounds.rules.layout)


def withdraw(rounds: Rounds, found: Found, by: str, why: str, part: Part = Part()) -> None:
    """Take updates out of what waits and out of versions, in one durable step; see `Withdrawals.withdraw_all`."""
    about: dict[str, object] = {"devices": len(found.updates), "updates": found.count}
    about |= {"part": str(part)} if str(part) else {}
    with rounds.change():
        audit.record(rounds.log.database, "updates taken back", by=by, why=why, **about)
        rounds.withdraw_all(found.updates)


def lines(found: Found, part: Part) -> list[str]:
    """What a request leaves, in sentences."""
    said = []
    if found.others:
        said.append(
            f"Nothing of {part} is in {counted(found.others, 'update')}: what holds nothing of it stays, until a "
            "rewind makes void what came since. "
            "What is sent from now on counts as ever: remove the samples on the devices too."
        )
    if found.kept:
        said.append(f"Older than what is kept (log.retain), so in the model for good: {counted(found.kept, 'update')}.")
    if found.statistics:
        said.append(
            f"Statistics of {found.statistics} of these devices stay, and solved heads answer from them: remove the "
            "samples there, or revoke the key (of secure sums, then begin a new total)."
        )
    return said
