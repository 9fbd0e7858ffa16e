"""An edited store, through the commands: what sends refuses, what shows says so, one command accepts it."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
from pathlib import Path

import pytest
import tiny
from conftest import Attack

from homeroom import Device
from homeroom.agent.loop import Agent, AgentSettings
from homeroom.agent.status import read_status, status_lines
from homeroom.cli.main import main
from homeroom.device import doctor
from homeroom.errors import EditedError
from homeroom.federation.policy import POLICY
from homeroom.store.store import Store

EDITED = pytest.mark.attack("files and bundles", "a thief of the disk edits rows of the store without its key")


@pytest.fixture
def device(tiny_bundle: tiny.Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A device whose policy somebody has removed."""
    from homeroom.contract.policy import Policy

    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    with Device.open(tmp_path / "device", tiny_bundle.path, tiny_bundle.root, threads=1) as opened:
        POLICY.write(opened.store, Policy(institution="School 1", version=1, consent=True))
        assert opened.policy() is not None
    for name in ("device.db", "backup/device.db"):
        with contextlib.closing(sqlite3.connect(tmp_path / "device" / name, isolation_level=None)) as raw:
            raw.execute("DELETE FROM secrets WHERE name = 'policy'")
    return tmp_path / "device"


def exit_code(*words: str) -> int | str | None:
    try:
        return main(list(words))
    except SystemExit as ended:
        return ended.code


@EDITED
def test_every_way_out_is_closed_and_says_why(
    device: Path, tmp_path: Path, attack: Attack, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "stick").mkdir()
    commands = (["sync", str(device)], ["offline", "out", str(device), str(tmp_path / "stick")])
    for words in commands:
        attack.got += exit_code("device", *words) != EditedError.exit_code
        attack.noticed = capsys.readouterr().err
        assert "accept-restored" in attack.noticed
    (tmp_path / "rows.jsonl").write_text('{"word": "x", "labels": {"category": "fish"}}\n')
    assert exit_code("device", "add", str(device), str(tmp_path / "rows.jsonl")) == EditedError.exit_code
    assert list((tmp_path / "stick").iterdir()) == []


def test_status_doctor_and_agent_say_it_and_one_command_accepts(
    device: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["device", "status", str(device), "--json"]) == 0
    assert "secrets" in json.loads(capsys.readouterr().out)["edited"]
    checks, _, _ = doctor._check_directory(device)
    (check,) = [check for check in checks if check.name == "edits"]
    assert (check.state, "accept-restored" in check.remedy) == ("wrong", True)
    agent = Agent(AgentSettings(device))
    agent.cycle()
    assert dict(status_lines(agent.status))["edited"].startswith("rows of secrets were removed or replaced")
    assert main(["device", "accept-restored", str(device)]) == 0
    assert "accepted: rows of secrets" in capsys.readouterr().out
    assert main(["device", "accept-restored", str(device)]) == 0
    assert "nothing to accept" in capsys.readouterr().out
    with Store.open(device) as store:
        assert (store.edited, store.audit()[-1]["event"]) == ("", "accepted as it is")
    written = read_status(device)
    assert written
    assert "edited" not in dict(status_lines(written)), "before any agent looks"
    agent.cycle()
    assert "edited" not in dict(status_lines(agent.status))


@pytest.mark.attack("files and bundles", "a thief of the disk puts an older store back")
def test_a_backup_that_was_put_back_sends_after_it_is_accepted(
    tiny_bundle: tiny.Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attack: Attack
) -> None:
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    place = tmp_path / "device"
    Device.open(place, tiny_bundle.path, tiny_bundle.root, threads=1).close()
    shutil.copytree(place, tmp_path / "backup")
    with Device.open(place, threads=1) as device:
        device.store.put_secret("network", b"{}")
    shutil.rmtree(place)
    shutil.copytree(tmp_path / "backup", place)
    with Device.open(place, threads=1) as device:
        with pytest.raises(EditedError) as refused:
            device.sync()
        attack.noticed = str(refused.value)
        assert device.status()["edited"]
        device.store.accept_edits()
        with pytest.raises(Exception, match="join") as told:
            device.sync()
        attack.got = isinstance(told.value, EditedError)
