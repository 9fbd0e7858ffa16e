"""The planner: what fits is chosen, what does not is named, and a prediction follows from what was measured."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from homeroom import Device, Sample
from homeroom.contract.manifest import Tier
from homeroom.data.samples import StoredSample
from homeroom.data.validation import resolve
from homeroom.device import plan as planning
from homeroom.device.resources import planner
from homeroom.device.resources.budget import Budget
from homeroom.device.resources.costs import Costs, FeatureCost, StepCost
from homeroom.errors import TrainError
from homeroom.runtime.bundle import Bundle, open_bundle

MB = 1_000_000
TINY = tiny.bundle()


def feature(megabytes: int, size: float = 0.0) -> FeatureCost:
    spent = megabytes * MB
    return FeatureCost(
        precision="int8", mean=1, worst=1, within=True, seconds=0.01, size=size, tokens=4.0, load_s=0.1, bytes=spent
    )


def opened() -> Bundle:
    return open_bundle(TINY.path, root=TINY.root)


def costs(base: int = 100, image: int = 60, text: int = 20, step: float = 0.02) -> Costs:
    steps = {
        graph.file: StepCost(seconds=step, load_s=0.1, bytes=5 * MB, held_bytes=2 * MB)
        for graph in TINY.manifest.graphs
        if graph.role != "features"
    }
    features = {"text": feature(text, 10.0), "image": feature(image), "audio": feature(40), "table": feature(1)}
    return Costs(
        bundle_id=TINY.bundle_id, place="here", threads=2, base_bytes=base * MB, features=features, steps=steps
    )


def stored(count: int) -> list[StoredSample]:
    found = [resolve(Sample(**row), TINY.manifest) for row in tiny.samples(count, 1)]
    return [msgspec.structs.replace(sample, sample_id=f"{number:032x}") for number, sample in enumerate(found)]


SAMPLES = stored(40)
FRESH = np.ones((len(SAMPLES), len(TINY.manifest.inputs)), bool)
CACHED = np.zeros_like(FRESH)


@pytest.fixture(autouse=True)
def small_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the tests' own process holds is left out of the sums."""
    monkeypatch.setattr("homeroom.system.hardware.resident", lambda: 0)


def plan(megabytes: float | None, known: Costs | None = None, minutes: float = 10) -> Any:
    budget = Budget(minutes=minutes, megabytes=megabytes)
    return planner.plan_costs(opened(), known or costs(), SAMPLES, FRESH, budget, 8, 0.2)


def test_with_room_for_everything_nothing_is_given_up() -> None:
    found = plan(4000)
    assert found.modalities == ("text", "image", "audio", "table")
    assert (found.samples, found.batch, found.threads, found.why) == (40, tiny.BATCH, 2, ())
    assert found.seconds is not None
    assert found.feature_seconds is not None
    assert 0 < found.feature_seconds < found.seconds


def test_the_heaviest_modality_goes_first_and_the_reason_is_given() -> None:
    everything = plan(None).megabytes
    found = plan(everything - 10)
    assert "image" not in found.modalities
    assert set(found.modalities) == {"text", "audio", "table"}
    assert any("without image" in reason for reason in found.why)
    assert found.megabytes <= everything - 10


def test_where_nothing_fits_the_least_that_would_is_named_and_fits() -> None:
    with pytest.raises(TrainError, match="nothing fits 20 MB") as problem:
        plan(20)
    least = float(problem.value.remedy.split("megabytes=")[1].split()[0])
    assert plan(least).samples >= 8
    with pytest.raises(TrainError):
        plan(least - 3)


@settings(max_examples=40)
@given(limit=st.integers(1, 400), base=st.integers(20, 200), image=st.integers(1, 200), text=st.integers(1, 200))
def test_whatever_is_chosen_fits_the_limit(limit: int, base: int, image: int, text: int) -> None:
    try:
        found = plan(limit, costs(base, image, text))
    except TrainError:
        assert limit < 1.15 * (base + 100), "the text alone would have fitted"
    else:
        assert found.megabytes <= limit
        assert found.modalities
        assert found.samples >= 8


