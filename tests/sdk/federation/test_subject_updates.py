"""Private rounds by subject, on the device: what one pupil taught is cut by itself, and nobody else's changes it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import tiny

from homeroom import Device, Sample
from homeroom.contract.privacy import Privacy, squared_norm
from homeroom.contract.round import RoundConfiguration
from homeroom.contract.update_checks import read_update
from homeroom.errors import UpdateError
from homeroom.federation import agreement, enrolment, privacy_ledger, sync
from homeroom.federation.make_update import queue_newest_update
from homeroom.federation.subject_updates import subject_updates
from homeroom.train.features.dataset import Dataset
from homeroom.train.settings import Settings
from sdk.learning import dataset, opened, without

FAST = Settings(epochs=2, patience=10)
PROMISE = Privacy(clip_norm=0.05, noise_multiplier=2.0, epsilon=8.0, delta=1e-5, subjects=3)


def parts(data: Dataset, stop: Callable[[], bool] = bool) -> dict[str, np.ndarray]:
    bundle, graphs = opened()
    return dict(subject_updates(graphs, data, bundle.theta(), FAST, stop))


def test_a_part_is_made_of_one_subjects_samples_alone() -> None:
    data = dataset(18)
    whole = parts(data)
    assert len(whole) == len({example.subject for example in data.examples}) > 2
    assert all(np.abs(moved).max() > 0 for moved in whole.values())
    left_out, *others = sorted(whole)
    fewer = parts(Dataset(data.manifest, [e for e in data.examples if e.subject != left_out]))
    blank = [without(e, targets={}) if e.subject == left_out else e for e in data.examples]
    assert sorted(fewer) == sorted(parts(Dataset(data.manifest, blank))) == others
    for subject in others:
        np.testing.assert_array_equal(fewer[subject], whole[subject])


def test_a_time_that_ends_early_makes_no_update_of_those_whose_turn_came() -> None:
    ends = iter([False, False, True])
    with pytest.raises(UpdateError, match="each subject"):
        parts(dataset(18), lambda: next(ends))


@pytest.fixture
def device(tiny_bundle: tiny.Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    with Device.open(tmp_path / "device", tiny_bundle.path, tiny_bundle.root, threads=1) as opened:
        opened.add(*(Sample(**row) for row in tiny.samples(12, 0)))
        enrolment.make_key(opened.store)
        asked = RoundConfiguration(bundle_id=opened.bundle.bundle_id, privacy=PROMISE)
        with opened.store.step("join"):
            agreement.store_round(opened.store, asked)
        yield opened


def asked_of(device: Device) -> RoundConfiguration:
    found = agreement.read_agreement(device.store).configuration
    assert found
    return found


def test_what_leaves_is_clipped_by_subject_and_what_stays_is_not(device: Device) -> None:
    report = device.train(settings=FAST)
    assert report.update == "queued"
    (waiting,) = device.store.outbox.pending()
    read = read_update(waiting.data, asked_of(device), device.bundle.layout)
    assert 0 < sum(squared_norm(v) for v in read.values.values()) <= (3 * PROMISE.clip_grid(20)) ** 2
    version = device.store.versions.current()
    assert version
    moved = device.store.versions.theta(version.version_id) - device.bundle.theta()
    assert np.linalg.norm(moved) > 3 * PROMISE.clip_norm, "the device's own model was trained without a clip"
    privacy_ledger.charge_update(device.store, waiting.data, waiting.update_id, asked_of(device), device.bundle.layout)
    status = device.status()["privacy"]
    assert status["promise"]["subjects"] == 3
    assert status["updates_sent"] == 1


def test_who_is_forgotten_leaves_no_part_behind(device: Device) -> None:
    device.train(settings=FAST)
    (waiting,) = device.store.outbox.pending()
    inside = device.store._context.linked("update", waiting.update_id)
    assert len(inside) == len(device.store.subjects()) > 3, "no class is too large for `subjects`"
    device.forget(inside[0])
    assert device.store.outbox.pending() == []


def test_an_update_from_before_the_promise_is_not_sent(device: Device) -> None:
    plain = RoundConfiguration(
        bundle_id=device.bundle.bundle_id, privacy=msgspec.structs.replace(PROMISE, subjects=msgspec.UNSET)
    )
    asked = asked_of(device)
    with device.store.step("before"):
        agreement.store_round(device.store, plain)
    assert device.train(settings=FAST).update == "queued"
    with device.store.step("join"):
        agreement.store_round(device.store, asked)

    class Nobody:
        def update(self, data: bytes) -> None:
            raise AssertionError("it was sent")

    sent, refused, size = sync.send_updates(device.store, Nobody(), asked, device.bundle.layout)  # type: ignore[arg-type]
    assert (sent, size) == ([], 0)
    assert len(refused) == 1
    assert queue_newest_update(device.store, device.bundle).code == "train_again"
    assert device.train(settings=FAST).update == "queued"
