"""For the tests of Flower: a district, and classrooms that exist twice, so that two servers can be compared."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
import tiny
from aggregator.institution import running

from homeroom import Device, Sample
from homeroom.contract.round import RoundConfiguration
from homeroom_aggregator.admin.folder import create_folder, invite_devices, open_rounds
from homeroom_aggregator.server.service import open_service

CLASSROOMS = ("one", "two")


def district(folder: Path, bundle: tiny.Tiny, **more: int) -> Path:
    """An aggregator's folder: a release for every two updates, of two devices."""
    settings = {"buffer_size": 2, "min_devices": 2, **more}
    asked = RoundConfiguration(bundle_id=bundle.bundle_id, **settings)
    create_folder(folder, bundle.path, institution="District 7", root_key=bundle.root_key, configuration=asked)
    return folder


def classrooms(folder: Path, bundle: tiny.Tiny) -> list[Path]:
    """Directories of devices with samples, which have not joined yet."""
    made = []
    for seed, name in enumerate(CLASSROOMS):
        with Device.open(folder / name, bundle.path, bundle.root, threads=1) as device:
            device.add(*(Sample(**row) for row in tiny.samples(20, seed)))
        made.append(folder / name)
    return made


def copies(rooms: list[Path], folder: Path) -> list[Path]:
    """The same devices on other machines: with keys of their own (`HOMEROOM_KEYS`), or each would notice its twin."""
    shutil.copytree(os.environ["HOMEROOM_KEYS"], folder / "keys")
    return [Path(shutil.copytree(room, folder / room.name)) for room in rooms]


def invitations(district: Path, folder: Path, address: str) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for number, invitation in enumerate(invite_devices(district, address, len(CLASSROOMS))):
        made.append(folder / f"{number}.json")
        made[-1].write_bytes(msgspec.json.encode(invitation))
    return made


def result(district: Path) -> tuple[int, np.ndarray]:
    """Version and theta of a folder, after every version was computed again from its log."""
    rounds = open_rounds(district)
    try:
        assert rounds.verify() == []
        return rounds.state.version, rounds.state.theta
    finally:
        rounds.close()


def by_our_own_server(rooms: list[Path], folder: Path, bundle: tiny.Tiny, *, trainings: int) -> np.ndarray:
    """The theta, float32 [P], that these `copies` make together over HTTP: one training and version after another."""
    made = district(folder, bundle)
    service = open_service(made)
    with pytest.MonkeyPatch.context() as elsewhere, running(service) as address:
        elsewhere.setenv("HOMEROOM_KEYS", str(rooms[0].parent / "keys"))
        devices = [Device.open(room, threads=1) for room in rooms]
        for device, invitation in zip(devices, invitations(made, folder / "invited", address), strict=True):
            device.join(invitation)
        for _ in range(trainings):
            for device in devices:
                device.train(minutes=5, epochs=1)
            for device in devices * 2:  # once to send, once for the version that the last update made
                device.sync()
        for device in devices:
            device.close()
    service.close()
    version, theta = result(made)
    assert version == trainings
    return theta
