"""Fifty restarts of each side, politely or not: the aggregator under way, and the device between any two steps."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import msgspec
import numpy as np
import pytest

from aggregator.institution import START, learn, make_folder, running
from homeroom import Device
from homeroom.federation import versions
from homeroom.federation.enrolment import set_network
from homeroom_aggregator.admin.configuration import LogSection
from homeroom_aggregator.admin.configuration_file import CONFIGURATION_FILE, read_configuration, write_file
from homeroom_aggregator.admin.folder import (
    BUNDLES_FOLDER,
    FACTS_FILE,
    KEY_FILE,
    LOG_FILE,
    SEALING_KEY_FILE,
    SECRET_FILE,
    invite_devices,
)
from homeroom_aggregator.server.service import open_service
from homeroom_aggregator.state import audit
from homeroom_aggregator.state.set_apart import READING_FILE

pytestmark = [pytest.mark.extra, pytest.mark.timeout(600)]
RESTARTS = 50


def test_each_side_restarted_fifty_times_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every update counts once, every version reaches the device, and neither folder collects anything."""
    (tmp_path / "keys").mkdir()
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    monkeypatch.setattr(
        "homeroom.inference.golden.choose_precision", lambda *_, **__: {}
    )  # these bundles hold no graphs
    chance = random.Random(20261125)
    folder, made, waits = make_folder(tmp_path, buffer_size=1, min_devices=1), 0, False
    write_file(folder, msgspec.structs.replace(read_configuration(folder), log=LogSection(retain=10)))
    (invitation,) = invite_devices(folder, "http://district.example", 1)
    (tmp_path / "invitation.json").write_bytes(msgspec.json.encode(invitation))
    for number in range(RESTARTS):
        service = open_service(folder)
        with running(service) as address, Device.open(tmp_path / "room", tmp_path / "bundle") as device:
            set_network(device.store, address=address, lan="off")
            if number == 0:
                (tmp_path / "invitation.json").write_bytes(
                    msgspec.json.encode(msgspec.structs.replace(invitation, address=address))
                )
                device.join(tmp_path / "invitation.json")
            if not waits:
                learn(device, 2.0**-10)
                made += 1
            waits = chance.random() < 0.2  # it is closed before it has sent what it learned
            if not waits:
                device.sync()
        if chance.random() < 0.5:
            service.close()
        else:  # as after a kill: no checkpoint is left, and the lock goes with the process
            service.writer.close()
            service.downloads.close()
            service.reader.close()
            service.rounds.log.close()
    with (
        contextlib.closing(open_service(folder)) as service,
        running(service) as address,
        Device.open(tmp_path / "room", tmp_path / "bundle") as device,
    ):
        set_network(device.store, address=address, lan="off")
        device.sync()
        device.sync()
        rounds = service.rounds
        assert rounds.log.count("update") == rounds.state.version == made
        assert device.status()["global_version"] == made
        assert device.status()["updates_waiting"] == 0
        newest = versions.newest_global(device.store, device.bundle)
        found = versions.theta_of(device.store, device.bundle, newest)
        np.testing.assert_array_equal(found[:7], START[:7] + np.float32(made * 2.0**-10))
        assert rounds.verify() == []
        assert audit.verify(rounds.log.database)[2] is None
        assert not list((tmp_path / "room" / "downloads").iterdir())
        assert {path.name for path in folder.iterdir()} <= {
            *(FACTS_FILE, KEY_FILE, SECRET_FILE, BUNDLES_FOLDER, CONFIGURATION_FILE),
            *(LOG_FILE, "log.lock", "log.db-wal", "log.db-shm", SEALING_KEY_FILE, READING_FILE),
        }
