"""A roster that falls below the minimum inside a secure round: nothing is opened, it is said, and no update is lost."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from aggregator.secagg.district import RULES, District, Member
from aggregator.secagg.test_rounds_over_http import expected
from aggregator.server.officer import signed_in, text
from homeroom_aggregator.admin.folder import replace_roster
from homeroom_aggregator.secagg import coordinator


def lose(district: District, number: int, how: str) -> None:
    """A member is gone: its key is revoked, or the consent of its school withdrawn."""
    rounds, name = district.service.rounds, district.members[number].school.name
    if how == "revoked":
        rounds.members.revoke(name, "an officer")
    else:
        rounds.members.withdraw_consent(f"School {number}", "an officer")
    rounds.withdraw_gone()


@pytest.mark.parametrize("how", ["revoked", "consent withdrawn"])
@pytest.mark.parametrize("phase", ["shares", "input"])
def test_below_the_minimum_nothing_is_opened_and_the_updates_wait_for_a_roster_that_suffices(
    district: District, monkeypatch: pytest.MonkeyPatch, phase: str, how: str
) -> None:
    rounds, opened = district.service.rounds, list[Any]()
    unmask = coordinator.unmask_sum
    monkeypatch.setattr(coordinator, "unmask_sum", lambda *asked: opened.append(asked) or unmask(*asked))
    with rounds.change():
        for number in (0, 1):
            key = district.members[number].school.name
            rounds.log.database.write("UPDATE devices SET school = ? WHERE device = ?", (f"School {number}", key))
            rounds.members.consent(f"School {number}", "a letter")
    stay = district.members[2:]
    kept = [member.update_id for member in stay]
    district.until(phase)
    before = district.secure_rounds.store.live()
    assert before
    assert before.cohort
    assert len(before.cohort.members) == 4
    for number in (0, 1):
        lose(district, number, how)
    for _ in range(2):
        district.visit(2, 3)
    live = district.secure_rounds.store.live()
    assert live
    assert live.notice.round_id != before.notice.round_id, "the round has ended"
    assert district.phase == "keys", "and two of the four begin no other"
    assert opened == []
    assert (district.version, rounds.log.count("secure"), district.theta) == (0, 0, rounds.bundle.theta().tobytes())
    assert district.secure_rounds.facts()["secure_failed"] == 1
    assert district.secure_rounds.store.bodies("input") == {}, "what was masked goes with the round"
    with signed_in(district.service, district.address) as browser:
        page = text(browser.get("/dashboard").text)
    assert "The round before failed: only 2 devices left of the 3 that a sum needs." in page
    district.later_s += RULES.phase_s + 1
    assert "2 of 4 devices have come, but 2 devices cannot bear" in district.visit(2)[0], (
        "whoever stays is told as well"
    )
    assert [update.update_id for member in stay for update in member.store.outbox.pending()] == kept

    district.members = [*stay, Member(district, 4), Member(district, 5)]
    replace_roster(district.folder, msgspec.json.encode(district.roster(district.members, serial=2)))
    wanted = expected(district, [0, 1, 2, 3])
    district.until("reveal")
    for _ in range(2):
        if district.version == 0:
            district.visit(0, 1, 2, 3)
    assert district.theta == wanted, "with the very updates that waited"
    assert len(opened) == 1
    assert rounds.verify() == []
