"""Histories of interactions that go on: the next export of the same person's, joined with the one that is held."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from homeroom.data.interactions import unit_problem
from homeroom.data.preprocess.sequence import Interaction


def join_histories(held: Sequence[Interaction], new: Sequence[Interaction]) -> list[Interaction] | None:
    """The history that both are parts of, each interaction once; None where nobody can tell that they go on.

    They do where one begins with the other, or where all have times: the new one lies before or after what is held, or
    says the same of the time that both speak of, perhaps with more. Times of two units never go on: seconds since the
    start of one, days of the other.
    """
    old, now = plain(held), plain(new)
    if now[: len(old)] == old or old[: len(now)] == now:
        return max(old, now, key=len)
    if any(time_s is None for _, _, time_s in (*old, *now)):
        return None
    start_s, end_s = max(_time(old[0]), _time(now[0])), min(_time(old[-1]), _time(now[-1]))
    both = [Counter(one for one in history if start_s <= _time(one) <= end_s) for history in (old, now)]
    if start_s <= end_s and not (both[0] and both[1] and (both[0] <= both[1] or both[1] <= both[0])):
        return None
    joined = sorted([*old, *(Counter(now) - Counter(old)).elements()], key=_time)
    return None if unit_problem([_time(one) for one in joined]) else joined


def plain(history: Sequence[Interaction]) -> list[Interaction]:
    """As they compare: from the store they come as lists."""
    return [(skill, bool(correct), time_s) for skill, correct, time_s in history]


def _time(interaction: Interaction) -> float:
    assert interaction[2] is not None
    return interaction[2]
