"""Unlearning in secure rounds: before the sum a member leaves alone; after it the whole sum goes, by a rewind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aggregator.institution import START
from aggregator.secagg.district import RULES, District
from aggregator.secagg.test_member_attacks import EVERYBODY, until_version
from homeroom.contract.privacy import Privacy
from homeroom.contract.round import UnlearningRules
from homeroom_aggregator.admin import officers, unlearning_report, withdrawal
from homeroom_aggregator.admin.rewind_forecast import rewind_lines
from homeroom_aggregator.state import audit, secure_sum

REWIND = UnlearningRules(rule="rewind", within_days=7, most_versions=9)


@pytest.fixture
def rules() -> dict[str, Any]:
    return {"unlearning": REWIND}


def train(district: District, base: int, *numbers: int) -> None:
    """Members have something new; another seed each time, so that sums differ."""
    for number in numbers or EVERYBODY:
        member = district.members[number]
        member.number += 10
        try:
            assert member.queue(base)
        finally:
            member.number -= 10


def bodies(district: District) -> list[bytes]:
    return [entry.body for entry in district.service.rounds.log.sums()]


def test_after_the_sum_all_of_it_goes_and_its_members_send_anew(district: District) -> None:
    rounds, leaver = district.service.rounds, district.members[2]
    until_version(district, 1, *EVERYBODY)
    first = district.theta
    train(district, 1)
    second = [member.store.outbox.pending()[-1].update_id for member in district.members]
    until_version(district, 2, *EVERYBODY)
    sums = bodies(district)
    assert leaver.client.unlearn(second[2]).by
    assert district.version == 2, "nothing happens before the day"
    planned = rounds.to_unlearn()
    assert planned is not None
    assert (planned.to, planned.versions, planned.updates, planned.sums) == (1, 1, 3, 1)
    assert "1 secure sum" in " ".join(rewind_lines(rounds, planned))
    assert district.members[1].client.unlearn(second[2]).by == "", "another's"
    assert rounds.rewind(by="tests") == 3
    assert district.theta == first
    assert rounds.verify() == []
    assert [len(one) for one in bodies(district)] == [len(sums[1])], "the first sum alone is kept"
    everything = b"".join(path.read_bytes() for path in district.folder.rglob("*") if path.is_file())
    assert sums[0][-40:] not in everything
    assert leaver.client.unlearn(second[2]).by == "", "it is out already"
    assert rounds.to_unlearn() is None
    train(district, 3)
    until_version(district, 4, *EVERYBODY)
    assert district.theta != first
    assert rounds.verify() == []
    (told,) = unlearning_report._report(district.folder).rewinds
    assert (told.void, told.unlearned, told.void_updates) == ((2, 2), ((second[2], leaver.school.name),), 3)
    assert set(told.confirmed) == {member.school.name for member in district.members}
    assert unlearning_report.check_report(unlearning_report.make_report(district.folder), district.folder) == []


@pytest.mark.parametrize("phase", ["keys", "input", "reveal"])
def test_a_rewind_while_a_round_runs_ends_that_round_and_never_wedges(district: District, phase: str) -> None:
    """The round's updates were learned on what becomes void; who had signed trains anew on the new version."""
    rounds = district.service.rounds
    until_version(district, 1, *EVERYBODY)
    train(district, 1)
    if phase == "keys":
        district.visit(0)
    else:
        district.until(phase)
    live = district.secure_rounds.store.live()
    assert live is not None
    assert live.phase == phase
    assert rounds.withdraw(district.members[0].update_id, district.members[0].school.name)
    assert district.secure_rounds.store.live() is not None, "the request itself ends nothing"
    assert rounds.rewind(by="tests") == 2
    after = district.secure_rounds.store.live()
    assert after is None or after.notice.round_id != live.notice.round_id
    for member in district.members:
        member.store.drop_void(lambda version: version == 1)
    train(district, 2)
    until_version(district, 3, *EVERYBODY)
    assert district.theta != START.tobytes()
    assert rounds.log.count("secure") == 2, "one of them is void"
    assert rounds.verify() == []


def test_a_rewind_before_a_restart_ends_the_round_after_it(district: District) -> None:
    until_version(district, 1, *EVERYBODY)
    train(district, 1)
    district.until("reveal")
    rounds = district.service.rounds
    rounds.withdraw(district.members[0].update_id, district.members[0].school.name)
    rounds.after_withdrawal = bool  # killed before it came to that
    rounds.rewind(by="tests")
    district.restart()
    district.visit(1)
    assert rounds.log.count("secure") == 1


def test_before_the_sum_a_member_leaves_alone_and_nothing_waits_for_a_rewind(district: District) -> None:
    leaver = district.members[0]
    district.until("input")
    assert leaver.client.unlearn(leaver.update_id).by == ""
    until_version(district, 1, 1, 2, 3)
    assert district.service.rounds.to_unlearn() is None
    (total,) = secure_sum.headers(district.service.rounds.log.database, 0, 1 << 62)
    assert leaver.update_id not in total.updates


def test_an_officer_takes_a_devices_sums_out(district: District) -> None:
    rounds = district.service.rounds
    until_version(district, 1, *EVERYBODY)
    found = withdrawal.find(rounds, officers.OPERATOR, district.members[0].school.name, "")
    assert found.updates == {district.members[0].school.name: [district.members[0].update_id]}
    withdrawal.withdraw(rounds, found, "Ms Lee", "a family asked")
    assert rounds.withdrawable(district.members[0].school.name) == []
    rounds.rewind(by="Ms Lee")
    assert district.theta == START.tobytes()
    assert rounds.withdrawable(district.members[1].school.name) == [], "it is out already"
    *_, entry = (one for one in audit.records(rounds.log.database) if one.event == "rewound")
    assert (entry.about["unlearned"], entry.about["void"]) == (1, 3)


PRIVATE = Privacy(clip_norm=1.0, noise_multiplier=2.0, epsilon=60.0, delta=1e-5, mechanism="distributed")


@pytest.mark.parametrize("rules", [{"privacy": PRIVATE, "buffer_size": 4}])
def test_a_private_sum_is_bounded_and_stays(district: District, tmp_path: Path) -> None:
    assert RULES.minimum == 3
    until_version(district, 1, *EVERYBODY)
    theta, leaver = district.theta, district.members[1]
    receipt = leaver.client.unlearn(leaver.update_id)
    assert (receipt.status, receipt.by) == ("bounded", "")
    assert district.theta == theta
    assert district.service.rounds.withdrawable(leaver.school.name) == []
    other = district.members[2].client.unlearn(leaver.update_id)
    assert other.status == "accepted", "another's id gets the answer of an unknown one"
    assert district.service.rounds.verify() == []
