"""A district whose newer bundle has more labels: its theta goes on, and what one school teaches all schools answer."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
import tiny
from grown import FIRST, NEW, OLD, SECOND, asked, check_answers, exported, rows, write

from aggregator.institution import running
from homeroom import Device
from homeroom.contract.invitation import as_text
from homeroom.contract.privacy import Privacy
from homeroom.contract.round import RoundConfiguration
from homeroom.errors import InputError
from homeroom.federation.enrolment import set_network
from homeroom.runtime.bundle import Bundle
from homeroom.train.settings import Settings
from homeroom_aggregator.admin.bundle_upgrade import upgrade_bundle
from homeroom_aggregator.admin.folder import create_folder, invite_devices
from homeroom_aggregator.server.service import open_service

LONG = Settings(epochs=12, learning_rate=2e-2)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Bundle]:
    folder = tmp_path_factory.mktemp("bundles")
    first = exported(folder, **FIRST)
    return first, exported(folder, first, **SECOND)


def test_its_theta_goes_on_and_a_school_without_samples_answers_what_another_taught(
    bundles: tuple[Bundle, Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    (tmp_path / "keys").mkdir()
    first, second = bundles
    rules = RoundConfiguration(bundle_id="0" * 64, buffer_size=2, min_devices=2)
    create_folder(tmp_path / "district", first.path, institution="tests", root_key=tiny.ROOT, configuration=rules)
    with contextlib.ExitStack() as stack:
        service = open_service(tmp_path / "district")
        devices = [stack.enter_context(Device.open(tmp_path / f"s{n}", first.path, threads=1)) for n in range(2)]
        with running(service) as address:
            for number, device in enumerate(devices):
                (invitation,) = invite_devices(tmp_path / "district", address, 1)
                device.join(as_text(invitation))
                device.add(write(tmp_path / f"s{number}.jsonl", rows(120, OLD, number)))
                device.train(settings=LONG)
                device.sync()
            for device in devices:
                device.sync()
            before = [device.predict_many(asked(OLD)) for device in devices]
            learned = service.rounds.state.theta.copy()
        service.close()
        carried = upgrade_bundle(tmp_path / "newer", tmp_path / "district", second.path).carried
        assert (carried.grown, carried.new) == (["head.kind", "head.traits"], [])
        service = stack.enter_context(contextlib.closing(open_service(tmp_path / "newer")))
        parts, was = second.layout.split(service.rounds.state.theta), first.layout.split(learned)
        for name in carried.grown:
            assert np.array_equal(parts[name][: was[name].size], was[name])
            assert not parts[name][was[name].size :].any()
        with running(service) as address:
            for device, answers in zip(devices, before, strict=True):
                set_network(device.store, address=address)
                assert device.update_bundle()
                check_answers(answers, device.predict_many(asked(OLD)), NEW)
            devices[0].add(write(tmp_path / "more.jsonl", rows(120, ("a", "i"), seed=3)))
            for device in devices:
                device.train(settings=LONG)
                assert len(device.sync().sent) == 1
            assert service.rounds.state.version == 2
            with Device.open(tmp_path / "another", second.path, threads=1) as another:  # it has no sample
                (invitation,) = invite_devices(tmp_path / "newer", address, 1)
                another.join(as_text(invitation))
                another.sync()
                chances = [answer["kind"].probabilities for answer in another.predict_many(asked(("i",)))]
        assert all(one["i"] > 0.1 for one in chances)
        assert all(one["j"] == 0.0 for one in chances)


def test_private_rounds_refuse_labels_that_nobody_taught(bundles: tuple[Bundle, Bundle], tmp_path: Path) -> None:
    first, second = bundles
    privacy = Privacy(clip_norm=1, noise_multiplier=2, epsilon=8, delta=1e-5)
    rules = RoundConfiguration(bundle_id="0" * 64, privacy=privacy)
    create_folder(tmp_path / "old", first.path, institution="tests", root_key=tiny.ROOT, configuration=rules)
    with pytest.raises(InputError, match="nobody has taught i, j, red yet"):
        upgrade_bundle(tmp_path / "newer", tmp_path / "old", second.path)
    with pytest.raises(InputError, match="nobody has taught i, j, red yet"):
        create_folder(tmp_path / "new", second.path, institution="tests", root_key=tiny.ROOT, configuration=rules)
    assert not (tmp_path / "newer").exists()
    assert not (tmp_path / "new").exists()
