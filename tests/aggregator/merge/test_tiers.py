"""Unequal tiers in one federation: each value is the mean over those devices whose tier has it, exactly."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import safetensors.numpy
import tiered
from hypothesis import given, settings
from hypothesis import strategies as st

from homeroom import Device, Sample
from homeroom.contract.layout import FULL_TIER, Layout, Parameter, Segment
from homeroom.contract.residual import make_residual
from homeroom.contract.round import RoundConfiguration, weight
from homeroom.contract.signing import new_key
from homeroom.contract.update import make_update
from homeroom.contract.update_checks import read_update
from homeroom.data.validation import resolve
from homeroom.errors import BundleError, InputError, UpdateError
from homeroom.runtime.bundle import Bundle
from homeroom.runtime.graphs import Graphs
from homeroom.train.features.dataset import Dataset
from homeroom.train.features.examples import examples
from homeroom.train.fit import fit
from homeroom.train.settings import Settings
from homeroom_aggregator.merge.segment_sums import SegmentSums
from homeroom_aggregator.simulation.engine import SchoolData
from homeroom_aggregator.simulation.federate import simulate

SEGMENTS = (
    Segment(name="ladder", parameters=(Parameter("w", (3, 4)),), meaning="test/1"),
    Segment(name="head", parameters=(Parameter("w", (5,)),), meaning="test/1"),
)
SMALL, MIDDLE = (np.array(places, np.int32) for places in ((0, 1, 4, 12), (0, 1, 2, 4, 5, 6, 12, 13)))
LAYOUT = Layout(SEGMENTS, (("small", SMALL), ("middle", MIDDLE)))
ROUND = RoundConfiguration(bundle_id="0" * 64, min_devices=1, buffer_size=1)
KEYS = [new_key() for _ in range(4)]
PLACES = {"small": SMALL, "middle": MIDDLE, FULL_TIER: np.arange(17)}
ONE = st.tuples(
    st.integers(0, 3), st.sampled_from(list(PLACES)), st.integers(0, 2**32 - 1), st.integers(1, 900), st.integers(0, 9)
)


def sent(school: int, tier: str, seed: int, count: int, codec: str = "fixed32") -> bytes:
    asked = RoundConfiguration(bundle_id="0" * 64, codec=codec)  # type: ignore[arg-type]
    counts = {"ladder": count, "head": 1 + count // 2}
    return make_update(KEYS[school], asked, LAYOUT, delta(seed), counts, 0, tier=tier)


def delta(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(17).astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(st.lists(ONE, min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_merging_unequal_tiers_is_the_mean_over_those_who_have_a_value(rows, shuffle) -> None:  # type: ignore[no-untyped-def]
    """By the definition, value by value in Python's integers; in any order the same bits."""
    top, bottom = [0] * 17, [0] * 17
    for _, tier, seed, count, staleness in rows:
        for place in PLACES[tier]:
            units = weight(count if place < 12 else 1 + count // 2, staleness, ROUND)
            top[place] += units * int(np.rint(np.float64(delta(seed)[place]) * 2**20))
            bottom[place] += units
    wanted = np.array([t / b * 2.0**-20 if b else 0.0 for t, b in zip(top, bottom, strict=True)])
    start, found = delta(1), []
    for _ in range(2):
        sums = SegmentSums()
        for school, tier, seed, count, staleness in rows:
            sums.add(read_update(sent(school, tier, seed, count), ROUND, LAYOUT), staleness, ROUND)
        found.append(sums.release(start, LAYOUT, ROUND)[0])
        shuffle.shuffle(rows)
    assert found[0].tobytes() == found[1].tobytes()
    np.testing.assert_allclose(found[0], (start.astype(np.float64) + wanted).astype(np.float32), rtol=0, atol=1e-6)
    untouched = np.array(bottom) == 0
    np.testing.assert_array_equal(found[0][untouched], start[untouched])


def test_what_only_one_device_has_waits_for_a_second_one() -> None:
    asked = RoundConfiguration(bundle_id="0" * 64, min_devices=2)
    sums, start = SegmentSums(), np.zeros(17, np.float32)
    for school, tier in ((0, "small"), (1, "small"), (2, FULL_TIER)):
        sums.add(read_update(sent(school, tier, 5, 4), ROUND, LAYOUT), 0, asked)
    theta, devices, undo = sums.release(start, LAYOUT, asked)
    assert np.flatnonzero(theta).tolist() == SMALL.tolist()
    assert devices == {"ladder": 3, "head": 3}
    undo()
    sums.add(read_update(sent(3, "middle", 5, 4), ROUND, LAYOUT), 0, asked)
    theta, devices, _ = sums.release(start, LAYOUT, asked)
    assert np.flatnonzero(theta).tolist() == MIDDLE.tolist()
    assert devices == {"ladder": 4, "head": 4}


def test_an_update_taken_out_again_leaves_no_trace() -> None:
    sums, alone = SegmentSums(), SegmentSums()
    first, second = (read_update(sent(i, tier, i, 7), ROUND, LAYOUT) for i, tier in ((0, "middle"), (1, FULL_TIER)))
    sums.add(first, 0, ROUND)
    undo = sums.add(second, 0, ROUND)
    undo()
    alone.add(first, 0, ROUND)
    start = delta(3)
    assert sums.release(start, LAYOUT, ROUND)[0].tobytes() == alone.release(start, LAYOUT, ROUND)[0].tobytes()


def test_only_the_tiers_values_travel_and_another_tier_is_refused() -> None:
    read = read_update(sent(0, "small", 5, 4), ROUND, LAYOUT)
    assert {name: len(values) for name, values in read.values.items()} == {"ladder": 3, "head": 1}
    assert read.tier_slices.keys() == {"ladder@small", "head@small"}
    assert len(sent(0, "small", 5, 4)) < len(sent(0, FULL_TIER, 5, 4))
    with pytest.raises(UpdateError) as refused:
        read_update(sent(0, "small", 5, 4), ROUND, Layout(SEGMENTS))
    assert refused.value.code == "malformed"
    other = Layout(SEGMENTS, (("small", MIDDLE),))
    with pytest.raises(UpdateError) as refused:
        read_update(sent(0, "small", 5, 4), ROUND, other)
    assert refused.value.code == "wrong_shape"


def test_a_full_update_of_a_bundle_with_tiers_looks_as_it_always_did() -> None:
    plain = make_update(KEYS[0], ROUND, Layout(SEGMENTS), delta(2), {"ladder": 3, "head": 3}, 0, update_id="a" * 32)
    tiers = make_update(KEYS[0], ROUND, LAYOUT, delta(2), {"ladder": 3, "head": 3}, 0, update_id="a" * 32)
    assert plain == tiers


@pytest.mark.parametrize("codec", ["int8", "topk"])
def test_what_a_lossy_codec_left_over_keeps_what_the_tier_could_not_carry(codec: str) -> None:
    asked = RoundConfiguration(bundle_id="0" * 64, codec=codec)  # type: ignore[arg-type]
    data, wanted = sent(0, "middle", 9, 4, codec), delta(9)
    read = read_update(data, asked, LAYOUT)
    rest = safetensors.numpy.load(make_residual(data, asked, LAYOUT, wanted))
    for segment in LAYOUT:
        carried = np.zeros(17, np.float32)
        carried[LAYOUT.indices(segment.name, "middle")] = read.values[segment.name] * np.float32(2**-20)
        whole = LAYOUT.split(wanted - carried)[segment.name]
        np.testing.assert_allclose(rest[segment.segment_id], whole, atol=1e-6)


def test_a_small_device_trains_its_part_of_theta_alone(tiered_bundle: Bundle, tmp_path: Path) -> None:
    index = dict(tiered_bundle.layout.tiers)["eighth"]
    with Device.open(tmp_path / "small", tiered_bundle.path, tier="eighth", threads=1) as device:
        device.add(*(Sample(**row) for row in tiered.rows(24, seed=1)))
        assert device.train(epochs=3).finished
        moved = device.store.versions.theta(device.store.versions.current().version_id) - tiered_bundle.theta()  # type: ignore[union-attr]
        assert set(np.flatnonzero(moved)) <= set(index)
        assert len(np.flatnonzero(moved)) > len(index) / 2
    with Device.open(tmp_path / "small", threads=1) as device:
        assert device.status()["tier"] == "eighth"
        said = device.predict(Sample(facts={"kilograms": 12.0}))["weight"].best
    with Device.open(tmp_path / "small", tier="full", threads=1) as device:
        assert device.predict(Sample(facts={"kilograms": 12.0}))["weight"].best != said
    with pytest.raises(InputError, match="no tier 'tenth'"):
        Device.open(tmp_path / "small", tier="tenth")


def test_a_bundle_whose_tiers_are_not_what_it_says_is_refused(tiered_bundle: Bundle) -> None:
    wrong = msgspec.structs.replace(tiered_bundle.manifest.tiers[0], size=tiered_bundle.manifest.tiers[0].size + 1)
    manifest = msgspec.structs.replace(tiered_bundle.manifest, tiers=(wrong, tiered_bundle.manifest.tiers[1]))
    with pytest.raises(BundleError, match="tier eighth is not"):
        _ = Bundle(tiered_bundle.path, manifest, tiered_bundle.bundle_id, tiered_bundle.certificate).layout


def test_schools_of_unequal_tiers_train_one_theta_together(tiered_bundle: Bundle) -> None:
    manifest = tiered_bundle.manifest
    graphs = {tier: Graphs(tiered_bundle, {}, 1, tier) for tier in (*tiered.TIERS, FULL_TIER)}

    def school(name: str, seed: int, tier: str) -> SchoolData:
        stored = [resolve(Sample(**row), manifest) for row in tiered.rows(24, seed)]
        return SchoolData(
            name, Dataset(manifest, examples(None, tiered_bundle, graphs[FULL_TIER], stored)), None, graphs[tier]
        )

    schools = [school("a", 1, "eighth"), school("b", 2, "half"), school("c", 3, FULL_TIER)]
    asked = RoundConfiguration(bundle_id=tiered_bundle.bundle_id, min_devices=1, buffer_size=3)
    chosen = Settings(epochs=2, learning_rate=1e-2, constant_rate=True)
    found = simulate(tiered_bundle, schools, 4, chosen, asked, seed=0, graphs=graphs[FULL_TIER])
    assert found.version == 4
    again = simulate(tiered_bundle, schools, 4, chosen, asked, seed=0, graphs=graphs[FULL_TIER])
    assert np.array_equal(found.theta, again.theta)
    first = (
        simulate(tiered_bundle, schools, 1, chosen, asked, seed=0, graphs=graphs[FULL_TIER]).theta
        - tiered_bundle.theta()
    )
    drawn = [int(np.random.SeedSequence([0, 1, place]).generate_state(1)[0]) for place in range(3)]
    moves = [
        fit(s.graphs, s.train, None, tiered_bundle.theta(), msgspec.structs.replace(chosen, seed=seed)).theta
        - tiered_bundle.theta()  # type: ignore[arg-type]
        for s, seed in zip(schools, drawn, strict=True)
    ]
    outside = np.setdiff1d(np.arange(manifest.layout.size), dict(tiered_bundle.layout.tiers)["half"])
    np.testing.assert_allclose(first[outside], moves[2][outside], atol=1e-6)  # one device alone has these
    np.testing.assert_allclose(
        first[dict(tiered_bundle.layout.tiers)["eighth"]],
        np.mean(moves, 0)[dict(tiered_bundle.layout.tiers)["eighth"]],
        atol=1e-6,
    )
