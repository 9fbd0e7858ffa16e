"""Degree, threshold and quorum: what they promise holds, checked by counting and by drawing."""

from __future__ import annotations

import re
from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from secagg_clients import gather

from homeroom.contract.privacy import Privacy
from homeroom.contract.round import CohortRules, RoundConfiguration
from homeroom.contract.secagg import SecureCohort, SecureRules, Survivors
from homeroom.errors import InputError, TrustError
from homeroom.privacy.secagg.cohort_size import check_roster, starts
from homeroom.privacy.secagg.graph import NeighbourGraph
from homeroom.privacy.secagg.noise import noise_share
from homeroom.privacy.secagg.parameters import (
    CORRECTNESS_BITS,
    MOST_COMPLETE_DEVICES,
    SECURITY_BITS,
    choose_parameters,
    hypergeometric_tail,
)
from homeroom_aggregator.merge.synchronous import SynchronousRound


def test_the_tail_is_the_hypergeometric_one() -> None:
    marked = set(range(4))
    draws = list(combinations(range(9), 5))
    for least in range(6):
        counted = sum(len(marked & set(draw)) >= least for draw in draws) / len(draws)
        assert hypergeometric_tail(9, 4, 5, least) == pytest.approx(counted)


@settings(max_examples=25)
@given(st.integers(3, 400), st.sampled_from([(0.3, 0.1), (0.3, 0.05), (0.2, 0.2), (0.1, 0.1), (0.0, 0.05)]))
def test_every_bound_holds_for_what_is_chosen(devices: int, rates: tuple[float, float]) -> None:
    try:
        found = choose_parameters(devices, *rates)
    except InputError:
        assert devices < 10
        return
    c, d, k, t = found.corrupted, found.drops, found.degree, found.threshold
    assert found.quorum > (devices + c) / 2, "two quorums share an honest device"
    assert found.quorum <= devices - d, "the promised drop-outs leave a quorum"
    if found.absent is None:
        assert k == devices - 1
        assert c < t <= devices - 1 - d
        return
    half, security, correctness = k // 2, 2.0**-SECURITY_BITS, 2.0**-CORRECTNESS_BITS
    assert devices * hypergeometric_tail(devices - 1, c, k, t) <= security
    assert devices * hypergeometric_tail(devices, c, half, half - found.absent) <= security
    assert devices * hypergeometric_tail(devices - 1, d, k, k - t + 1) <= correctness
    assert devices * hypergeometric_tail(devices, d, half, found.absent + 1) <= correctness


def test_the_degree_grows_much_slower_than_the_cohort() -> None:
    degrees = [choose_parameters(n, 0.3, 0.05).degree for n in (100, 500, 1000)]
    assert degrees == sorted(degrees)
    assert degrees[-1] < 1.3 * degrees[1] < 150


def test_rates_that_leave_no_quorum_are_refused() -> None:
    with pytest.raises(InputError, match="cannot bear"):
        choose_parameters(20, 0.45, 0.3)


@pytest.fixture(scope="module")
def sparse() -> NeighbourGraph:
    found = gather(MOST_COMPLETE_DEVICES + 4, rules=SecureRules(minimum=3, drop_rate=0.05, corrupt_rate=0.03))
    assert not found.view.parameters.complete
    return found.view.graph


def test_neighbours_are_mutual_and_as_many_as_the_degree(sparse: NeighbourGraph) -> None:
    for place in range(sparse.size):
        neighbours = sparse.neighbours(place)
        assert len(set(neighbours)) == sparse.parameters.degree
        assert all(place in sparse.neighbours(other) for other in neighbours)


def test_no_allowed_absence_disconnects_the_ring_even_with_the_rest_of_a_gap_corrupted(sparse: NeighbourGraph) -> None:
    half, absent = sparse.parameters.degree // 2, sparse.parameters.absent
    assert absent is not None
    rng = np.random.default_rng(1)
    for _ in range(200):
        gone = set(rng.choice(sparse.size, int(rng.integers(0, absent + 3)), replace=False).tolist())
        here = set(range(sparse.size)) - gone
        if sparse.gap(here):
            continue
        left = here - set(rng.choice(sorted(here), half - absent - 1, replace=False).tolist())
        reached, todo = set[int](), [min(left)]
        while todo:
            place = todo.pop()
            if place not in reached:
                reached.add(place)
                todo += [other for other in sparse.neighbours(place) if other in left]
        assert reached == left


def test_those_who_stand_together_may_not_be_left_out_together(sparse: NeighbourGraph) -> None:
    assert sparse.parameters.absent is not None
    gone = set(sparse.ring[3 : 4 + sparse.parameters.absent])
    assert sparse.gap(set(range(sparse.size)) - gone)
    with pytest.raises(TrustError, match="stand together in the ring"):
        sparse.check_present(sparse.ring[0], set(range(sparse.size)) - gone)
    with pytest.raises(TrustError, match="no quorum"):
        sparse.check_present(0, {0, *sparse.neighbours(0)})
    with pytest.raises(TrustError, match="too few of this device's neighbours"):
        sparse.check_present(0, set(range(sparse.size)) - set(sparse.neighbours(0)))


