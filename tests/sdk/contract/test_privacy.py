"""The clip of a private round: no update is longer than the sensitivity, whatever was trained."""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import msgspec
import numpy as np
import pytest
import safetensors.numpy
from conftest import Attack
from hypothesis import given, settings
from hypothesis import strategies as st

from homeroom.contract import adaptive_clipping, envelope, update
from homeroom.contract.canonical_json import digest
from homeroom.contract.codecs import ENCODED_LIMIT
from homeroom.contract.layout import Layout, Parameter, Segment
from homeroom.contract.privacy import Privacy, clip, epsilon_spent, squared_norm
from homeroom.contract.round import RoundConfiguration
from homeroom.contract.signing import new_key, public_hex
from homeroom.contract.update import SegmentEntry, UpdateHeader, make_private, make_update
from homeroom.contract.update_checks import read_update
from homeroom.errors import UpdateError
from homeroom_aggregator.state.privacy_ledger import release_event

KEY = new_key()
LAYOUT = Layout(
    (
        Segment(name="ladder.text", parameters=(Parameter("w", (4, 3)),), meaning="ladder", modality="text"),
        Segment(name="head.a", parameters=(Parameter("w", (5,)),), meaning="linear", task="a"),
        Segment(name="head.own", parameters=(Parameter("w", (2,)),), meaning="linear", scope="personal"),
    )
)
PROMISE = Privacy(clip_norm=0.5, noise_multiplier=2.0, epsilon=8.0, delta=1e-5)
ROUND = RoundConfiguration(bundle_id="0" * 64, privacy=PROMISE)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1, max_size=40),
    st.floats(2e-6, 16.0),
    st.integers(0, 2**32 - 1),
    st.sampled_from([1, 1000, 60_000]),
)
def test_an_update_is_never_longer_than_the_sensitivity(values: list[float], norm: float, seed: int, size: int) -> None:
    promise = Privacy(clip_norm=norm, noise_multiplier=1.0, epsilon=50.0, delta=1e-5)
    limit = promise.clip_grid(20)
    whole = np.random.default_rng(seed).choice(np.array(values, np.float32), size)
    grid = clip(whole, promise.clip_grid(20), 20)
    assert sum(int(v) ** 2 for v in grid.tolist()) == squared_norm(grid) <= limit**2
    assert limit <= norm * 2**20
    length = float(np.linalg.norm(whole.astype(np.float64))) * 2**20
    if length > 1e6 and limit > 1e6:  # what is long loses little to the rounding
        assert math.sqrt(squared_norm(grid)) >= 0.99 * min(length, limit) - math.sqrt(size)


def test_a_short_update_keeps_its_direction_and_length() -> None:
    whole = np.linspace(-0.1, 0.1, 17, dtype=np.float32)
    assert np.abs(clip(whole, PROMISE.clip_grid(20), 20) * 2.0**-20 - whole).max() < 2.0**-20
    long = clip(100 * whole, PROMISE.clip_grid(20), 20).astype(np.float64)
    assert long @ whole / np.linalg.norm(long) / np.linalg.norm(whole) > 0.999999


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_not_clipped_but_refused(value: float) -> None:
    with pytest.raises(UpdateError) as caught:
        make_update(KEY, ROUND, LAYOUT, np.full(LAYOUT.size, value, np.float32), {"head.a": 1}, 0)
    assert caught.value.code == "not_finite"


def test_a_private_update_holds_everything_shared_and_tells_no_count() -> None:
    data = make_update(KEY, ROUND, LAYOUT, np.ones(LAYOUT.size, np.float32), {"head.a": 77, "head.own": 3}, 0)
    read = read_update(data, ROUND, LAYOUT)
    assert set(read.values) == {"ladder.text", "head.a"}
    assert {entry.examples for entry in read.header.segments} == {1}
    assert read.header.privacy == PROMISE
    assert sum(squared_norm(v) for v in read.values.values()) <= PROMISE.clip_grid(20) ** 2


