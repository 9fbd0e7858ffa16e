"""The aggregator killed at fifteen seeded moments: what it accepted is there once, and its log proves each version."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import pytest
import stamina

from aggregator.institution import School, make_folder
from homeroom.contract.invitation import Enrolment
from homeroom.errors import NetworkError, UpdateError
from homeroom.federation.network.client import Client, join
from homeroom_aggregator.admin.folder import invite_devices, open_rounds

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
MOMENTS = 15


def start(folder: Path) -> tuple[subprocess.Popen[str], str]:
    """`homeroom district serve` in its own process, and its address."""
    command = [sys.executable, "-m", "homeroom", "district", "serve", str(folder), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"})
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("listening on "):
            return process, line.split()[-1]
    raise AssertionError("the server did not start")


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    if process.stdout:
        process.stdout.close()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_nothing_accepted_is_lost_or_counted_twice(tmp_path: Path) -> None:
    stamina.set_testing(True, attempts=1)  # a killed server does not come back by waiting
    folder = make_folder(tmp_path, buffer_size=3, min_devices=2)
    rng = random.Random(20261123)
    schools = [School() for _ in range(6)]
    enrolments: dict[str, Enrolment] = {}
    accepted: set[str] = set()
    sent = 0
    for moment in range(MOMENTS):
        process, address = start(folder)
        killer = threading.Timer(rng.uniform(0.0, 0.02), process.kill)  # about the time of an update
        try:
            for turn in itertools.count():
                if turn == moment % 4:
                    killer.start()
                school = schools[rng.randrange(6)]
                if school.name not in enrolments:
                    (invitation,) = invite_devices(folder, address, 1)
                    enrolments[school.name] = join(invitation, school.key)
                client = Client(msgspec.structs.replace(enrolments[school.name], address=address), school.key)
                configuration = client.round()
                base = msgspec.json.decode(client.send("GET", "/v1/health", signed=False))["version"]
                data = school.update(configuration, rng.uniform(-0.1, 0.1), base)
                sent += 1
                with contextlib.suppress(UpdateError):  # it was the first to send on this version, and others were not
                    assert client.update(data) in ("accepted", "already")
                    accepted.add(_id(data))
                client.close()
        except NetworkError:
            pass
        finally:
            killer.cancel()
            kill(process)
        if moment % 5 == 4:
            _check(folder, accepted, sent)
    stamina.set_testing(False)
    assert accepted


def _id(data: bytes) -> str:
    length = int.from_bytes(data[8:12], "little")
    return str(msgspec.json.decode(data[12 : 12 + length])["update_id"])


def _check(folder: Path, accepted: set[str], sent: int) -> None:
    rounds = open_rounds(folder)
    logged = [entry.update_id for entry in rounds.log.entries() if entry.kind == "update"]
    assert accepted <= set(logged)
    assert len(logged) == len(set(logged)) <= sent
    assert rounds.verify() == []
    rounds.close()
