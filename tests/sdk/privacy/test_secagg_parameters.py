"""Degree, threshold and quorum: what they promise holds, checked by counting and by drawing."""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from secagg_clients import gather

from homeroom.contract.secagg import SecureCohort, SecureRules
from homeroom.errors import InputError, TrustError
from homeroom.privacy.secagg.graph import NeighbourGraph
from homeroom.privacy.secagg.parameters import (
    CORRECTNESS_BITS,
    MOST_COMPLETE_DEVICES,
    SECURITY_BITS,
    choose_parameters,
    hypergeometric_tail,
)


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
    with pytest.raises(TrustError):
        sparse.check_present(sparse.ring[0], set(range(sparse.size)) - gone)


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