def forged(values: dict[str, np.ndarray], **changes: Any) -> bytes:
    """An update signed by a device that does not keep to the rules."""
    payload = safetensors.numpy.save({LAYOUT[name].segment_id: v for name, v in values.items()})
    examples = changes.pop("examples", 1)
    fields = {
        "update_id": "a" * 32,
        "device": public_hex(KEY),
        "bundle_id": ROUND.bundle_id,
        "base_version": 0,
        "scale_bits": ROUND.scale_bits,
        "segments": tuple(SegmentEntry(LAYOUT[name].segment_id, name, examples) for name in values),
        "payload_sha256": digest(payload),
        "privacy": PROMISE,
    } | changes
    return envelope.pack(update.UPDATE_MAGIC, "update", UpdateHeader(**fields), payload, KEY)


def zeros() -> dict[str, np.ndarray]:
    return {"ladder.text": np.zeros(12, np.int32), "head.a": np.zeros(5, np.int32)}


def longest(more: int = 0) -> dict[str, np.ndarray]:
    values = zeros()
    values["head.a"][0] = PROMISE.clip_grid(20) + more
    return values


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (forged(longest(1)), "not_clipped"),
        (forged(longest() | {"ladder.text": np.eye(1, 12, dtype=np.int32)[0]}), "not_clipped"),
        (forged({name: np.full_like(v, ENCODED_LIMIT) for name, v in zeros().items()}), "not_clipped"),
        (forged({"head.a": np.zeros(5, np.int32)}), "not_private"),
        (forged(zeros(), examples=30), "not_private"),
        (forged(zeros(), privacy=msgspec.UNSET), "not_private"),
        (forged(zeros(), privacy=msgspec.structs.replace(PROMISE, noise_multiplier=9.0)), "not_private"),
    ],
)
def test_an_update_that_breaks_the_promise_is_refused(data: bytes, code: str) -> None:
    with pytest.raises(UpdateError) as caught:
        read_update(data, ROUND, LAYOUT)
    assert caught.value.code == code


def test_the_longest_honest_update_is_taken() -> None:
    assert read_update(forged(longest()), ROUND, LAYOUT).values["head.a"][0] == PROMISE.clip_grid(20)


@pytest.mark.attack("members", "a private update twice in one release, longer than the clip, or beyond the budget")
def test_values_and_signal_together_are_no_longer_than_the_clip() -> None:
    """Noise covers both at once: values of the whole clip beside any signal would move a release by more."""
    adapts = msgspec.structs.replace(PROMISE, quantile=0.5)
    asked = msgspec.structs.replace(ROUND, privacy=adapts)
    signal, room = adaptive_clipping.signal(adapts, True, 20), adaptive_clipping.values_grid(adapts, 20)
    assert signal > 0
    read_update(forged(longest(room - PROMISE.clip_grid(20)), privacy=adapts, signal=signal), asked, LAYOUT)
    for values, told in ((longest(), signal), (longest(), -signal), (zeros(), PROMISE.clip_grid(20) + 1)):
        with pytest.raises(UpdateError) as caught:
            read_update(forged(values, privacy=adapts, signal=told), asked, LAYOUT)
        assert caught.value.code == "not_clipped"


def test_a_plain_update_is_none_of_a_private_round() -> None:
    plain = RoundConfiguration(bundle_id="0" * 64)
    data = make_update(KEY, plain, LAYOUT, np.zeros(LAYOUT.size, np.float32), {"head.a": 1}, 0)
    with pytest.raises(UpdateError) as caught:
        read_update(data, ROUND, LAYOUT)
    assert caught.value.code == "not_private"


@pytest.mark.parametrize(
    ("promise", "round_", "says"),
    [
        ({"noise_multiplier": 0.0}, {}, "noise_multiplier"),
        ({"clip_norm": 0.0}, {}, "clip_norm"),
        ({"clip_norm": float("nan")}, {}, "clip_norm"),
        ({"epsilon": float("inf")}, {}, "epsilon"),
        ({"delta": 1.0}, {}, "delta"),
        ({"clip_norm": 1e-9}, {}, "clip_norm"),
        ({"clip_norm": 17.0}, {}, "clip_norm"),
        ({"noise_multiplier": 1e9}, {}, "noise_multiplier"),
        ({}, {"codec": "int8"}, "lossy"),
        ({}, {"min_devices": 6}, "no private release"),
    ],
)
def test_a_promise_that_cannot_be_kept_is_no_configuration(
    promise: dict[str, float], round_: dict[str, Any], says: str
) -> None:
    fields = msgspec.to_builtins(PROMISE) | promise
    with pytest.raises(ValueError, match=says):
        RoundConfiguration(bundle_id="0" * 64, privacy=Privacy(**fields), **round_)
    document = {"bundle_id": "0" * 64, "privacy": fields} | round_
    with pytest.raises(msgspec.ValidationError, match=says):
        msgspec.convert(document, RoundConfiguration)


