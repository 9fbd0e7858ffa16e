"""A simulated device makes a real one's very update, keeps segments home, and learns the weights of poor inputs."""

from __future__ import annotations

import io
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import tiny
from PIL import Image

from homeroom import Device
from homeroom.contract.layout import FULL_TIER
from homeroom.contract.policy import Policy
from homeroom.contract.privacy import Privacy
from homeroom.contract.round import RoundConfiguration
from homeroom.contract.signing import certify
from homeroom.contract.update_checks import read_update
from homeroom.contract.version import make_version
from homeroom.data.tasks.metrics import Score
from homeroom.federation import sync, versions
from homeroom.runtime.bundle import Bundle, open_bundle
from homeroom.runtime.graphs import Graphs
from homeroom.train.settings import Settings
from homeroom_aggregator.simulation.engine import SchoolData, SimulatedDevice, TrainingTask
from homeroom_aggregator.simulation.federate import simulate
from homeroom_aggregator.simulation.schools import load_school

FAST = Settings(epochs=2, learning_rate=1e-2, constant_rate=True, seed=5)
HOME = Policy(institution="School 12", version=1, scopes={"head.category": "personal"})
HELD_OUT = ("pupil-0", "pupil-1")


def rows(poor: bool) -> list[dict[str, Any]]:
    """Samples of `tiny`; poor: every picture is too dark, and that of a subject kept for validation is another's."""
    rows = tiny.samples(90, 3, subjects=6)
    pictures = [row["picture"] for row in rows if "picture" in row]
    for row in rows if poor else []:
        if "picture" in row:
            data = pictures.pop() if row["subject"] in HELD_OUT else row["picture"]
            image = Image.open(io.BytesIO(data)).convert("RGB").point(lambda level: level * 0.1)
            image.save(buffer := io.BytesIO(), "PNG")
            row["picture"] = buffer.getvalue()
    return rows


@pytest.fixture(scope="module")
def parts(tiny_bundle: tiny.Tiny) -> tuple[Bundle, Graphs]:
    bundle = open_bundle(tiny_bundle.path, root=tiny_bundle.root)
    return bundle, Graphs(bundle, {}, threads=1)


def schools(parts: tuple[Bundle, Graphs], folder: Path, poor: bool = False) -> SchoolData:
    path = tiny.write_samples(folder / "samples", rows(poor))
    return load_school(*parts, path, "School 12", FAST.seed)


class Pair:
    """A real device and a simulated one with its key and samples."""

    def __init__(
        self,
        device: Device,
        simulated: SimulatedDevice,
        made: tiny.Tiny,
        asked: RoundConfiguration,
        patch: pytest.MonkeyPatch,
    ) -> None:
        self.device, self.simulated, self.made, self.asked, self.patch = device, simulated, made, asked, patch
        certificate = certify(made.root_key, "aggregator", made.aggregator_key, "District 7")
        device.store.put_secret("identity.key", simulated.key.private_bytes_raw())
        device.store.put_secret("identity.round", msgspec.json.encode(asked))
        device.store.put_secret("identity.aggregator", msgspec.json.encode(certificate))
        if policy := simulated.school.policy:
            device.store.put_secret("policy", msgspec.json.encode(policy))

    def round(self, base: int, theta: np.ndarray) -> tuple[bytes, bytes]:
        """Both train on a version; the real device's update, and the simulated one's."""
        assert self.device.train(settings=FAST).update == "queued"
        (update,) = self.device.store.outbox.pending()
        self.patch.setattr("homeroom.contract.update.uuid.uuid4", lambda: uuid.UUID(update.update_id))
        simulated = self.simulated.train(TrainingTask(0, base, FAST, self.asked), theta)
        self.device.store.outbox.mark_sending(update.update_id)
        self.device.store.outbox.mark_sent(update.update_id)
        return update.data, simulated.update

    def take(self, version: int, theta: np.ndarray) -> None:
        """Let the device take a global version."""
        certificate = certify(self.made.root_key, "aggregator", self.made.aggregator_key, "District 7")
        data = make_version(self.made.aggregator_key, certificate, self.made.bundle_id, version, theta, {})
        store, bundle, same = self.device.store, self.device.bundle, {"category": Score(n=9, accuracy=0.5)}
        sync.use_global(store, bundle, data, self.made.root, lambda thetas: [same] * len(thetas))

    @property
    def learned(self) -> tuple[dict[str, float], dict[str, float]]:
        """The weights of poor inputs that both have learned."""
        store = self.device.store
        return versions.input_weights(store, store.versions.current()), self.simulated.input_weights


