"""Whole devices against the whole aggregator: join, train, sync, forget, in the order of a school year."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import tiny

from aggregator.house import running
from homeroom import Device, Sample
from homeroom.contract.update import RoundConfiguration
from homeroom.errors import NetworkError
from homeroom_aggregator import place
from homeroom_aggregator.app import Service


@pytest.fixture
def district(tiny_bundle: tiny.Tiny, tmp_path: Path) -> Iterator[tuple[Service, str]]:
    folder = tmp_path / "district"
    asked = RoundConfiguration(bundle_id="0" * 64, buffer_size=2, min_devices=2)
    place.make(folder, tiny_bundle.path, institution="tests", root_key=tiny_bundle.root_key, configuration=asked)
    service = place.open_service(folder)
    with running(service) as address:
        yield service, address
    service.rounds.close()


def open_school(tiny_bundle: tiny.Tiny, folder: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> Device:
    monkeypatch.setenv("HOMEROOM_KEYS", str(folder.parent / "keys"))
    (folder.parent / "keys").mkdir(exist_ok=True)
    device = Device.open(folder, bundle=tiny_bundle.path, root=tiny_bundle.root, threads=1)
    device.add(*(Sample(**row) for row in tiny.samples(24, seed)))
    return device


def enrol(device: Device, service: Service, address: str, tmp_path: Path, name: str) -> None:
    (invitation,) = place.invite(service.rounds.log.database.path.parent, address, 1)
    path = tmp_path / f"{name}.json"
    path.write_bytes(msgspec.json.encode(invitation))
    device.join(path)


def test_two_schools_learn_together_and_one_forgets_a_pupil(
    district: tuple[Service, str], tiny_bundle: tiny.Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, address = district
    schools = [open_school(tiny_bundle, tmp_path / f"s{n}", monkeypatch, n) for n in range(2)]
    for number, device in enumerate(schools):
        enrol(device, service, address, tmp_path, f"s{number}")
        assert device.train(minutes=1, epochs=2).update == "queued"
    first = schools[0].sync()
    assert len(first.sent) == 1
    assert first.version is None
    second = schools[1].sync()
    assert len(second.sent) == 1
    assert second.version == 1
    assert schools[0].sync().version == 1
    a, b = (next(v for v in d.store.versions() if v.kind == "global") for d in schools)
    assert schools[0].store.theta(a.version_id).tobytes() == schools[1].store.theta(b.version_id).tobytes()

    subject = schools[0].store.subjects()[0]
    schools[0].forget(subject)
    asked = schools[0].sync()
    assert asked.unlearned == first.sent
    assert service.rounds.log.withdrawn(first.sent[0])
    for device in schools:
        assert device.train(minutes=1, epochs=1).update == "queued"
        device.sync()
    assert service.rounds.state.version == 2
    assert service.rounds.verify() == []
    for device in schools:
        device.close()


def test_without_a_network_the_update_waits_and_is_sent_later(
    district: tuple[Service, str], tiny_bundle: tiny.Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, address = district
    with open_school(tiny_bundle, tmp_path / "s", monkeypatch, 0) as device:
        enrol(device, service, address, tmp_path, "s")
        device.train(minutes=1, epochs=1)
        enrolment = device.store.get_secret("identity.enrolment")
        assert enrolment is not None
        device.store.put_secret("identity.enrolment", enrolment.replace(address.encode(), b"http://127.0.0.1:9"))
        with pytest.raises(NetworkError):
            device.sync()
        assert device.status()["updates_waiting"] == 1
        device.store.put_secret("identity.enrolment", enrolment)
        assert len(device.sync().sent) == 1
        assert device.status()["updates_waiting"] == 0
    assert service.rounds.state.pending == 1


def test_a_change_of_key_that_was_cut_short_is_finished_at_the_next_sync(
    district: tuple[Service, str], tiny_bundle: tiny.Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, address = district
    with open_school(tiny_bundle, tmp_path / "s", monkeypatch, 0) as device:
        enrol(device, service, address, tmp_path, "s")
        device.train(minutes=1, epochs=1)
        before = device.store.get_secret("identity.key")

        def cut(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(device.store, "step", cut)
            with pytest.raises(KeyboardInterrupt):
                device.rotate_key()
        assert device.store.get_secret("identity.key") == before
        report = device.sync()
        assert len(report.sent) == 1, "the update that the old key signed"
        assert report.clock_off_s is not None
        assert abs(report.clock_off_s) < 60
        assert device.store.get_secret("identity.key") != before
        assert service.members.count() == 1
