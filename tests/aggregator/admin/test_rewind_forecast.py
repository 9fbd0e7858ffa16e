"""The forecast of a rewind: the accuracy that devices told of, where they did; who has left; else that nobody knows."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path

import pytest

from aggregator.institution import School, make_folder
from aggregator.merge.test_evaluation import take, told
from homeroom.contract.round import UnlearningRules
from homeroom.system.clock import now
from homeroom_aggregator.admin.folder import open_rounds
from homeroom_aggregator.admin.rewind_forecast import rewind_lines
from homeroom_aggregator.merge.rounds import Rounds
from homeroom_aggregator.state.last_seen import LastSeen
from homeroom_aggregator.state.members import StoredInvitation

A, B, C = School(), School(), School()


@pytest.fixture
def rounds(tmp_path: Path) -> Iterator[Rounds]:
    """Version 1 of A and B, version 2 of all three, in which the update of C is to be unlearned."""
    found = open_rounds(make_folder(tmp_path, unlearning=UnlearningRules(rule="rewind"), buffer_size=3))
    for one in (A, B, C):
        found.members.join(one.name, StoredInvitation(one.name))
    for base, schools in ((0, (A, B)), (1, (A, B, C))):
        for one in schools:
            found.update(one.update(found.configuration, 0.5, base), one.name)
        found.release_now()
    (gone,) = found.withdrawable(C.name)
    found.withdraw(gone, C.name)
    yield found
    found.close()


def said(rounds: Rounds) -> str:
    planned = rounds.to_unlearn()
    assert planned is not None
    return " ".join(rewind_lines(rounds, planned))


def test_where_nobody_told_it_says_that_nobody_knows(rounds: Rounds) -> None:
    text = said(rounds)
    assert "Version 3 will be version 1 again" in text
    assert "The accuracy to expect cannot be told: no counts of version 1 are shown" in text
    assert "cannot teach again:" not in text
    assert "Not here for 30 days" not in text, "no server has written who was here"
    assert "only that device knows how many" in text


def test_what_devices_told_of_the_version_of_before_is_to_be_expected(rounds: Rounds) -> None:
    for number in range(3):
        take(rounds, told(18, version=1), f"m{number}")
        take(rounds, told(27, version=2, before=1), f"m{number}")
    expected = "Accuracy to expect in grade until devices have trained anew: 60.0 % (90 samples of 3 devices)"
    assert f"{expected}, as version 1 had; version 2 has 90.0 % (90 samples of 3 devices)." in said(rounds)


def test_what_the_next_versions_devices_had_before_tells_too(rounds: Rounds) -> None:
    for number in range(3):
        take(rounds, told(27, version=2, before=1), f"m{number}")
    assert "until devices have trained anew: 100.0 % (90 samples of 3 devices), as version 1 had" in said(rounds)


def test_counts_of_devices_that_came_from_other_versions_do_not_count(rounds: Rounds) -> None:
    for number in range(3):
        take(rounds, told(27, version=2, before=number % 2), f"m{number}")
    assert "cannot be told" in said(rounds)


def test_who_left_and_who_was_long_away_is_named(rounds: Rounds) -> None:
    rounds.members.revoke(A.name, "Ms Lee")
    seen = LastSeen(rounds.log.database)
    seen.note(C.name)
    seen.write(rounds.log.database)
    old = (now().date() - datetime.timedelta(days=31)).isoformat()
    rounds.log.database.write("INSERT OR REPLACE INTO contacts VALUES (?, ?)", (B.name, old))
    text = said(rounds)
    assert f"Of 3 devices whose updates become void, 1 left and cannot teach again: {A.name[:8]}." in text
    assert f"Not here for 30 days: 1 more, {B.name[:8]}." in text
