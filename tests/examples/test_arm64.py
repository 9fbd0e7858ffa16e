"""The device's whole path on an emulated Raspberry Pi 4, and the same on this machine: equal within a tolerance."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import arm64
import msgspec
import numpy as np
import pytest
import tiny
from aggregator.institution import running

from homeroom.contract.round import RoundConfiguration
from homeroom.runtime.bundle import open_bundle, zip_bundle
from homeroom_aggregator.admin.folder import create_folder, invite_devices
from homeroom_aggregator.server.service import open_service

EPOCHS, ROWS = 2, 16
TOLERANCE = 1e-4  # of probabilities, and of the merged theta, which moves by a hundred times as much

pytestmark = [pytest.mark.extra, pytest.mark.timeout(2400)]


@pytest.fixture(scope="module")
def pi() -> arm64.Pi:
    try:
        return arm64.pi()
    except arm64.UnavailableError as reason:
        pytest.skip(f"no Raspberry Pi can be emulated here: {reason}")


class Machine:
    """One device on one kind of machine: its commands, and how long each took."""

    def __init__(self, program: list[str], home: Path, **environment: str) -> None:
        self.program, self.device, self.home = program, home / "device", home
        (home / "keys").mkdir(parents=True)
        self.environment = os.environ | {"HOMEROOM_KEYS": str(home / "keys"), "OMP_NUM_THREADS": "1"} | environment
        self.environment.pop("PYTHONPATH" if environment else "", None)

    def __call__(self, *arguments: object, codes: tuple[int, ...] = (0,)) -> str:
        began = time.monotonic()
        done = subprocess.run(
            [*self.program, *map(str, arguments)], env=self.environment, capture_output=True, text=True, timeout=1500
        )
        print(f"{time.monotonic() - began:6.1f} s  {' '.join(map(str, arguments[:2]))}")
        assert done.returncode in codes, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout


def lesson(machine: Machine, bundle: Path, root: str, samples: Path, invitation: Path) -> dict[str, Any]:
    """From an empty directory to an answer of the merged model; what can be compared of it."""
    machine("device", "init", machine.device, "--bundle", bundle, "--root", root)
    told = json.loads(machine("doctor", machine.device, "--json"))
    assert told["fit"], told
    place = told["costs"]["place"]
    machine("device", "add", machine.device, samples)
    machine("device", "join", machine.device, invitation)
    told = json.loads(machine("device", "train", machine.device, "--epochs", EPOCHS, "--minutes", "20", "--json"))
    assert (told["epochs"], told["finished"], told["update"]) == (EPOCHS, True, "queued"), told
    synced = json.loads(machine("device", "sync", machine.device, "--json"))
    assert (len(synced["sent"]), synced["version"]) == (1, 1), synced
    asked = ("word=the cat", f"picture={samples.parent / '0-picture-0.png'}")
    answers = json.loads(machine("device", "predict", machine.device, *asked, "--json"))
    return {"answers": answers, "samples": told["samples"], "place": place}


@pytest.fixture
def district(tmp_path: Path, tiny_bundle: tiny.Tiny) -> Iterator[Any]:
    """Opens an aggregator for one device, and yields how to invite it."""
    services = []

    def open_one(name: str) -> tuple[Any, Any]:
        asked = RoundConfiguration(bundle_id="0" * 64, buffer_size=1, min_devices=1)
        key = tiny_bundle.root_key
        create_folder(tmp_path / name, tiny_bundle.path, institution="tests", root_key=key, configuration=asked)
        services.append(open_service(tmp_path / name))
        return services[-1], tmp_path / name

    yield open_one
    for service in services:
        service.close()


def invite(folder: Path, address: str, out: Path) -> Path:
    (invitation,) = invite_devices(folder, address, 1)
    out.write_bytes(msgspec.json.encode(invitation))
    return out


def test_a_raspberry_pi_learns_what_this_machine_learns(
    pi: arm64.Pi, tmp_path: Path, tiny_bundle: tiny.Tiny, district: Any
) -> None:
    bundle = tmp_path / "tiny.homeroom"
    zip_bundle(tiny_bundle.path, bundle)
    samples = tiny.write_samples(tmp_path / "lesson", tiny.samples(ROWS, seed=4))

    # Installed by the script, with its pins; a second run changes nothing
    into = tmp_path / "into"
    shell = Machine(["sh", str(arm64.EXAMPLE / "install.sh")], tmp_path / "shell", INTO=str(into))
    shell.environment |= {"PYTHON": str(pi.python), "PATH": f"{pi.tools}:{os.environ['PATH']}", "PIP_NO_COMPILE": "1"}
    shell("--bundle", bundle, "--root-key", tiny_bundle.root, "--wheels", pi.wheels)
    assert "installed already" in shell("--wheels", pi.wheels)
    program = into / "opt/homeroom/venv/bin/homeroom"
    here = Machine([sys.executable, "-m", "homeroom"], tmp_path / "here")
    there = Machine([str(program)], tmp_path / "there", PYTHONPATH="")

    # The same lesson on both
    found = {}
    for name, machine in (("here", here), ("there", there)):
        service, folder = district(name + "-district")
        with running(service) as address:
            invitation = invite(folder, address, tmp_path / f"{name}.json")
            found[name] = lesson(machine, bundle, tiny_bundle.root, samples, invitation)
            found[name]["theta"] = service.rounds.state.theta.copy()
    assert "aarch64" in found["there"]["place"]
    assert "aarch64" not in found["here"]["place"]
    assert found["there"]["samples"] == found["here"]["samples"]
    start = open_bundle(tiny_bundle.path, root=tiny_bundle.root).theta()
    moved = [found[name]["theta"] - start for name in ("here", "there")]
    print(f"theta moved by {np.abs(moved[0]).max():.4f}, apart by {np.abs(moved[0] - moved[1]).max():.2e}")
    assert np.abs(moved[0]).max() > 100 * TOLERANCE
    assert np.abs(moved[0] - moved[1]).max() < TOLERANCE
    for task, answer in found["here"]["answers"].items():
        for label, chance in answer["probabilities"].items():
            assert found["there"]["answers"][task]["probabilities"][label] == pytest.approx(chance, abs=TOLERANCE)