def test_survivors_may_leave_out_nobody_who_stands_together() -> None:
    found = gather(MOST_COMPLETE_DEVICES + 4, rules=SecureRules(minimum=3, drop_rate=0.05, corrupt_rate=0.03))
    absent = found.view.graph.parameters.absent
    assert absent is not None
    left = sorted(set(range(len(found.devices))) - set(found.view.graph.ring[3 : 4 + absent]))
    assert len(left) >= found.view.parameters.quorum
    with pytest.raises(TrustError, match="too many that stand together"):
        found.view.check_survivors(Survivors(tuple(left)), 3)


def test_the_ring_is_another_for_other_keys() -> None:
    one = gather(MOST_COMPLETE_DEVICES + 4, rules=SecureRules(minimum=3, drop_rate=0.05, corrupt_rate=0.03))
    other = NeighbourGraph(SecureCohort(one.cohort.members), bytes(32), one.view.parameters)
    assert one.view.graph.ring != other.ring
    assert sorted(one.view.graph.ring) == sorted(other.ring) == list(range(MOST_COMPLETE_DEVICES + 4))


def test_the_numbers_that_the_documentation_gives() -> None:
    assert [
        (choose_parameters(n, 0.3, 0.1).degree, choose_parameters(n, 0.3, 0.1).threshold) for n in (10, 30, 100, 500)
    ] == [
        (9, 6),
        (29, 20),
        (66, 11),
        (152, 42),
    ]
    assert comb(500, 2) > 500 * 152 / 2


def test_numbers_of_corrupt_devices_and_drop_outs_follow_from_the_decimal_that_was_signed() -> None:
    for hundredths in range(1, 31):
        rules = SecureRules(drop_rate=hundredths / 100, corrupt_rate=hundredths / 100)
        for devices in range(1, 400):
            assert rules.drops(devices) == hundredths * devices // 100
            assert rules.corrupted(devices) == -(-hundredths * devices // 100)
            assert rules.honest(devices, 50) == 50 - rules.corrupted(devices), "one share counts everywhere alike"
    assert SecureRules(corrupt_rate=0.29).honest(100, 40) == 11, "0.29 * 100 is 28.999... in binary"
    synchronous = SynchronousRound(CohortRules(deadline_s=1, quorum=1, over=1.1), 10)
    assert synchronous.places == 11, "10 * 1.1 is above 11 in binary"


@pytest.mark.parametrize(
    ("devices", "minimum", "rates", "numbers"),
    [
        (5, 5, (0.3, 0.1), "6 devices, or minimum 4"),
        (20, 20, (0.3, 0.1), "28 devices, or minimum 14"),
        (2, 3, (0.3, 0.1), "3 devices"),
        (30, 5, (0.45, 0.3), "lower rates"),
        (6, 5, (0.3, 0.1), ""),
        (3, 3, (0.3, 0.1), ""),
    ],
)
@pytest.mark.attack("members", "a roster with which no secure round would ever start")
def test_a_roster_that_can_never_start_is_refused_with_the_numbers_that_would(
    devices: int, minimum: int, rates: tuple[float, float], numbers: str
) -> None:
    rules = SecureRules(minimum=3, drop_rate=rates[0], corrupt_rate=rates[1])
    configuration = RoundConfiguration(bundle_id="0" * 64, secure=rules)
    if not numbers:
        check_roster(devices, minimum, configuration, "roster.json")
        return
    with pytest.raises(InputError, match=numbers) as caught:
        check_roster(devices, minimum, configuration, "roster.json")
    assert f"{devices} devices, minimum {minimum}, drop-out {rates[0]}" in caught.value.what
    for more, lower in re.findall(r"(\d+) devices|minimum (\d+)", numbers):
        check_roster(int(more or devices), int(lower or minimum), configuration, "roster.json")


def test_a_private_cohort_whose_noise_no_honest_device_is_sure_to_add_never_starts() -> None:
    privacy = Privacy(clip_norm=0.5, noise_multiplier=1.0, epsilon=8.0, delta=1e-5, mechanism="distributed")
    rules = SecureRules(minimum=3, cohort=20, corrupt_rate=0.1)
    configuration = RoundConfiguration(bundle_id="0" * 64, secure=rules, privacy=privacy)
    assert starts(20, 3, configuration)
    assert not starts(21, 3, configuration), "three of 21 count as corrupt, and three are all that a sum needs"
    with pytest.raises(TrustError, match="keep the promise"):
        noise_share(configuration, 21, 3)