def test_features_that_are_cached_and_slower_steps_change_the_prediction() -> None:
    budget = Budget(megabytes=4000)
    first = planner.plan_costs(opened(), costs(), SAMPLES, FRESH, budget, 8, 0.2)
    again = planner.plan_costs(opened(), costs(), SAMPLES, CACHED, budget, 8, 0.2)
    slower = planner.plan_costs(opened(), costs(step=0.2), SAMPLES, CACHED, budget, 8, 0.2)
    assert again.feature_seconds == 0
    assert again.seconds < first.seconds
    assert slower.seconds > again.seconds
    assert any("runs of" in reason for reason in plan(4000, minutes=0.01).why)


def test_what_was_never_measured_is_not_predicted() -> None:
    found = planner.plan_costs(opened(), None, SAMPLES, FRESH, Budget(), 8, 0.2)
    assert found.seconds is None
    assert found.megabytes is None
    assert "homeroom doctor" in found.why[0]


def test_a_plan_keeps_the_newest_samples_without_what_it_left_out() -> None:
    chosen = plan(None)
    short = type(chosen)(1, 8, ("text", "table"), 10)
    kept = planner.apply_plan(short, opened(), SAMPLES)
    assert [sample.sample_id for sample in kept] == [sample.sample_id for sample in SAMPLES[-10:]]
    assert {slot for sample in kept for slot in sample.inputs} == {"reference", "answer", "word", "facts"}
    assert kept[0].labels == SAMPLES[-10].labels


def test_a_device_measures_plans_and_reports_prediction_and_outcome(
    tiny_bundle: tiny.Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    with Device.open(tmp_path / "device", tiny_bundle.path, tiny_bundle.root) as device:
        device.add(*(Sample(**row) for row in tiny.samples(20, 0)))
        plain = device.train(epochs=1)
        assert plain.plan is not None
        assert plain.plan.seconds is None, "no budget of memory, nothing measured"
        report = device.train(epochs=2, megabytes=2000)
        assert report.plan is not None
        assert report.plan.seconds is not None
        assert report.plan.feature_seconds == 0, "the features are cached"
        assert report.plan.megabytes is not None
        assert report.plan.megabytes > 20
        assert report.megabytes > 20
        assert device.graphs.threads == report.plan.threads
        assert planning.known_costs(device.store, device.bundle) is not None
        monkeypatch.setattr(planning, "hardware_fingerprint", lambda *_: "another machine")
        assert planning.known_costs(device.store, device.bundle) is None


def test_a_smaller_tier_is_taken_before_samples_or_modalities_are_given_up() -> None:
    bundle = opened()
    graphs = bundle.manifest.graphs
    half = [msgspec.structs.replace(graph, file=f"half.{graph.file}", tier="half") for graph in graphs if graph.tokens]
    manifest = msgspec.structs.replace(bundle.manifest, tiers=(Tier("half", 500),), graphs=(*graphs, *half))
    tiered = dataclasses.replace(bundle, manifest=manifest)
    known = costs(text=1, image=1)
    known.features["audio"] = feature(1)
    for graph in graphs:
        if graph.tokens:
            known.steps[graph.file] = StepCost(seconds=0.02, load_s=0.1, bytes=90 * MB, held_bytes=40 * MB)
            known.steps[f"half.{graph.file}"] = StepCost(seconds=0.01, load_s=0.1, bytes=9 * MB, held_bytes=4 * MB)

    def chosen(megabytes: float | None, tier: str = "full") -> Any:
        return planner.plan_costs(tiered, known, SAMPLES, CACHED, Budget(megabytes=megabytes), 8, 0.2, tier)

    whole = chosen(None)
    assert whole.tier == "full"
    small = chosen(whole.megabytes - 20)
    assert (small.tier, small.samples, small.modalities) == ("half", 40, whole.modalities)
    assert any("tier half in place of full" in reason for reason in small.why)
    assert small.seconds < whole.seconds
    assert chosen(None, "half").tier == "half", "never more than the device was told"
    nested = msgspec.structs.replace(manifest.training, nested=True)
    tiered = dataclasses.replace(bundle, manifest=msgspec.structs.replace(manifest, training=nested))
    assert chosen(None).megabytes > whole.megabytes + 4, "steps of both tiers are held"
