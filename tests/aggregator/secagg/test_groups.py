"""Grouped secure rounds: each group has a sum of its own, no group's is longer than the median, none is too small."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from secagg_clients import gather

from aggregator.institution import START, make_folder, running
from aggregator.secagg.district import District, Member
from homeroom.contract.policy import Policy
from homeroom.contract.round import RoundConfiguration
from homeroom.contract.secagg import SecureCohort, SecureRules
from homeroom.contract.update_checks import read_update
from homeroom.errors import InputError, TrustError
from homeroom.federation.policy import refusal_reason
from homeroom.privacy.secagg import client as steps
from homeroom.privacy.secagg.cohort_size import check_roster
from homeroom.privacy.secagg.encoding import ThetaShape
from homeroom.privacy.secagg.groups import group_count, groups_of
from homeroom_aggregator.admin.folder import replace_roster
from homeroom_aggregator.merge.bounded import norm_of
from homeroom_aggregator.secagg import coordinator
from homeroom_aggregator.secagg.opened import bounded_groups
from homeroom_aggregator.server.dashboard.pages import round_kind
from homeroom_aggregator.server.service import open_service

DEVICES = 12  # three groups of four; a sum needs three
RULES = SecureRules(minimum=3, cohort=DEVICES, drop_rate=0.25, corrupt_rate=0.1, phase_s=3600)


@pytest.fixture
def devices() -> int:
    return DEVICES


@pytest.fixture
def grouped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, devices: int) -> Iterator[District]:
    """A served district with grouped rounds and so many devices."""
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    (tmp_path / "keys").mkdir()
    rules = msgspec.structs.replace(RULES, cohort=devices)
    folder = make_folder(tmp_path, min_devices=3, secure=rules, rule="grouped")  # type: ignore[arg-type]
    service = open_service(folder)
    with running(service) as address:
        found = District(service, address, tmp_path)
        found.members = [Member(found, number) for number in range(devices)]
        replace_roster(folder, msgspec.json.encode(found.roster(found.members)))
        yield found
    for member in found.members:
        member.store.close()
    found.service.close()


def until(district: District, phase: str, absent: frozenset[int] = frozenset()) -> None:
    """All that are not absent come, one after another, until that phase has begun or a version is there."""
    for _ in range(6):
        for number in range(len(district.members)):
            if district.phase == phase or district.version:
                return
            if number not in absent:
                district.visit(number)
    assert district.phase == phase or district.version


def groups(district: District) -> list[list[int]]:
    """Numbers of the members in each group of the round under way."""
    live = district.secure_rounds.store.live()
    assert live
    numbers = {member.school.name: number for number, member in enumerate(district.members)}
    views = district.secure_rounds._parts(live).views
    return [[numbers[one.device.hex()] for one in view.cohort.members] for view in views]


def expected(district: District, chosen: list[list[int]]) -> bytes:
    """Theta after the bounded means of these groups, from updates that never left their devices."""
    rounds = district.service.rounds
    layout, configuration, theta = rounds.rules.layout, rounds.configuration, rounds.bundle.theta()
    for name in ("ladder.table", "head.grade"):
        sums = []
        for numbers in chosen:
            datas = [district.members[number].store.outbox.pending()[0].data for number in numbers]
            values = [read_update(data, configuration, layout).values[name].astype(np.int64) for data in datas]
            sums.append((sum(values) * configuration.heaviest, len(numbers) * configuration.heaviest))
        total, units = bounded_groups(sums)
        where, step = layout.slices[name], total.astype(np.float64) / units * 2.0**-configuration.scale_bits
        theta[where] = (theta[where].astype(np.float64) + step).astype(np.float32)
    return bytes(theta.tobytes())


def test_each_group_is_opened_alone_and_the_version_is_replayed_to_the_last_bit(
    grouped: District, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, unmask = list[int](), coordinator.unmask_sum

    def unmask_counted(inputs: Iterator[bytes], *rest: object) -> np.ndarray:
        bodies = list(inputs)
        opened.append(len(bodies))
        return unmask(bodies, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(coordinator, "unmask_sum", unmask_counted)
    until(grouped, "shares")
    split = groups(grouped)
    assert sorted(number for group in split for number in group) == [*range(DEVICES)]
    wanted = expected(grouped, split)
    until(grouped, "none")
    assert grouped.theta == wanted
    assert opened == [4, 4, 4]
    rounds = grouped.service.rounds
    assert (rounds.log.count("update"), rounds.log.count("secure")) == (0, 1)
    assert rounds.verify() == []
    grouped.service.close()
    grouped.service = open_service(grouped.folder)
    assert grouped.theta == wanted, "another start"


def test_a_liar_moves_theta_by_no_more_than_its_groups_share(grouped: District) -> None:
    liar = grouped.members[7]
    honest = max(norm(member) for member in grouped.members)
    configuration = grouped.service.rounds.configuration
    liar.store.outbox.drop(liar.update_id)
    data = liar.school.update(configuration, np.full(START.shape, -9.0), ladder_table=500, head_grade=500)
    layout = grouped.service.rounds.rules.layout
    liar.store.outbox.queue(read_update(data, configuration, layout).header.update_id, data, 0, ())
    assert norm(liar) > 10 * honest
    until(grouped, "shares")
    wanted = expected(grouped, groups(grouped))
    until(grouped, "none")
    assert grouped.theta == wanted
    moved = np.frombuffer(grouped.theta, np.float32) - START
    assert np.linalg.norm(moved) <= honest, "the plain masked mean would have moved by twice that"


def norm(member: Member) -> float:
    rounds = member.district.service.rounds
    update = read_update(member.store.outbox.pending()[0].data, rounds.configuration, rounds.rules.layout)
    return float(np.hypot(*(norm_of(values) for values in update.values.values()))) * 2.0**-20


def test_a_server_that_is_killed_between_any_two_requests_merges_the_groups_once(grouped: District) -> None:
    until(grouped, "shares")
    wanted = expected(grouped, groups(grouped))
    for _ in range(5):
        for number in range(DEVICES):
            if grouped.version == 0:
                grouped.visit(number)
                grouped.restart()
    assert grouped.theta == wanted
    assert grouped.service.rounds.log.count("secure") == 1


def test_one_drop_out_of_a_group_is_left_out_and_a_group_below_the_minimum_ends_a_round_of_three(
    grouped: District,
) -> None:
    until(grouped, "input")
    split = groups(grouped)
    live = grouped.secure_rounds.store.live()
    assert live
    came = set(grouped.secure_rounds.store.senders("input"))
    gone = next(g for g in split if not any(grouped.members[n].school.name in came for n in g[:2]))[:2]
    until_over(grouped, frozenset(gone))
    after = grouped.secure_rounds.store.live()
    assert after
    assert after.notice.round_id != live.notice.round_id
    assert grouped.version == 0
    assert grouped.secure_rounds.store.last_failure() == "only 2 devices left of the 3 that a sum needs"
    assert all(member.store.outbox.pending() for member in grouped.members), "nobody's update is spent"
    until(grouped, "input")
    split = groups(grouped)
    came = set(grouped.secure_rounds.store.senders("input"))
    gone = [next(n for n in range(DEVICES) if grouped.members[n].school.name not in came)]
    wanted = expected(grouped, [[n for n in group if n not in gone] for group in split])
    until_over(grouped, frozenset(gone))
    until(grouped, "none", frozenset(gone))
    assert grouped.theta == wanted


@pytest.mark.parametrize("devices", [16])
def test_a_group_below_the_minimum_is_not_opened_and_the_others_make_a_version(
    grouped: District, devices: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, unmask = list[int](), coordinator.unmask_sum
    monkeypatch.setattr(coordinator, "unmask_sum", lambda *asked: opened.append(1) or unmask(*asked))
    until(grouped, "input")
    split = groups(grouped)
    assert [len(group) for group in split] == [4, 4, 4, 4]
    came = set(grouped.secure_rounds.store.senders("input"))
    short = next(group for group in split if not any(grouped.members[n].school.name in came for n in group[:2]))
    gone = frozenset(short[:2])
    wanted = expected(grouped, [group for group in split if group != short])
    until_over(grouped, gone)
    said = "a group is not opened: only 2 devices left of the 3 that a sum needs"
    assert sum(said in record.getMessage() for record in caplog.records) == 1
    until(grouped, "none", gone)
    assert (grouped.theta, len(opened)) == (wanted, 3)
    grouped.visit(*range(devices))
    pending = {n for n, member in enumerate(grouped.members) if member.store.outbox.pending()}
    assert pending == set(short), "what was not opened is offered again"
    assert grouped.service.rounds.verify() == []


def until_over(district: District, absent: frozenset[int]) -> None:
    """All others come, and the time of the phase is over."""
    for number in range(len(district.members)):
        if number not in absent:
            district.visit(number)
    district.later_s += RULES.phase_s + 1
    district.visit(next(n for n in range(len(district.members)) if n not in absent))


def test_devices_work_out_their_group_and_refuse_one_that_is_too_small() -> None:
    found = gather(12, rules=RULES)
    shape = ThetaShape(found.layout, msgspec.structs.replace(found.configuration, rule="grouped"))
    split = groups_of(found.cohort, found.notice.round_id, 3, shape)
    assert [len(group.members) for group in split] == [4, 4, 4]
    for device in found.devices:
        shared = steps.share(device.state, found.cohort, found.roster, shape)
        assert shared.cohort in split
        assert device.state.advertisement in shared.cohort.members
        assert steps.share(shared, found.cohort, found.roster, shape) == shared
        others = SecureCohort(tuple(one for one in found.cohort.members if one not in shared.cohort.members[:1]))
        with pytest.raises(TrustError, match="another cohort than before"):
            steps.share(shared, others, found.roster, shape)
    few = SecureCohort(found.cohort.members[:11])
    with pytest.raises(TrustError, match="11 devices: too few for 3 groups of 3 after drop-outs"):
        steps.share(found.devices[0].state, few, found.roster, shape)


@given(st.integers(0, 200), st.integers(3, 20), st.sampled_from([0.0, 0.1, 0.25, 0.3]))
def test_every_group_gives_a_sum_of_the_minimum_after_all_drop_outs(devices: int, minimum: int, rate: float) -> None:
    rules = SecureRules(drop_rate=rate)
    count = group_count(devices, minimum, rules)
    assert count == 0 or count >= 3
    for group in range(count):
        size = devices // count + (group < devices % count)
        assert size - rules.drops(size) >= minimum
        assert rate == 0 or size > minimum, "one at least may drop out"


@settings(max_examples=100)
@given(
    st.lists(
        st.tuples(st.lists(st.integers(-(1 << 24), 1 << 24), min_size=4, max_size=4), st.integers(1, 1 << 20)),
        min_size=3,
        max_size=7,
    ),
    st.randoms(use_true_random=False),
)
def test_no_group_counts_for_more_than_the_median_in_any_order(
    rows: list[tuple[list[int], int]], shuffle: object
) -> None:
    sums = [(np.array(values, np.int64) * units, units) for values, units in rows]
    total, weight = bounded_groups(sums)
    order = [*sums]
    shuffle.shuffle(order)
    again, _ = bounded_groups(order)
    np.testing.assert_array_equal(total, again)
    assert weight == sum(units for _, units in rows)
    norms = sorted((norm_of(np.array(values, np.int32)), units) for values, units in rows)
    reached, bound = 0, 0
    for one, units in norms:
        reached, bound = reached + units, one
        if 2 * reached >= weight:
            break
    for (values, _), one in zip(rows, sums, strict=True):
        alone, thrice = bounded_groups([one] * 3)
        assert all(abs(Fraction(int(mean), thrice) - value) <= 1 for mean, value in zip(alone, values, strict=True))
    squares = sum(int(one) ** 2 for one in total)
    assert squares <= (weight * bound) ** 2


def test_what_does_not_go_together_is_refused_and_said() -> None:
    with pytest.raises(ValueError, match="rule grouped needs secure rounds"):
        RoundConfiguration(bundle_id="b" * 64, rule="grouped")
    with pytest.raises(ValueError, match="school_share says nothing with rule grouped"):
        RoundConfiguration(bundle_id="b" * 64, rule="grouped", secure=RULES, school_share=0.5)
    configuration = RoundConfiguration(bundle_id="b" * 64, rule="grouped", secure=RULES, min_devices=9)
    with pytest.raises(InputError, match=r"11 devices, minimum 3.*no secure round would ever start"):
        check_roster(11, 3, configuration, "roster.json")
    check_roster(12, 3, configuration, "roster.json")
    policy = Policy(institution="Hill", version=1, min_devices=4)
    assert refusal_reason(policy, configuration) == (
        "the policy asks for at least 4 devices in a release, the aggregator opens sums of groups from 3"
    )
    assert refusal_reason(policy, msgspec.structs.replace(configuration, rule="mean")) is None
    assert configuration.document["rule"] == "grouped", "signed, and no value that devices of before can read"
    assert round_kind(configuration).startswith("secure rounds in groups of a sum each, at any hour")
