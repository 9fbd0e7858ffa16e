"""A whole secure round in one process: the sum is exact with drop-outs in every phase; past the promise none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from secagg_clients import Round, gather

from homeroom.contract.secagg import SecureRules
from homeroom.errors import TrustError
from homeroom_aggregator.secagg.unmask import Unmasking, decode_sum, unmask_sum


def opened(found: Round, absent: set[int]) -> np.ndarray | None:
    """The sum, or None where too few revealed."""
    opening = Unmasking(found.view, found.notice.round_id, found.sharers, found.inputs)
    for place, reveal in found.reveal(absent).items():
        opening.add(place, reveal)
    if opening.missing:
        return None
    terms = found.view.sum_layout(found.devices[0].state.minimum)
    return unmask_sum(found.inputs.values(), terms, opening)


@pytest.mark.parametrize("count", [3, 11])
@pytest.mark.parametrize("phase", ["nobody", "shares", "input", "consent", "reveal"])
def test_the_sum_is_exact_when_devices_drop_out(count: int, phase: str) -> None:
    found = gather(count)
    gone = set(range(0, found.view.parameters.drops * 2, 2))

    def leaving(at: str) -> set[int]:
        return gone if phase == at else set()

    found.share(leaving("shares"))
    found.mask(leaving("input"))
    found.consent(leaving("consent"))
    result = opened(found, leaving("reveal"))
    assert result is not None
    inside = set(range(count)) - (gone if phase in ("shares", "input") else set())
    assert set(found.inputs) == inside
    np.testing.assert_array_equal(result, found.plain_sum(inside))
    assert decode_sum(result, *_terms(found))[1]["head.grade"] > 0


def _terms(found: Round):  # type: ignore[no-untyped-def]
    terms = found.view.sum_layout(found.devices[0].state.minimum)
    return terms, dict.fromkeys(terms.segments, len(found.inputs)), found.configuration


@settings(max_examples=6, deadline=None)
@given(st.data())
def test_any_drop_outs_within_the_promise_leave_an_exact_sum_and_beyond_it_none(data: st.DataObject) -> None:
    count = data.draw(st.integers(4, 8))
    found = gather(count, rules=SecureRules(minimum=3, drop_rate=0.3, corrupt_rate=0.1))
    leave = {place: data.draw(st.sampled_from(["never", "input", "consent", "reveal"])) for place in range(count)}

    def leaving(*at: str) -> set[int]:
        return {place for place, when in leave.items() if when in at}

    gone = count - len(leaving("never"))
    try:
        found.share()
        found.mask(leaving("input"))
        found.consent(leaving("input", "consent"))
        result = opened(found, leaving("reveal"))
    except TrustError:
        result = None
    if result is None:
        assert gone > found.view.parameters.drops
    else:
        np.testing.assert_array_equal(result, found.plain_sum(found.inputs))


def test_a_sparse_graph_gives_the_exact_sum_too() -> None:
    found = gather(34, rules=SecureRules(minimum=3, drop_rate=0.06, corrupt_rate=0.03))
    assert found.view.parameters.degree < 33
    found.share({7})
    found.mask({9})
    found.consent()
    result = opened(found, set())
    assert result is not None
    np.testing.assert_array_equal(result, found.plain_sum(set(range(34)) - {7, 9}))


def test_a_segment_that_too_few_feed_is_not_in_the_sum() -> None:
    found = gather(8, examples=lambda place: {"ladder.table": 5} | ({"head.grade": 4} if place < 4 else {}))
    terms = found.view.sum_layout(3)
    assert terms.segments == ("ladder.table",), "4 feeders less 2 drop-outs are below 3"
    found.share()
    found.mask()
    found.consent()
    result = opened(found, set())
    assert result is not None
    np.testing.assert_array_equal(result, found.plain_sum(range(8)))


def test_a_device_without_a_segment_adds_nothing_to_it() -> None:
    found = gather(8, examples=lambda place: {"ladder.table": 5} | ({"head.grade": 4} if place < 6 else {}))
    found.share()
    found.mask()
    found.consent()
    result = opened(found, set())
    assert result is not None
    np.testing.assert_array_equal(result, found.plain_sum(range(8)))
    assert int(result[-1]) == sum(int(_weight(found, place)) for place in range(6))


def _weight(found: Round, place: int) -> int:
    return int(found.plain_sum([place])[-1])


def test_noise_is_added_to_the_integers_before_anything_masks_them() -> None:
    from homeroom.privacy.secagg.encoding import encode

    found = gather(4)
    terms = found.view.sum_layout(3)
    noisy = encode(terms, found.devices[0].update, 2, found.configuration, noise=lambda values: values - 7)
    np.testing.assert_array_equal(noisy.view(np.int64), found.plain_sum([0]) - 7)