@pytest.fixture
def pair(
    tiny_bundle: tiny.Tiny, parts: tuple[Bundle, Graphs], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    with Device.open(tmp_path / "device", tiny_bundle.path, tiny_bundle.root, threads=1) as device:

        def make(policy: Policy | None, poor: bool, **asked: Any) -> Pair:
            school = schools(parts, tmp_path, poor)
            device.add(tmp_path / "samples" / "samples.jsonl")
            simulated = SimulatedDevice(
                SchoolData(school.name, school.train, school.validation, None, policy), parts[1]
            )
            configuration = RoundConfiguration(bundle_id=tiny_bundle.bundle_id, **asked)
            return Pair(device, simulated, tiny_bundle, configuration, monkeypatch)

        yield make


@pytest.mark.parametrize(
    ("policy", "poor", "asked"),
    [
        (None, False, {}),
        (HOME, True, {"codec": "topk"}),
        (HOME, False, {"privacy": Privacy(clip_norm=1.0, noise_multiplier=1.0, epsilon=8.0, delta=1e-5)}),
    ],
)
def test_its_update_is_a_real_devices_byte_for_byte(
    pair: Any, parts: tuple[Bundle, Graphs], policy: Policy | None, poor: bool, asked: dict[str, Any]
) -> None:
    """In two rounds: the second starts from a global theta, with own segments, weights and the first one's residual."""
    both, theta = pair(policy, poor, **asked), parts[0].theta()
    real, simulated = both.round(0, theta)
    assert real == simulated
    theta = theta + np.random.default_rng(1).normal(0, 0.01, theta.shape).astype(np.float32)
    both.take(1, theta)
    real, simulated = both.round(1, theta)
    assert real == simulated
    header = read_update(real, both.asked, parts[0].layout).header
    assert (header.base_version, header.tier) == (1, FULL_TIER)


def test_the_weights_of_poor_inputs_are_those_that_a_real_device_learns(
    pair: Any, parts: tuple[Bundle, Graphs]
) -> None:
    both = pair(None, True)
    both.round(0, parts[0].theta())
    real, simulated = both.learned
    assert real == simulated
    assert "image" in real, "the pictures mislead"
    ready = both.simulated._weighted(both.simulated.school.train).examples
    assert {weight for example in ready for weight in example.input_weights.values()} == {real["image"]}


def test_a_segment_that_the_policy_keeps_home_is_never_sent_and_goes_on_at_home(
    parts: tuple[Bundle, Graphs], tmp_path: Path
) -> None:
    bundle, graphs = parts
    school = schools(parts, tmp_path)
    asked = RoundConfiguration(bundle_id=bundle.bundle_id, buffer_size=2, min_devices=2)
    both = [replace(school, name=f"School {n}", policy=HOME) for n in (12, 13)]
    found = simulate(bundle, both, 3, FAST, asked, seed=1, graphs=graphs)
    assert found.version == 3
    moved = bundle.layout.split(found.theta - bundle.theta())
    assert not moved.pop("head.category").any()
    assert all(values.any() for values in moved.values())

    device, layout = SimulatedDevice(both[0], graphs), bundle.layout
    first = device.train(TrainingTask(0, 0, FAST, asked), bundle.theta())
    assert set(read_update(first.update, asked, layout).values) == {s.name for s in layout} - {"head.category"}
    own = device.kept["head.category"]
    assert not np.array_equal(own, layout.split(bundle.theta())["head.category"])
    device.train(TrainingTask(0, 1, FAST, asked), bundle.theta())
    again = SimulatedDevice(both[0], graphs)
    again.train(TrainingTask(0, 1, FAST, asked), bundle.theta())
    assert not np.array_equal(device.kept["head.category"], again.kept["head.category"]), "it went on from its own"


def test_terms_that_the_policy_refuses_and_subjects_that_teach_nothing_end_no_simulation(
    parts: tuple[Bundle, Graphs], tmp_path: Path
) -> None:
    bundle, graphs = parts
    school = schools(parts, tmp_path)
    strict = Policy(institution="a", version=1, min_devices=9)
    promise = Privacy(clip_norm=1.0, noise_multiplier=1.0, epsilon=8.0, delta=1e-5, subjects=3)
    plain = RoundConfiguration(bundle_id=bundle.bundle_id, min_devices=2, buffer_size=2)
    unlabelled = school.train.subset([])
    for data, asked, says in (
        (SchoolData("a", school.train, policy=strict), plain, "at least 9 devices"),
        (SchoolData("a", unlabelled), msgspec.structs.replace(plain, privacy=promise), "taught anything"),
    ):
        trained = SimulatedDevice(data, graphs).train(TrainingTask(0, 0, FAST, asked), bundle.theta())
        assert says in trained.problem
        assert trained.update == b""


def test_a_school_has_no_sample_without_consent_or_past_its_day(parts: tuple[Bundle, Graphs], tmp_path: Path) -> None:
    words = [{"word": f"the {name}", "labels": {"category": name}} for name in tiny.ANIMALS]
    words[1] |= {"consent": "withdrawn"}
    words[2] |= {"retain_until": "2020-01-31"}
    path = tiny.write_samples(tmp_path / "samples", words)
    assert len(load_school(*parts, path, "School 12", FAST.seed).train) == 2
