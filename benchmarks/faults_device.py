"""Faults of processes and memory, tried on devices: kills, and machines with little memory; of `fault_injection.py`."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import tiny
from aggregator.institution import running
from faults.killing import counted, killed_after, lines, seconds_of_a_whole_sync
from faults.work_device import SETTINGS, rows

from homeroom import Device
from homeroom.contract.round import RoundConfiguration
from homeroom_aggregator.admin.folder import create_folder, invite_devices
from homeroom_aggregator.server.service import open_service

SEED = 20261126
KILLS = {"add": 80, "train": 60, "sync": 60}
Trials = Iterator[tuple[int, Callable[[], object]]]


def _kills(verb: str, quick: bool) -> int:
    return 3 if quick else KILLS[verb]


def adding(folder: Path, quick: bool) -> Trials:
    made, chance, home = tiny.bundle(), random.Random(SEED), folder / "device"
    Device.open(home, made.path, made.root, threads=1).close()
    told: set[int] = set()

    def kill() -> None:
        start = max(told, default=-1) + 1
        said = [int(line.split()[1]) for line in killed_after(chance.uniform(0, 0.5), "add", home, start) if line]
        told.update(number + n for number in said for n in range(3))
        with Device.open(home, threads=1) as device:
            held = Counter(int(sample.inputs["word"][0].split()[1]) for sample in device.store.samples())
            damage = device.store.damage()
        assert damage == []
        assert max(held.values(), default=1) == 1, "doubled"
        assert told <= held.keys(), "lost"
        assert len(held) % 3 == 0, "half a step"
        told.update(held)

    for _ in range(_kills("add", quick)):
        yield 1, kill


def training(folder: Path, quick: bool) -> Trials:
    made, chance, fresh = tiny.bundle(), random.Random(SEED + 1), folder / "fresh"
    with Device.open(fresh, made.path, made.root, threads=1) as device:
        device.add(*rows(0, 24))
    shutil.copytree(fresh, folder / "whole")
    stages: list[str] = []
    with Device.open(folder / "whole", threads=1) as device:
        report = device.train(minutes=5, settings=SETTINGS, progress=lambda stage, *_: stages.append(stage))
        expected = device.store.versions.theta(report.version_id)

    def kill(first: int) -> None:
        home = folder / "killed"
        shutil.copytree(fresh, home)
        try:
            killed_after(chance.uniform(0, 0.02), "train", home, wait=lines(chance.randint(first, len(stages))))
            with Device.open(home, threads=1) as device:
                assert (device.store.count(), device.store.damage()) == (24, [])
                if device.store.versions.current() is None:
                    device.train(minutes=5, settings=SETTINGS)
                current = device.store.versions.current()
                assert current is not None
                assert device.store.versions.theta(current.version_id).tobytes() == expected.tobytes(), (
                    "not bit for bit"
                )
                assert len(device.store.versions.all()) == 1
        finally:
            shutil.rmtree(home)

    for trial in range(_kills("train", quick)):
        first = stages.index("training") + 1 if trial % 3 else 0  # the others fall among the features too
        yield 1, lambda first=first: kill(first)


def syncing(folder: Path, quick: bool) -> Trials:
    made, chance, home = tiny.bundle(), random.Random(SEED + 2), folder / "device"
    asked = RoundConfiguration(bundle_id="0" * 64, buffer_size=1, min_devices=1)
    create_folder(folder / "district", made.path, institution="tests", root_key=made.root_key, configuration=asked)
    service = open_service(folder / "district")
    with running(service) as address:
        (invitation,) = invite_devices(folder / "district", address, 1)
        (folder / "invitation.json").write_bytes(msgspec.json.encode(invitation))
        with Device.open(home, made.path, made.root, threads=1) as device:
            device.add(*rows(0, 16))
            device.join(folder / "invitation.json")
            assert device.train(minutes=1, epochs=1).update_code == "queued"
        duration = seconds_of_a_whole_sync(home)

        def kill(version: int) -> None:
            with Device.open(home, threads=1) as device:
                assert device.train(minutes=1, epochs=1).update_code == "queued"
            if version % 2:
                killed_after(chance.uniform(0.3, 1.1) * duration, "sync", home)
            else:
                killed_after(0, "sync", home, wait=counted(service, version))
            with Device.open(home, threads=1) as device:
                device.sync()
                status = device.status()
            assert status["damage"] == []
            assert (status["updates_waiting"], status["updates_sent"]) == (0, version)
            assert status["global_version"] == version == service.rounds.state.version, "lost, or counted twice"

        for version in range(2, _kills("sync", quick) + 2):
            yield 1, lambda version=version: kill(version)
    service.close()


# Little memory

WITHIN = """
import resource, sys
resource.setrlimit(resource.RLIMIT_{kind}, ({megabytes} << 20, {megabytes} << 20))
from homeroom.cli.main import main
main(["device", "train", sys.argv[1], "--minutes", "3", "--epochs", "2"])
"""


def little_memory(folder: Path, quick: bool) -> Trials:
    """Under each limit of the system it trains, or names in one sentence what is missing; it never crashes."""
    if sys.platform != "linux":
        raise RuntimeError("limits of Linux")
    made, fresh = tiny.bundle(), folder / "fresh"
    with Device.open(fresh, made.path, made.root, threads=1) as device:
        device.add(*rows(0, 24))
    environment = os.environ | {"MALLOC_ARENA_MAX": "2"}

    def attempt(kind: str, megabytes: int, must: bool) -> None:
        home = folder / "limited"
        shutil.copytree(fresh, home)
        try:
            command = [sys.executable, "-c", WITHIN.format(kind=kind, megabytes=megabytes), str(home)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
            told = f"{kind} {megabytes} MB, code {done.returncode}: {done.stderr[-300:]}"
            assert "Traceback" not in done.stderr, told
            assert done.returncode in ((0,) if must else (0, 9)), told
            with Device.open(home, threads=1) as device:
                assert (device.store.count(), device.store.damage()) == (24, []), told
                assert (device.store.versions.current() is not None) == (done.returncode == 0), told
        finally:
            shutil.rmtree(home)

    for kind, megabytes, must in (("AS", 512, True), ("DATA", 512, True), ("DATA", 256, True)):
        yield 1, lambda kind=kind, megabytes=megabytes, must=must: attempt(kind, megabytes, must)
    for megabytes in () if quick else (192, 160, 128, 96, 64):
        yield 1, lambda megabytes=megabytes: attempt("DATA", megabytes, False)


FAULTS = {
    "kill -9 while adding": ("nothing added is lost or doubled, no half step", adding),
    "kill -9 while training": ("goes on from the checkpoint, and ends the same bit for bit", training),
    "kill -9 while syncing": ("each update counts once", syncing),
    "512 MB and 256 MB of memory, and less": ("it trains, or says in one sentence what it lacks", little_memory),
}
