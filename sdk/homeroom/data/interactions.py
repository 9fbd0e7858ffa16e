"""Interactions of a sequence: each is checked by itself, and the times of a history for one unit, seconds."""

from __future__ import annotations

import datetime
import itertools
import math
import re
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from homeroom.data.cells import is_number, parse_day, parse_number
from homeroom.data.preprocess.sequence import YEAR_S, Interaction
from homeroom.data.samples import INTERACTION_LIMIT, TRUTH_WORDS
from homeroom.data.tasks.base import suggestion
from homeroom.errors import InputError

MOMENT = re.compile(
    r"(?P<day>\d[\d./-]*)(?:[T ]\s*(?P<hour>\d{1,2}):(?P<minute>\d\d)(?::(?P<second>\d\d))?"
    r"(?: ?(?P<half>[AaPp])[Mm])?(?: ?(?P<zone>GMT|UTC))?(?P<offset>[+-]\d{1,2})?)?"
)
LARGEST_S = 1e11  # the year 5138 since 1970
LARGEST_OF_UNIT = {"milliseconds": 1e14, "microseconds": 1e17, "nanoseconds": 1e20}
LONGEST_GAP_S = 20 * YEAR_S
SHORTEST_USUAL_GAP_S = 0.2  # between two answers of a person
DAYS_AS_NUMBERS = (19_900_101, 20_501_231)
UTC_NOTE = "times without a zone are read as UTC: where clocks change, an hour may be out (2026-11-03 10:00:00+01:00)"
SECONDS_REMEDY = "give seconds, from any moment on, or a day and time such as 2026-11-03 10:00:00"


def check_interactions(
    skills: Sequence[str], value: Any, where: str, note: Callable[[str], None] | None = None
) -> list[Interaction]:
    """Returns the interactions, the oldest first. Raises InputError where one is wrong, or times are not seconds.

    note: takes a sentence where they came in another order, and their times put them right.
    """
    if isinstance(value, Mapping):
        value = [value]
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise InputError(f"needs a list of interactions, not {type(value).__name__}", where=where)
    if not value:
        raise InputError("the sequence is empty", where=where, remedy="leave the input out instead")
    if len(value) > INTERACTION_LIMIT:
        raise InputError(f"{len(value):,} interactions are more than {INTERACTION_LIMIT:,}", where=where)
    known = dict.fromkeys(skills)  # a dict, since a bundle may have hundreds of skills
    interactions = [check_interaction(known, item, f"{where}[{index}]", note) for index, item in enumerate(value)]
    times_s = [time_s for _, _, time_s in interactions if time_s is not None]
    if any(after < before for before, after in itertools.pairwise(times_s)):
        interactions = _oldest_first(interactions, where)
        if note is not None:
            note(f"{where}: a history did not begin with the oldest interaction, and was put in order by its times")
    if problem := unit_problem(sorted(times_s)):
        raise InputError(problem, where=where, remedy=SECONDS_REMEDY)
    return interactions


def _oldest_first(interactions: Sequence[Interaction], where: str) -> list[Interaction]:
    """Sorts interactions by time; of one that came newest first, those of one time are reversed too.

    Raises InputError where their order is not known: one has no time, or two have the same, and rows are in no order.
    """
    remedy = "put the oldest interaction first, or give each its own time"
    times_s = [math.nan if time_s is None else time_s for _, _, time_s in interactions]
    if any(map(math.isnan, times_s)):
        what = "is not in order of time, and has interactions without a time, so that their order is not known"
        raise InputError(what, where=where, remedy=remedy)
    newest_first = all(after <= before for before, after in itertools.pairwise(times_s))
    ordered = sorted(reversed(interactions) if newest_first else interactions, key=_seconds)
    for before, after in () if newest_first else itertools.pairwise(ordered):
        if before[2] == after[2] and before != after:
            what = f"is not in order of time, and has two interactions of the same time ({before[0]}, {after[0]})"
            raise InputError(f"{what}, so that their order is not known", where=where, remedy=remedy)
    return ordered


def _seconds(interaction: Interaction) -> float:
    return interaction[2] or 0.0


