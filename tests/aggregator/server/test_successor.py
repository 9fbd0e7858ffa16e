"""A newer bundle in a district that has learned: nothing is lost, and updates arrive. Whole devices, a real server."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import tiny

from aggregator.institution import running
from aggregator.server.test_devices import enrol, make_district
from homeroom import Device, Sample
from homeroom.agent.loop import Agent, AgentSettings
from homeroom.cli.main import main
from homeroom.contract.canonical_json import canonical
from homeroom.errors import TrustError
from homeroom.federation import versions
from homeroom.federation.enrolment import set_network
from homeroom.runtime.bundle import write_signature
from homeroom.train.settings import Settings
from homeroom_aggregator.admin.bundle_upgrade import upgrade_bundle
from homeroom_aggregator.server.service import Service, open_service

SHORT = Settings(epochs=1)


def newer(made: tiny.Tiny, out: Path, *begins_anew: str) -> tiny.Tiny:
    """The tiny bundle as version 2; these segments have another meaning there."""
    shutil.copytree(made.path, out)
    segments = tuple(
        msgspec.structs.replace(s, meaning=f"{s.meaning}, newer") if s.name in begins_anew else s
        for s in made.manifest.segments
    )
    manifest = msgspec.structs.replace(made.manifest, version=2, segments=segments)
    (out / "manifest.json").write_bytes(canonical(manifest))
    write_signature(out, manifest, made.certificate, made.exporter_key)
    return replace(made, path=out, manifest=manifest)


@pytest.fixture
def devices(tiny_bundle: tiny.Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Device]]:
    """Three devices with samples of their own; none has joined."""
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    (tmp_path / "keys").mkdir()
    opened = []
    for number in range(3):
        device = Device.open(tmp_path / f"s{number}", bundle=tiny_bundle.path, root=tiny_bundle.root, threads=1)
        device.add(*(Sample(**row) for row in tiny.samples(12, number)))
        opened.append(device)
    yield opened
    for device in opened:
        device.close()


def first_version(service: Service, devices: list[Device], tmp_path: Path) -> None:
    """All join, train and sync, until the first global theta is in use everywhere."""
    with running(service) as address:
        for device in devices:
            enrol(device, service, address)
            device.train(settings=SHORT)
            device.sync()
        for device in devices:
            device.sync()
    assert [newest.base for d in devices if (newest := versions.newest_global(d.store, d.bundle))] == [1, 1, 1]


def test_after_a_newer_bundle_three_trainings_are_three_updates(
    tiny_bundle: tiny.Tiny, devices: list[Device], tmp_path: Path
) -> None:
    service = make_district(tmp_path / "district", tiny_bundle, buffer_size=3, min_devices=3)
    first_version(service, devices, tmp_path)
    learned = service.rounds.state.theta.copy()
    service.close()
    later = newer(tiny_bundle, tmp_path / "second")
    upgrade_bundle(tmp_path / "newer", tmp_path / "district", later.path)
    with contextlib.closing(open_service(tmp_path / "newer")) as service, running(service) as address:
        begun = service.rounds.state.copy()
        for device in devices:
            set_network(device.store, address=address)
            assert device.update_bundle()
            device.train(settings=SHORT)
        sent = [device.sync().sent for device in devices]
        assert [len(one) for one in sent] == [1, 1, 1]
        assert (begun.version, begun.theta.tobytes()) == (1, learned.tobytes())
        assert service.rounds.state.version == 2
        assert not np.array_equal(service.rounds.state.theta, learned)
        assert service.rounds.verify() == []


def test_the_agent_goes_on_and_each_version_is_answered_once(
    tiny_bundle: tiny.Tiny, devices: list[Device], tmp_path: Path
) -> None:
    service = make_district(tmp_path / "district", tiny_bundle, buffer_size=3, min_devices=3)
    first_version(service, devices, tmp_path)
    service.close()
    later = newer(tiny_bundle, tmp_path / "second", "head.grade")
    upgrade_bundle(tmp_path / "newer", tmp_path / "district", later.path)
    devices.pop().close()
    agent = Agent(AgentSettings(tmp_path / "s2"))

    def evening() -> None:
        agent._next_sync_s = 0.0
        agent.cycle()
        assert not agent.status.problems

    with contextlib.closing(open_service(tmp_path / "newer")) as service, running(service) as address:
        with Device.open(tmp_path / "s2") as opened:
            set_network(opened.store, address=address)
        for _ in range(2):  # it trains with the bundle that it has, gets the newer one, and trains with that too
            evening()
            assert (agent.status.bundle, service.rounds.state.pending) == ("tiny version 2", 1)
        trained = agent.status.last_trained
        for other in devices:
            set_network(other.store, address=address)
            other.update_bundle()
            assert other.train(settings=SHORT).update_code == "at_sync"
            assert len(other.sync().sent) == 1
        assert service.rounds.state.version == 2
        evening()  # fetches version 2; the one before was carried over, and there was nothing new to learn from
        assert agent.status.last_trained == trained
        evening()
        assert service.rounds.state.pending == 1


def test_an_update_on_its_way_counts_where_it_goes_on(
    tiny_bundle: tiny.Tiny, devices: list[Device], tmp_path: Path
) -> None:
    service = make_district(tmp_path / "district", tiny_bundle, buffer_size=3, min_devices=3)
    first_version(service, devices, tmp_path)
    service.close()
    for device in devices:
        assert device.train(settings=SHORT).update_code == "queued"
    later = newer(tiny_bundle, tmp_path / "second", "head.grade")
    upgrade_bundle(tmp_path / "newer", tmp_path / "district", later.path)
    with contextlib.closing(open_service(tmp_path / "newer")) as service, running(service) as address:
        before = service.rounds.state.theta.copy()
        for device in devices:
            set_network(device.store, address=address)
            device.update_bundle()
            report = device.sync()
            assert (len(report.sent), dict(report.refused)) == (1, {})
        assert service.rounds.state.version == 2
        moved = later.manifest.layout.split(service.rounds.state.theta != before)
        assert not moved["head.grade"].any()
        assert moved["head.category"].any()
        assert service.rounds.verify() == []


def with_another_encoder(made: tiny.Tiny, out: Path) -> tiny.Tiny:
    """The tiny bundle as version 2, whose texts another encoder reads, as of MiniLM and then the multilingual one."""
    shutil.copytree(made.path, out)
    other = {one.name: one.features_id for one in made.manifest.modalities}["text"], "f" * 64
    modalities = tuple(
        msgspec.structs.replace(one, features_id=other[1], encoder="of many languages") if one.name == "text" else one
        for one in made.manifest.modalities
    )
    segments = tuple(
        msgspec.structs.replace(s, reads=tuple(other[1] if read == other[0] else read for read in s.reads))
        for s in made.manifest.segments
    )
    manifest = msgspec.structs.replace(made.manifest, version=2, modalities=modalities, segments=segments)
    (out / "manifest.json").write_bytes(canonical(manifest))
    write_signature(out, manifest, made.certificate, made.exporter_key)
    return replace(made, path=out, manifest=manifest)


def test_a_bundle_with_another_text_encoder_beside_one_of_before_merges_no_text_and_says_so(
    tiny_bundle: tiny.Tiny, devices: list[Device], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service = make_district(tmp_path / "district", tiny_bundle, buffer_size=3, min_devices=3)
    first_version(service, devices, tmp_path)
    service.close()
    for device in devices:
        assert device.train(settings=SHORT).update_code == "queued"
    later = with_another_encoder(tiny_bundle, tmp_path / "second")
    of_text = {segment.name for segment in later.manifest.segments if "f" * 64 in segment.reads}
    folders = [str(tmp_path / name) for name in ("newer", "district", "second")]
    assert main(["district", "upgrade-bundle", *folders[:2], "--bundle", folders[2]]) == 0
    told = " ".join(capsys.readouterr().out.split())
    reads = "text: of many languages reads it here, tiny random text encoder before"
    assert f"{reads}: what devices learned through it does not go on or merge" in told
    assert "until `homeroom device upgrade DIR` a device takes no part" in told
    new = told.partition("new, as the bundle has them: ")[2]
    assert all(name in new for name in of_text)
    with contextlib.closing(open_service(tmp_path / "newer")) as service, running(service) as address:
        before = service.rounds.state.theta.copy()
        for device in devices:
            set_network(device.store, address=address)
            with pytest.raises(TrustError, match="the round is for another bundle") as refused:
                device.sync()
            assert refused.value.remedy == "`homeroom device upgrade DIR`"
        assert service.rounds.state.pending == 0, "nothing came"
        last = devices.pop()
        last.close()
        assert main(["device", "upgrade", str(tmp_path / "s2")]) == 0
        told = " ".join(capsys.readouterr().out.split())
        assert "text: of many languages reads it now, tiny random text encoder before" in told
        assert "what was learned through it does not go on" in told
        with Device.open(tmp_path / "s2") as last:
            for device in (*devices, last):
                device.update_bundle()
                report = device.sync()
                assert (len(report.sent), dict(report.refused)) == (1, {})
        assert service.rounds.state.version == 2
        moved = later.manifest.layout.split(service.rounds.state.theta != before)
        assert not any(moved[name].any() for name in of_text)
        assert moved["ladder.image"].any()


def test_a_device_that_is_killed_while_it_goes_over_goes_on_afterwards(
    tiny_bundle: tiny.Tiny, devices: list[Device], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = make_district(tmp_path / "district", tiny_bundle, buffer_size=3, min_devices=3)
    first_version(service, devices, tmp_path)
    service.close()
    later = newer(tiny_bundle, tmp_path / "second")
    upgrade_bundle(tmp_path / "newer", tmp_path / "district", later.path)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    device = devices[0]
    with contextlib.closing(open_service(tmp_path / "newer")) as service, running(service) as address:
        set_network(device.store, address=address)
        with monkeypatch.context() as patched:
            patched.setattr("homeroom.device.install.enrolment.follow_bundle", killed)
            with pytest.raises(KeyboardInterrupt):
                device.update_bundle()
        assert device.status()["bundle"]["version"] == 1  # the bundle and its enrolment change together
        device.update_bundle()
        device.train(settings=SHORT)
        for where in ("homeroom.federation.versions.version_facts", "homeroom.federation.sync.queue_newest_update"):
            with monkeypatch.context() as patched:
                patched.setattr(where, killed)
                with pytest.raises(KeyboardInterrupt):
                    device.sync()
        assert len(device.sync().sent) == 1
        assert service.rounds.state.pending == 1
