"""Private secure rounds: the devices add the noise, the server sees a noised sum, and both ends keep the budget."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from conftest import Attack

from aggregator.institution import SEGMENTS, START, School
from aggregator.secagg.district import RULES, District
from homeroom.contract.layout import Layout
from homeroom.contract.privacy import Privacy, epsilon_spent
from homeroom.contract.round import RoundConfiguration
from homeroom.contract.secagg import SecureRules
from homeroom.contract.update_checks import read_update
from homeroom.errors import TrustError, UpdateError
from homeroom.federation import privacy_ledger
from homeroom.privacy.secagg.noise import noise_share, share_grid
from homeroom_aggregator.admin.privacy_report import folder_figures, report_lines
from homeroom_aggregator.state.secure_sum import SecureSum, SumHeader, unpack

PROMISE = Privacy(clip_norm=0.5, noise_multiplier=2.0, epsilon=4.0, delta=1e-5, mechanism="distributed")
ROUND = RoundConfiguration(bundle_id="0" * 64, secure=RULES, privacy=PROMISE)


@pytest.fixture
def rules() -> dict[str, Any]:
    return {"buffer_size": 4, "privacy": PROMISE}


def a_round(district: District) -> None:
    before = district.version
    for _ in range(8):
        if district.version == before:
            district.visit(0, 1, 2, 3)
    assert district.version == before + 1


def test_a_sum_carries_the_noise_of_its_devices_and_both_ends_know_its_cost(district: District) -> None:
    rounds, layout = district.service.rounds, Layout(SEGMENTS)
    updates = [
        read_update(member.store.outbox.pending()[0].data, rounds.configuration, layout) for member in district.members
    ]
    a_round(district)
    (entry,) = [entry for entry in rounds.log.entries() if entry.kind == "secure"]
    found = unpack(entry.body, layout)
    assert found.header.weights == {"ladder.table": 4, "head.grade": 4}
    noise = np.concatenate(
        [found.numerators[name] - sum(u.values[name].astype(np.int64) for u in updates) for name in found.numerators]
    )
    assert (noise != 0).all()
    assert 0.2 < np.sqrt(np.mean(noise.astype(float) ** 2)) / PROMISE.noise_grid(20) < 3
    assert rounds.verify() == []
    assert rounds.ledger
    assert sorted(rounds.ledger.shares()) == sorted(member.school.name for member in district.members)
    assert rounds.facts()["epsilon_spent"] == pytest.approx(epsilon_spent([2.0], 1e-5))
    for member in district.members:
        member.visit()
        (sent,) = privacy_ledger.read_ledger(member.store)
        assert sent.update_id == member.update_id
    assert "before they mask" in "\n".join(report_lines(folder_figures(district.folder)))
    moved = rounds.state.theta - START
    np.testing.assert_array_equal(moved[7:], 0)


def test_who_has_spent_the_budget_is_in_no_further_cohort(district: District) -> None:
    rounds = district.service.rounds
    assert rounds.ledger
    spender = district.members[0]
    allowed = rounds.ledger.allowed
    for version in range(allowed):
        rounds.ledger.charge(version, [spender.school.name])
    for _ in range(3):
        district.visit(1, 2, 3)
    assert district.phase == "keys"
    with pytest.raises(UpdateError, match=r"budget|private release"):
        spender.visit()
    assert spender.school.name not in district.secure_rounds.store.senders("keys")


@pytest.mark.attack("members", "a new key before each sum is charged, so that several sums count as one")
def test_a_member_is_charged_for_every_sum_whatever_key_it_had(district: District, attack: Attack) -> None:
    a_round(district)
    rounds, thief, key = district.service.rounds, district.members[0], School()
    assert rounds.ledger
    thief.client.rotate(key.key)
    (entry,) = rounds.log.sums()
    total = unpack(entry.body, Layout(SEGMENTS))
    updates = {f"{index:032x}": member.school.name for index, member in enumerate(district.members[1:])}
    header = msgspec.structs.replace(total.header, round_id="1" * 64, updates={**updates, "f" * 32: key.name})
    thief.client.rotate(School().key)  # after it revealed, before the sum is charged
    rounds.take_sum(msgspec.structs.replace(total, header=header))
    attack.got += 2 - rounds.ledger.shares()[thief.school.name]
    with pytest.raises(UpdateError, match="one more would pass"):
        rounds.ledger.check(thief.school.name, rounds.state.version)
    attack.noticed = "nothing"


def test_a_ledger_of_before_that_wrote_later_keys_counts_them_to_their_member(district: District) -> None:
    rounds, member = district.service.rounds, district.members[0]
    assert rounds.ledger
    name, later = member.school.name, School()
    member.client.rotate(later.key)
    for version, key in enumerate((name, later.name)):
        rounds.ledger.charge(version, [key, district.members[1].school.name])
    assert rounds.ledger.shares()[name] == rounds.ledger.entered(name) == 2
    assert rounds.ledger.cost(name) == rounds.ledger.spent()
    with pytest.raises(UpdateError, match="one more would pass"):
        rounds.ledger.check(name, 2)


@pytest.mark.attack("members", "a new key before each sum is charged, so that several sums count as one")
def test_five_sums_under_five_keys_are_five_events_of_one_member(district: District, attack: Attack) -> None:
    rounds, thief = district.service.rounds, district.members[0]
    assert rounds.ledger
    rounds.ledger.allowed = 5
    numerators = {segment.name: np.zeros(segment.size, np.int64) for segment in SEGMENTS[:2]}
    for number in range(5):
        key = School()
        thief.client.rotate(key.key)
        updates = {f"{number}{index:031x}": member.school.name for index, member in enumerate(district.members[1:])}
        updates[f"{number}{'f' * 31}"] = key.name
        fed = {name: list(updates.values()) for name in numerators}
        header = SumHeader(
            round_id=f"{number:064x}",
            roster_id="0" * 64,
            cohort_id="0" * 64,
            updates=updates,
            weights=dict.fromkeys(numerators, 4),
            fed=fed,
            signatures={},
        )
        rounds.take_sum(SecureSum(header, numerators))
    attack.got += 5 - rounds.ledger.shares()[thief.school.name]
    with pytest.raises(UpdateError, match="entered 5 private releases"):
        rounds.ledger.check(thief.school.name, rounds.state.version)
    assert len(rounds.ledger.shares()) == 4, "four members, whatever keys they had"
    attack.noticed = "nothing"


def test_a_device_that_spent_its_own_budget_offers_nothing(district: District) -> None:
    member = district.members[0]
    entered = [privacy_ledger.LedgerEntry(f"{n:032x}", 2.0) for n in range(9)]
    privacy_ledger.LEDGER.write(member.store, entered)
    assert member.visit() == "nothing to contribute yet: train, then sync again"


def test_the_shares_of_the_honest_alone_are_all_the_noise_that_was_promised() -> None:
    for honest in (1, 2, 3, 7, 20):
        one = share_grid(PROMISE, 20, honest)
        assert honest * one**2 >= PROMISE.noise_grid(20) ** 2 > honest * (one - 1) ** 2
    add = noise_share(ROUND, 4, 3)
    drawn = np.concatenate([add(np.zeros(6, np.int64), 4)[None] for _ in range(400)])
    np.testing.assert_array_equal(drawn[:, 4:], 0)
    assert 0.87 < drawn[:, :4].std() / share_grid(PROMISE, 20, 2) < 1.13, "one of four devices counts as corrupt"


def test_a_cohort_that_cannot_keep_the_promise_gets_nothing() -> None:
    rules = SecureRules(minimum=3, cohort=9, corrupt_rate=0.3)
    with pytest.raises(TrustError, match="keep the promise"):
        noise_share(msgspec.structs.replace(ROUND, secure=rules), 30, 3)


@pytest.mark.parametrize(
    ("secure", "mechanism"), [(RULES, "central"), (None, "distributed"), (SecureRules(cohort=100), "distributed")]
)
def test_noise_comes_from_where_it_can_be_added(secure: SecureRules | None, mechanism: str) -> None:
    fields = msgspec.structs.asdict(PROMISE) | {"mechanism": mechanism}
    with pytest.raises(ValueError, match=r"distributed|honest"):
        RoundConfiguration(bundle_id="0" * 64, secure=secure, privacy=Privacy(**fields))
