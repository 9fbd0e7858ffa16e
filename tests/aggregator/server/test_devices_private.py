"""Whole devices in private rounds of other kinds: by subject, with a clip that adapts, in a stream."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import tiny

from aggregator.institution import learn, make_folder, running
from homeroom import Device, Sample
from homeroom.contract.privacy import Privacy
from homeroom.contract.round import RoundConfiguration
from homeroom.contract.update_checks import read_update
from homeroom.federation import versions
from homeroom.federation.make_update import queue_newest_update
from homeroom_aggregator.admin.folder import create_folder, invite_devices
from homeroom_aggregator.server.service import Service, open_service

PROMISE = Privacy(clip_norm=1.0, noise_multiplier=1.0, epsilon=30.0, delta=1e-5)


@contextlib.contextmanager
def schools(folder: Path, bundle: Path, root: str | None, count: int = 2) -> Iterator[tuple[Service, list[Device]]]:
    """An aggregator that serves, and devices that joined it."""
    service = open_service(folder)
    with contextlib.ExitStack() as opened:
        opened.callback(service.close)
        address = opened.enter_context(running(service))
        devices = []
        for number, invitation in enumerate(invite_devices(folder, address, count)):
            path = folder.parent / f"{number}.json"
            path.write_bytes(msgspec.json.encode(invitation))
            device = opened.enter_context(Device.open(folder.parent / f"s{number}", bundle, root, threads=1))
            device.join(path)
            devices.append(device)
        yield service, devices


@pytest.fixture(autouse=True)
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keys").mkdir()
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))


@pytest.fixture
def without_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("homeroom.inference.golden.choose_precision", lambda *_, **__: {})


def test_a_class_protects_each_of_its_pupils_from_training_to_release(tiny_bundle: tiny.Tiny, tmp_path: Path) -> None:
    by_subject = msgspec.structs.replace(PROMISE, subjects=4)
    asked = RoundConfiguration(bundle_id="0" * 64, buffer_size=2, min_devices=2, privacy=by_subject)
    folder = tmp_path / "district"
    create_folder(folder, tiny_bundle.path, institution="tests", root_key=tiny_bundle.root_key, configuration=asked)
    with schools(folder, tiny_bundle.path, tiny_bundle.root) as (service, devices):
        for number, device in enumerate(devices):
            device.add(*(Sample(**row) for row in tiny.samples(12, number)))
            assert device.train(minutes=1, epochs=1).update == "queued"
            assert len(device.sync().sent) == 1
        assert devices[0].sync().version == 1
        ledger = service.rounds.ledger
        assert ledger
        assert [event.unit for event in ledger.events().values()] == ["subject"]
        told = devices[0].status()["privacy"]
        assert told["promise"]["subjects"] == 4
        assert told["epsilon_spent"] == pytest.approx(ledger.spent(), abs=1e-3)
        assert service.rounds.verify() == []


@pytest.mark.usefixtures("without_graphs")
def test_a_device_cuts_its_update_to_the_clip_of_the_version_it_trained_on(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, privacy=msgspec.structs.replace(PROMISE, quantile=0.5))
    with schools(folder, tmp_path / "bundle", None) as (service, devices):
        for _ in range(2):
            for device in devices:
                learn(device, 0.01)
                assert len(device.sync().sent) == 1
            for device in devices:
                device.sync()
        assert service.rounds.state.version == 2
        learn(devices[0], 0.01)
        queue_newest_update(devices[0].store, devices[0].bundle)
        (waiting,) = devices[0].store.outbox.pending()
        header = read_update(waiting.data, service.rounds.configuration, devices[0].bundle.layout).header
        newest = versions.newest_global(devices[0].store, devices[0].bundle)
        assert newest
        assert isinstance(header.privacy, Privacy)
        assert header.privacy.clip_norm == newest.facts["clip_norm"] == service.rounds.state.clip / 2**20 != 1.0
        told = devices[0].status()["privacy"]
        assert told["epsilon_spent"] == pytest.approx(service.rounds.facts()["epsilon_spent"], abs=1e-3)


@pytest.mark.usefixtures("without_graphs")
def test_in_a_stream_an_update_waits_on_the_device_until_its_release_comes(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, privacy=msgspec.structs.replace(PROMISE, bands=2))
    with schools(folder, tmp_path / "bundle", None, 4) as (service, devices):
        early, late = devices[:2], devices[2:]
        for device in early:
            learn(device, 0.1)
            assert len(device.sync().sent) == 1
        early[0].sync()
        learn(early[0], 0.1)
        report = early[0].sync()
        assert (report.sent, report.refused) == ((), {})
        assert len(early[0].store.outbox.pending()) == 1
        for device in late:
            learn(device, 0.1)
            assert len(device.sync().sent) == 1
        assert service.rounds.state.version == 2
        assert len(early[0].sync().sent) == 1
        told = early[0].status()["privacy"]
        ledger = service.rounds.ledger
        assert ledger
        learn(early[1], 0.1)
        assert len(early[1].sync().sent) == 1
        assert service.rounds.state.version == 3
        assert told["epsilon_spent"] == pytest.approx(ledger.spent(), abs=1e-3)
        assert service.rounds.verify() == []
