"""Schools on a roster: no school has more of its devices there than the round's `school_devices`."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path

from homeroom.contract.round import RoundConfiguration
from homeroom.errors import InputError
from homeroom.system.printable import counted
from homeroom_aggregator.admin.folder import LOG_FILE, ROSTER_FILE, load_roster, open_log
from homeroom_aggregator.state.members import Members


def chosen_devices(
    members: Members, limit: int, typed: Collection[str] = (), present: Collection[str] = ()
) -> tuple[list[str], dict[str, int]]:
    """The keys of enrolled devices for a roster, and how many of each school were left out.

    Who is on the present roster stays, since sums over other cohorts tell what the others added; then the longest
    enrolled come. A device without a school counts by itself.

    limit: devices of one school; 0 for any number. typed: keys that must be on it. present: keys of the roster before.
    """
    rows = members.every()
    stays = {row["member"] for row in rows if row["device"] in present}
    enrolled = [row for row in rows if row["role"] == "device" and not row["revoked"]]
    enrolled.sort(key=lambda row: (row["device"] not in typed, row["member"] not in stays))
    taken, left_out, keys = Counter[str](), Counter[str](), list[str]()
    for row in enrolled:
        school = row["school"]
        if limit and school and taken[school] >= limit:
            left_out[school] += 1
            continue
        taken[school] += 1
        keys.append(row["device"])
    return keys, dict(sorted(left_out.items()))


def crowded_schools(members: Members, keys: Iterable[str], limit: int) -> dict[str, int]:
    """Schools that have more than `limit` enrolled devices among these keys, and how many; none where it is 0."""
    found = (members.find(key) for key in keys)
    counts = Counter(member.school for member in found if member and member.school)
    return {school: count for school, count in sorted(counts.items()) if limit and count > limit}


def check_schools(members: Members, keys: Iterable[str], limit: int, where: str) -> None:
    """Raises InputError where a roster of these keys has too many devices of a school."""
    if crowded := crowded_schools(members, keys, limit):
        named = ", ".join(f"{counted(count, 'device')} of {school}" for school, count in crowded.items())
        remedy = "`homeroom trust roster --members FOLDER` chooses, or set school_devices higher (0: any number)"
        raise InputError(f"has {named}, and school_devices is {limit}", where=where, remedy=remedy)


def roster_note(folder: Path, configuration: RoundConfiguration) -> str:
    """What to say where the folder's roster has too many devices of a school; empty where it has not."""
    roster = load_roster(folder) if configuration.school_devices else None
    if roster is None or not (folder / LOG_FILE).exists():
        return ""
    with contextlib.closing(open_log(folder)) as log:
        crowded = crowded_schools(Members(log.database), roster.devices, configuration.school_devices)
    if not crowded:
        return ""
    return (
        f"{ROSTER_FILE} has more than {counted(configuration.school_devices, 'device')} of {', '.join(crowded)}: a "
        "cohort takes no more of them (school_devices); `homeroom trust roster` signs one that fits"
    )
