"""SuperLink and SuperNodes as real processes: what they merge is what our own server merges, bit for bit."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tiny

pytest.importorskip("flwr")

from flower.lessons import by_our_own_server, classrooms, copies, district, invitations, result
from homeroom import Device

pytestmark = [pytest.mark.extra, pytest.mark.timeout(600)]
APP = Path(__file__).resolve().parents[2] / "examples" / "flower"
BIN = Path(sys.executable).parent
LIMIT_S = 240


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextlib.contextmanager
def process(log: Path, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """One of Flower's long-running programs; ended, with what it started, when the test is over."""
    with log.open("wb") as out:
        started = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        try:
            yield started
        finally:
            started.terminate()
            try:
                started.wait(60)
            except subprocess.TimeoutExpired:
                started.kill()
                started.wait(60)


def until_it_listens(port: int, started: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + LIMIT_S
    while time.monotonic() < end and started.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.2)
    raise AssertionError(log.read_text()[-3000:])


def test_a_flower_deployment_and_our_own_server_end_in_the_same_theta(
    tmp_path: Path, tiny_bundle: tiny.Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("keys", "flwr"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "flwr"))
    monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", "0")
    monkeypatch.setenv("FLWR_DISABLE_UPDATE_CHECK", "1")
    monkeypatch.setenv("PATH", f"{BIN}{os.pathsep}{os.environ['PATH']}")
    rooms = classrooms(tmp_path / "rooms", tiny_bundle)
    twins = copies(rooms, tmp_path / "twins")
    folder = district(tmp_path / "over-flower", tiny_bundle)
    invited = invitations(folder, tmp_path / "invited", "http://nowhere.example")
    port, logs = free_port(), tmp_path
    (tmp_path / "flwr" / "config.toml").write_text(
        f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    )
    with contextlib.ExitStack() as stack:
        link = stack.enter_context(
            process(
                logs / "link.log",
                str(BIN / "flower-superlink"),
                *("--insecure", "--host", "127.0.0.1", "--port", str(port)),
                "--disable-runtime-dependency-installation",
            )
        )
        until_it_listens(port, link, logs / "link.log")
        for number, (room, invitation) in enumerate(zip(rooms, invited, strict=True)):
            stack.enter_context(
                process(
                    logs / f"node-{number}.log",
                    str(BIN / "flower-supernode"),
                    *("--insecure", "--superlink", f"127.0.0.1:{port}"),
                    *("--host", "127.0.0.1", "--port", str(free_port())),
                    *("--node-config", f'device="{room}" invitation="{invitation}"'),
                )
            )
        asked = f'folder="{folder}" rounds=3 nodes=2 epochs=1 wait-s={LIMIT_S}.0'
        command = [str(BIN / "flwr"), "run", str(APP), "here", "--stream", "--run-config", asked]
        done = subprocess.run(command, capture_output=True, text=True, timeout=2 * LIMIT_S)
    told = done.stdout + done.stderr
    for log in sorted(logs.glob("*.log")):
        told += f"\n--- {log.name}\n{log.read_text()[-3000:]}"
    version, theta = result(folder)
    assert version == 2, told
    for room in rooms:
        with Device.open(room) as device:
            assert device.status()["global_version"] == 2, told

    theirs, ours = theta, by_our_own_server(twins, tmp_path / "over-http", tiny_bundle, trainings=2)
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-6)  # what is promised
    np.testing.assert_array_equal(theirs, ours)  # what is so