def test_noise_is_never_less_than_promised_and_follows_from_the_clip() -> None:
    for clip_norm in (0.1, 0.3, 1.0, 7.7):
        for z in (0.1, 0.7, 1.3):
            promise = Privacy(clip_norm=clip_norm, noise_multiplier=z, epsilon=1.0, delta=1e-5)
            assert promise.noise_grid(20) >= z * promise.clip_grid(20)
            assert promise.noise_grid(20) <= z * clip_norm * 2**20 + 1


def test_the_same_promise_gives_the_same_round_and_another_promise_another() -> None:
    again = msgspec.json.decode(msgspec.json.encode(ROUND.document), type=RoundConfiguration)
    assert again.configuration_id == ROUND.configuration_id
    assert ROUND.configuration_id != RoundConfiguration(bundle_id="0" * 64).configuration_id
    assert "privacy" not in RoundConfiguration(bundle_id="0" * 64).document


def test_each_release_costs_more_and_nothing_costs_nothing() -> None:
    assert epsilon_spent([], 1e-5) == 0.0
    costs = [epsilon_spent([2.0] * n, 1e-5) for n in range(1, 30)]
    assert costs == sorted(costs)
    assert epsilon_spent([2.0, 3.0], 1e-5) < epsilon_spent([2.0, 2.0], 1e-5)


BY_SUBJECT = msgspec.structs.replace(PROMISE, subjects=4)
PUPILS = RoundConfiguration(bundle_id="0" * 64, privacy=BY_SUBJECT)