def check_interaction(
    skills: Collection[str], item: Any, where: str, note: Callable[[str], None] | None = None
) -> Interaction:
    """Returns one interaction: skill, whether it was right, and when in seconds; InputError where it is none."""
    if not isinstance(item, Mapping):
        if isinstance(item, str) or not isinstance(item, Sequence) or len(item) not in (2, 3):
            raise InputError(f"{item!r} is no interaction", where=where, remedy='write ["fractions", true]')
        item = dict(zip(("skill", "correct", "time"), item, strict=False))
    if unknown := sorted(map(str, item.keys() - {"skill", "correct", "time"})):
        raise InputError(f"an interaction has no {unknown[0]!r}", where=where, remedy="skill, correct and time")
    skill, correct = item.get("skill"), TRUTH_WORDS.get(str(item.get("correct")).strip().lower())
    if skill is None or skill == "":
        raise InputError("the skill is missing", where=where, remedy="name the skill that was practised")
    if str(skill) not in skills:
        raise InputError(f"the bundle has no skill {skill!r}", where=where, remedy=suggestion(str(skill), list(skills)))
    if correct is None:
        raise InputError(f"{item.get('correct')!r} is neither right nor wrong", where=where, remedy="true or false")
    return str(skill), correct, check_time(item.get("time"), where, note)


def check_time(value: Any, where: str, note: Callable[[str], None] | None = None) -> float | None:
    """Returns seconds: of a number as it is, of a day and time (ISO 8601, or 03.11.2026 10:00) since 1970.

    note: takes a sentence where a day and time names no zone, which is taken as UTC.
    Raises InputError where it is no time, or a number too large for seconds.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, str) and not is_number(value):
        return _moment(value, where, note)
    try:
        number = parse_number(value) if isinstance(value, str) else value
        seconds = math.nan if isinstance(number, bool) else float(number)
    except InputError as problem:
        raise InputError(problem.what, where=where, remedy=problem.remedy) from None
    except (TypeError, ValueError, OverflowError):
        return _moment(value, where, note)
    if not math.isfinite(seconds):
        raise InputError(f"{value!r} is no time", where=where, remedy=SECONDS_REMEDY)
    if abs(seconds) > LARGEST_S:
        units = (unit for unit, largest in LARGEST_OF_UNIT.items() if abs(seconds) < largest)
        unit = next(units, "something else")
        raise InputError(
            f"{value!r} is too large for seconds: it looks like {unit}", where=where, remedy=SECONDS_REMEDY
        )
    return seconds


def _moment(value: Any, where: str, note: Callable[[str], None] | None) -> float:
    text = value.strip() if isinstance(value, str) else ""
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        if not (found := MOMENT.fullmatch(text)):
            raise InputError(f"{value!r} is no time", where=where, remedy=SECONDS_REMEDY) from None
        moment = datetime.datetime.combine(parse_day(found["day"], where), _time_of_day(found, value, where))
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
        if note is not None:
            note(UTC_NOTE)
    return moment.timestamp()


def _time_of_day(found: re.Match[str], value: Any, where: str) -> datetime.time:
    """The time of a moment as forms write it, such as 3:05:00 PM GMT+1."""
    hour, half = int(found["hour"] or 0), (found["half"] or "").lower()
    if half and 1 <= hour <= 12:
        hour = hour % 12 + 12 * (half == "p")
    elif half:
        hour = 24
    try:
        offset = datetime.timedelta(hours=int(found["offset"] or 0))
        zone = datetime.timezone(offset) if found["zone"] or found["offset"] else None
        return datetime.time(hour, int(found["minute"] or 0), int(found["second"] or 0), tzinfo=zone)
    except ValueError:
        raise InputError(f"{value!r} is no time", where=where, remedy=SECONDS_REMEDY) from None


def unit_problem(times_s: Sequence[float]) -> str:
    """Why the times of a history, rising, are hardly seconds; "" where they may be.

    Days as numbers, times that lie decades apart, and answers that mostly follow within 0.2 s are not.
    """
    first, last = DAYS_AS_NUMBERS
    if len(times_s) > 1 and all(first <= time <= last and time.is_integer() for time in times_s):
        return f"times such as {times_s[0]:.0f} look like days"
    if (longest_s := max((after - before for before, after in itertools.pairwise(times_s)), default=0)) > LONGEST_GAP_S:
        return f"times are {longest_s / YEAR_S:,.0f} years apart: times of two units"
    gaps_s = [after - before for before, after in itertools.pairwise(times_s) if after > before]
    if len(gaps_s) >= 2 and statistics.median(gaps_s) < SHORTEST_USUAL_GAP_S:
        fast = f"times are mostly {statistics.median(gaps_s):.2g} apart"
        return f"{fast}: no person answers so fast, if they are seconds: they may be days or hours"
    return ""
