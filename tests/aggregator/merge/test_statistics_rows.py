"""Rows of released statistics that too few schools fed: they have no name, and no release shows one of them alone."""

from __future__ import annotations

import datetime

import numpy as np

from aggregator.institution import LABELS
from aggregator.statistics_lesson import PLAIN, Room, Shown, isolates, released, shown_by_fewer
from homeroom.contract.statistics.pooling import OTHERS, Pooling
from homeroom.contract.statistics.sums import NOTHING, Cell, merge
from homeroom_aggregator.merge.rounds import Rounds


def test_a_row_of_two_schools_has_no_name_and_is_not_alone_without_one(rounds: Rounds) -> None:
    every = [Room(f"school {n}").enrol(rounds) for n in range(4)]
    for n, room in enumerate(every):
        room.teach(n + 1, labels=LABELS if n < 2 else LABELS[:3])
        room.send(rounds)
    found = released(rounds)
    assert found is not None
    total = found[1]
    assert total.rows("grade") == [OTHERS, "a", "b"]  # d of two schools, and the smallest other row with it
    whole = merge(sums for room in every[:3] for sums in room.pupils.values())
    block = total.of_task("grade").cells
    one = next(cell.blocks for cell in block if cell.kind == "vector")
    rest = sum(whole.cells[Cell("grade", "vector", row, one)] for row in ("c", "d"))
    np.testing.assert_array_equal(block[Cell("grade", "vector", OTHERS, one)], rest)


def shown(rounds: Rounds, every: list[Room]) -> Shown:
    return Shown(rounds.statistics.totals.release().poolings, {room.school: room.sent.total for room in every})


def test_a_change_in_the_row_without_a_name_waits_for_k_schools(rounds: Rounds) -> None:
    """All change the rows that have names, and one alone a row that has none."""
    every = rooms_of_rare_rows(rounds, {0: "c", 1: "d", 2: "d"})
    before = shown(rounds, every)
    for seed, rare in ((20, {0: "c"}), (30, {1: "d", 2: "d"})):
        assert rounds.statistics.totals.release().poolings["grade"].named == {"a", "b"}
        for n, room in enumerate(every):
            room.teach(seed + n, labels=("a", "b"))
            if n in rare:
                room.teach(seed + 3 + n, labels=(rare[n],))
            room.send(rounds)
        assert rounds.statistics.totals.release().number == (1 if seed == 20 else 2)
    assert shown_by_fewer(3, [before, shown(rounds, every)]) == []


def test_a_row_that_loses_its_name_is_not_alone_without_one(rounds: Rounds) -> None:
    """One school changed a, and all the rows that had no name and get one now: their sum no longer hides a."""
    every = rooms_of_rare_rows(rounds, {0: "c", 1: "c"})
    before = shown(rounds, every)
    assert before.poolings["grade"].named == {"a"}
    for n, room in enumerate(every):
        room.teach(20 + n, labels=("b", "c", "c"))
    every[0].teach(30, labels=("a",))
    for room in every:
        room.send(rounds)
    assert rounds.statistics.totals.release().number == 1
    rounds.statistics.look(PLAIN, datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=31))
    assert rounds.statistics.totals.release().number == 2
    assert shown_by_fewer(3, [before, shown(rounds, every)]) == []


def test_a_row_gets_a_name_once_k_schools_changed_what_it_was_added_up_with(rounds: Rounds) -> None:
    """The rows by name, less their sum in the release before, would be what the third school added to c."""
    every = rooms_of_rare_rows(rounds, {0: "c", 1: "c"})
    assert rounds.statistics.totals.release().poolings["grade"].named == {"a"}  # b is added to c of two schools
    for n, room in enumerate(every):
        room.teach(20 + n, labels=("c",) if n == 2 else ("a",)).teach(30 + n, labels=("a",)).send(rounds)
    assert rounds.statistics.totals.release().number == 1
    for n, room in enumerate(every[:2]):
        room.teach(40 + n, labels=("b",)).send(rounds)
    assert rounds.statistics.totals.release().poolings["grade"].named == {"a", "b", "c"}


def rooms_of_rare_rows(rounds: Rounds, rare: dict[int, str]) -> list[Room]:
    """Three rooms that sent a and b, b in fewer samples. rare: another label that a room has."""
    every = [Room(f"school {n}").enrol(rounds).teach(n, labels=("a", "a", "b")) for n in range(3)]
    for n, room in enumerate(every):
        if n in rare:
            room.teach(n + 10, labels=(rare[n],))
        room.send(rounds)
    return every


def test_a_device_sends_no_row_of_two_subjects_and_no_moments_of_few_samples(rounds: Rounds) -> None:
    room = Room("school").enrol(rounds).teach(1, labels=("a",)).teach(2, samples=9, labels=("b",))
    room.teach(3, pupils=2, labels=("c",))
    assert room.own(rounds).total.rows("grade") == [OTHERS, "b"]  # a is the smaller, and goes with c
    few = Room("few").enrol(rounds).teach(1, pupils=3, samples=6, labels=("a",))
    assert few.own(rounds).total == NOTHING  # 18 samples: their second moments would be


def test_no_combination_of_what_is_released_isolates_fewer_than_two_other_schools(rounds: Rounds) -> None:
    every = [Room(f"school {n}").enrol(rounds) for n in range(5)]
    for n, room in enumerate(every):
        room.teach(n + 1, labels=LABELS if n < 3 else LABELS[:3])
        room.send(rounds)
    poolings, both = rounds.statistics.totals.release().poolings, {"grade", "size"}
    labels = {room.school: LABELS if n < 3 else LABELS[:3] for n, room in enumerate(every[:3])}
    fed = {school: dict.fromkeys(some, both) for school, some in labels.items()}
    assert isolates(3, poolings, fed) == []
    rare = {**fed, "school 0": {**fed["school 0"], "e": both}}  # were the row of one school left out, not pooled
    named = {**poolings, "grade": Pooling(frozenset({*LABELS, "e"}), poolings["grade"].pairs)}
    assert ("school 0", "school 1") in isolates(3, named, rare)