def test_a_promise_from_before_subjects_keeps_its_round() -> None:
    before = msgspec.structs.replace(ROUND, keep=24)  # the default of then, which its document states
    assert before.configuration_id == "f8f6a636fd91439192a2cabc3d33eeddee60e99ce12d8fbabf51a13d89a84b1a"
    assert "subjects" not in ROUND.document["privacy"]
    assert PUPILS.configuration_id != ROUND.configuration_id


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(-100, 100, width=32), min_size=4, max_size=4),
    st.integers(0, 3),
    st.integers(0, 2**32 - 1),
)
def test_one_subject_more_or_less_moves_an_update_by_at_most_the_clip(
    sizes: list[float], left_out: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    parts = [np.float32(size) * rng.standard_normal(LAYOUT.size).astype(np.float32) for size in sizes]
    others = [np.zeros(LAYOUT.size, np.float32) if n == left_out else part for n, part in enumerate(parts)]
    whole, without = (
        np.concatenate([*read_update(make_private(KEY, PUPILS, LAYOUT, p, 0), PUPILS, LAYOUT).values.values()])
        for p in (parts, others)
    )
    assert squared_norm(whole - without) <= BY_SUBJECT.clip_grid(20) ** 2
    assert squared_norm(whole) <= BY_SUBJECT.limit_grid(20) ** 2 == (4 * BY_SUBJECT.clip_grid(20)) ** 2


SMALL = Layout((Segment(name="head.a", parameters=(Parameter("w", (2,)),), meaning="t/1"),))
COARSE = Privacy(clip_norm=2.0, noise_multiplier=1.0, epsilon=8.0, delta=1e-5, subjects=2)
CLASSES = RoundConfiguration(bundle_id="0" * 64, scale_bits=3, privacy=COARSE)
WAYS = ((7.1, -5.5), (-7.9, 4.2), (-7.6, -4.8), (8.9, 1.4), (-4.2, -7.9), (7.9, -4.4), (0.3, -0.5))
LESSONS = [np.array(way, np.float32) for way in WAYS]  # without room for rounding, some of their sums move too far


@functools.cache
def sum_of(lessons: tuple[int, ...]) -> tuple[int, ...]:
    """The update, on the grid, of a class whose pupils were taught these lessons; zeros where nobody was."""
    if not lessons:
        return (0, 0)
    data = make_private(KEY, CLASSES, SMALL, [LESSONS[lesson] for lesson in lessons], 0)
    return tuple(map(int, read_update(data, CLASSES, SMALL).values["head.a"]))


@pytest.mark.attack("members", "read one pupil off the update of a class that is larger than `subjects`")
def test_of_every_small_class_one_pupil_more_or_less_moves_the_update_by_one_clip_at_most(attack: Attack) -> None:
    """Every class of up to five pupils, twice and a half what `subjects` says, and each of its neighbours."""
    clip_grid, longest, cut = COARSE.clip_grid(3), 0, 0
    for size in range(5):
        for lessons in itertools.combinations_with_replacement(range(len(LESSONS)), size):
            for more in range(len(LESSONS)):
                before, after = sum_of(lessons), sum_of(tuple(sorted((*lessons, more))))
                longest = max(longest, sum((a - b) ** 2 for a, b in zip(before, after, strict=True)))
                cut += sum(a * a for a in after) > (2 * clip_grid - 2) ** 2
    assert cut, "some classes were long enough to be cut"
    assert 0 < longest <= clip_grid**2
    # The chance that an attacker tells both apart beyond epsilon 2, of one release with the noise of the ledger's event
    event, shift = release_event(COARSE, 3), math.sqrt(longest)
    told = gaussian_delta(2.0, shift / event.sigma)
    assert event.sensitivity == clip_grid
    assert told <= gaussian_delta(2.0, event.sensitivity / event.sigma) < 0.021 < gaussian_delta(2.0, 2.0)
    attack.got = longest > clip_grid**2
    attack.noticed = f"{longest**0.5 / clip_grid:.2f} of a clip, in {sum_of.cache_info().currsize} classes"


def gaussian_delta(epsilon: float, shift: float) -> float:
    """Delta at epsilon of Gaussian noise of deviation 1 on a shift (Balle, Wang 2018, theorem 8)."""

    def below(x: float) -> float:
        return 0.5 * (1 + math.erf(x / math.sqrt(2)))

    return below(shift / 2 - epsilon / shift) - math.exp(epsilon) * below(-shift / 2 - epsilon / shift)


def test_a_grid_that_is_too_coarse_for_a_promise_by_subject_makes_no_update() -> None:
    coarse = msgspec.structs.replace(CLASSES, privacy=msgspec.structs.replace(COARSE, clip_norm=0.3))
    with pytest.raises(UpdateError, match="no room"):
        make_private(KEY, coarse, SMALL, [LESSONS[0]], 0)


def test_by_subject_nothing_is_made_that_was_not_clipped_by_subject() -> None:
    ones = np.ones(LAYOUT.size, np.float32)
    for make in (
        lambda: make_update(KEY, PUPILS, LAYOUT, ones, {"head.a": 3}, 0),
        lambda: make_private(KEY, ROUND, LAYOUT, [ones] * 2, 0),
    ):
        with pytest.raises(UpdateError) as caught:
            make()
        assert caught.value.code == "not_clipped"
    with pytest.raises(UpdateError) as caught:
        make_private(KEY, PUPILS, LAYOUT, [], 0)
    assert caught.value.code == "empty"
    with pytest.raises(ValueError, match="times 40"):
        RoundConfiguration(bundle_id="0" * 64, privacy=msgspec.structs.replace(PROMISE, subjects=40))


def test_an_update_that_was_clipped_as_a_whole_is_none_of_a_round_by_subject() -> None:
    data = make_update(KEY, ROUND, LAYOUT, np.ones(LAYOUT.size, np.float32), {"head.a": 1}, 0)
    with pytest.raises(UpdateError) as caught:
        read_update(data, PUPILS, LAYOUT)
    assert caught.value.code == "not_private"
