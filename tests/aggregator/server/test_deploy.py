"""How the server is run for years: its container file and systemd unit, a polite end, and the proof of its log."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import msgspec
import pytest
import tiny
from click.testing import CliRunner

from aggregator.institution import School, make_folder, running
from aggregator.server.test_kill import kill, start
from homeroom.cli.main import homeroom
from homeroom.errors import StoreError
from homeroom.federation.network.client import Client, join
from homeroom_aggregator.admin.folder import invite_devices, open_rounds
from homeroom_aggregator.cli import serve
from homeroom_aggregator.server.service import open_service

HOUSE = Path(__file__).resolve().parents[3]
DEPLOY = HOUSE / "aggregator" / "deploy"


def line(file: str, start: str) -> str:
    (found,) = [row for row in (DEPLOY / file).read_text().splitlines() if row.startswith(start)]
    return found.removeprefix(start).strip()


@pytest.mark.parametrize("file", ["Containerfile", "homeroom-aggregator.service"])
def test_what_they_start_is_a_command_with_options_that_exist(file: str) -> None:
    words = json.loads(line(file, "ENTRYPOINT")) if file == "Containerfile" else shlex.split(line(file, "ExecStart="))
    assert Path(words[0]).name == "homeroom"
    assert words[1:3] == ["district", "serve"]
    given = serve.serve.make_context("serve", words[3:]).params
    assert (given["log_requests"], Path(given["folder"]).is_absolute()) == (True, True)
    with pytest.raises(click.UsageError):
        serve.serve.make_context("serve", [*words[3:], "--nonsense"])


def test_the_container_installs_what_there_is_and_asks_for_its_health(tmp_path: Path) -> None:
    told = (DEPLOY / "Containerfile").read_text()
    (extra,) = re.findall(r"'/src\[(\w+)\]'", told)
    assert extra in tomllib.loads((HOUSE / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (constraints,) = re.findall(r"-c /src/(\S+)", told)
    assert (HOUSE / constraints).exists()
    *_, check = json.loads(line("Containerfile", "HEALTHCHECK CMD"))
    service = open_service(make_folder(tmp_path))
    with running(service) as address:
        here = check.replace("https://127.0.0.1:8340", address)
        assert here != check
        assert subprocess.run([sys.executable, "-c", here], timeout=60).returncode == 0
    service.close()
    assert subprocess.run([sys.executable, "-c", here], timeout=30, stderr=subprocess.DEVNULL).returncode == 1


@pytest.mark.skipif(os.name != "posix", reason="SIGTERM is POSIX's")
def test_sigterm_ends_it_politely_and_its_log_is_proved_or_not(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, buffer_size=1, min_devices=1)
    process, address = start(folder)
    try:
        (invitation,) = invite_devices(folder, address, 1)
        school = School()
        with contextlib.closing(Client(join(invitation, school.key), school.key)) as client:
            assert client.update(school.update(client.round())) == "accepted"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        kill(process)
    with contextlib.closing(open_rounds(folder)) as rounds:
        assert rounds.log.checkpoints()[-1] == rounds.log.last()
    done = CliRunner().invoke(homeroom, ["district", "rebuild", str(folder), "--json"], catch_exceptions=False)
    assert done.exit_code == 0
    assert msgspec.json.decode(done.output)["version"] == 1
    with contextlib.closing(sqlite3.connect(folder / "log.db", isolation_level=None)) as raw:
        (body,) = raw.execute("SELECT body FROM checkpoints").fetchone()
        raw.execute("INSERT OR REPLACE INTO checkpoints VALUES (1, ?)", (body,))
    with pytest.raises(StoreError, match="the checkpoint after entry 1 is not what the log gives"):
        CliRunner().invoke(homeroom, ["district", "rebuild", str(folder), "--json"], catch_exceptions=False)


def test_a_server_that_cannot_be_made_leaves_no_folder(tmp_path: Path, tiny_bundle: tiny.Tiny) -> None:
    run, key = CliRunner().invoke, tmp_path / "root.pem"
    assert run(homeroom, ["trust", "root", str(key)]).exit_code == 0  # another than the bundle's
    for bundle in (tmp_path / "none", tiny_bundle.path):
        words = [
            "district",
            "serve",
            str(tmp_path / "all" / "district"),
            "--bundle",
            str(bundle),
            "--root-key",
            str(key),
        ]
        assert run(homeroom, words).exit_code != 0
    assert [path.name for path in tmp_path.iterdir()] == ["root.pem"]
