"""`kill -9` at any moment of add, train and sync, in real processes: nothing accepted is lost, nothing counts twice."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from pathlib import Path

import msgspec
import pytest
import tiny
from aggregator.institution import running

from faults.killing import counted, killed_after, lines, seconds_of_a_whole_sync
from faults.work_device import SETTINGS, rows
from homeroom import Device
from homeroom.contract.round import RoundConfiguration
from homeroom.store.versions import UnfinishedTraining
from homeroom.train.state import TrainState

SEED = 20261125
KILLS = 12

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(autouse=True)
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_add_loses_and_doubles_no_sample(tiny_bundle: tiny.Tiny, tmp_path: Path) -> None:
    chance, place = random.Random(SEED), tmp_path / "device"
    Device.open(place, tiny_bundle.path, tiny_bundle.root, threads=1).close()
    print(f"seed {SEED}")
    told: set[int] = set()
    start = 0
    for _ in range(KILLS):
        heard = chance.randint(0, 12)
        delay_s = chance.uniform(0, 0.05)  # an add takes about as long
        rest = killed_after(delay_s, "add", place, start, wait=lines(heard))
        added = heard + sum(line.startswith("added ") for line in rest)
        told |= set(range(start, start + 3 * added))
        with Device.open(place, threads=1) as device:
            held = Counter(int(sample.inputs["word"][0].split()[1]) for sample in device.store.samples())
            assert device.store.damage() == []
        assert max(held.values(), default=1) == 1, "doubled"
        assert told <= held.keys(), "lost"
        assert len(held) <= len(told) + 3 * KILLS
        assert len(held) % 3 == 0, "half a step"
        told = set(held)
        start = max(held, default=-1) + 1
    with Device.open(place, threads=1) as device:
        count = device.store.count()
        assert count > KILLS
        for number in range(0, 9, 3):
            device.add(*rows(number, 3))
        assert device.store.count() == count, "a file added again after a power cut adds nothing twice"


def test_train_goes_on_from_the_last_checkpoint_and_ends_the_same(tiny_bundle: tiny.Tiny, tmp_path: Path) -> None:
    chance, fresh = random.Random(SEED + 1), tmp_path / "fresh"
    with Device.open(fresh, tiny_bundle.path, tiny_bundle.root, threads=1) as device:
        device.add(*rows(0, 24))
    whole = tmp_path / "whole"
    shutil.copytree(fresh, whole)
    with Device.open(whole, threads=1) as device:
        told: list[str] = []
        report = device.train(minutes=5, settings=SETTINGS, progress=lambda stage, *_: told.append(stage))
        expected = device.store.versions.theta(report.version_id)
        answering = device.store.versions.refit(report.version_id)
        assert answering is not None
    print(f"seed {SEED + 1}: a whole training tells its progress {len(told)} times")
    resumed = 0
    for trial in range(KILLS):
        place = tmp_path / str(trial)
        shutil.copytree(fresh, place)
        first = told.index("training") + 1 if trial % 3 else 0  # the others fall among the features too
        killed_after(chance.uniform(0, 0.02), "train", place, wait=lines(chance.randint(first, len(told))))
        with Device.open(place, threads=1) as device:
            body = device.store.get_secret("state")
            steps: list[int] = []

            def note(stage: str, done: int, _: int, steps: list[int] = steps) -> None:
                if stage == "training":
                    steps.append(done)

            assert device.store.count() == 24
            assert device.store.damage() == []
            if (current := device.store.versions.current()) is None:
                report = device.train(minutes=5, settings=SETTINGS, progress=note)
                assert report.resumed == (body is not None)
                if body is not None:
                    saved = TrainState.decode(msgspec.msgpack.decode(body, type=UnfinishedTraining).state)
                    assert not steps or steps[0] == saved.steps + 1, "goes on where it was"
                    resumed += 1
                current = device.store.versions.current()
            elif body is not None:
                device.train(minutes=5, settings=SETTINGS)  # its fit on all samples was cut off
            assert current is not None
            refit = device.store.versions.refit(current.version_id)
            assert refit is None or refit.tobytes() == answering.tobytes()
            assert (refit is not None) or body is None
            assert device.store.versions.theta(current.version_id).tobytes() == expected.tobytes()
            assert len(device.store.versions.all()) == 1
            assert device.store.get_secret("state") is None
        shutil.rmtree(place)
    print(f"{resumed} of {KILLS} went on from a checkpoint")
    assert resumed > KILLS // 4


def test_sync_counts_every_update_once(tiny_bundle: tiny.Tiny, tmp_path: Path) -> None:
    from homeroom_aggregator.admin.folder import create_folder, invite_devices
    from homeroom_aggregator.server.service import open_service

    chance, folder = random.Random(SEED + 2), tmp_path / "district"
    asked = RoundConfiguration(bundle_id="0" * 64, buffer_size=1, min_devices=1)
    create_folder(folder, tiny_bundle.path, institution="tests", root_key=tiny_bundle.root_key, configuration=asked)
    service = open_service(folder)
    home = tmp_path / "device"
    print(f"seed {SEED + 2}")
    with running(service) as address:
        (invitation,) = invite_devices(folder, address, 1)
        (tmp_path / "invitation.json").write_bytes(msgspec.json.encode(invitation))
        with Device.open(home, tiny_bundle.path, tiny_bundle.root, threads=1) as device:
            device.add(*rows(0, 16))
            device.join(tmp_path / "invitation.json")
        sent_before_kill, duration = 0, 0.5
        for trial in range(KILLS):
            with Device.open(home, threads=1) as device:
                assert device.train(minutes=1, epochs=1).update == "queued"
            if trial == 0:
                duration = seconds_of_a_whole_sync(home)
            elif trial % 2:
                killed_after(chance.uniform(0.3, 1.1) * duration, "sync", home)
            else:
                killed_after(0, "sync", home, wait=counted(service, trial + 1))
            sent_before_kill += service.rounds.state.version == trial + 1
            with Device.open(home, threads=1) as device:
                device.sync()
                status = device.status()
                assert status["damage"] == []
                assert (status["updates_waiting"], status["updates_sent"]) == (0, trial + 1)
                assert status["global_version"] == trial + 1
            assert service.rounds.state.version == trial + 1, "lost, or counted twice"
        assert service.rounds.verify() == []
    service.close()
    print(f"{sent_before_kill} of {KILLS} updates had arrived before the kill")
    assert sent_before_kill >= KILLS // 2
