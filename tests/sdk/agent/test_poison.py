"""An entry that kills its reader is set apart after one try and named, and nothing behind it waits."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from click.testing import CliRunner
from conftest import Attack

from homeroom import Device
from homeroom.agent import bundle_updates, inbox
from homeroom.cli.main import homeroom
from homeroom.errors import BundleError, InputError
from homeroom.system.attempt import TOO_LONG_EXIT_CODE

POISON = pytest.mark.attack("bounds", "an entry that kills its reader")
AGENT = """
import os, signal, sys, time
from pathlib import Path
from homeroom.agent import inbox
inbox.ENTRY_LIMIT_S = float(sys.argv[3])
from homeroom.agent.loop import Agent, AgentSettings
from homeroom.device.device import Device
whole = Device.take_in
def add(device, entry, **options):
    text = Path(entry).read_text()
    if "kill" in text:
        os.kill(os.getpid(), signal.SIGKILL)
    if "endless" in text:
        time.sleep(60)
    if "deep" in text:
        raise RecursionError
    if "large" in text:
        raise MemoryError
    return whole(device, entry, **options)
Device.take_in = add
agent = Agent(AgentSettings(Path(sys.argv[1]), inbox=Path(sys.argv[2]), settled_s=0))
agent.cycle()
print(agent.status.samples, agent.status.refused_entries, dict(agent.status.problems))
"""


@pytest.fixture
def device(tiny_bundle: tiny.Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    Device.open(tmp_path / "device", tiny_bundle.path, tiny_bundle.root, threads=1).close()
    (tmp_path / "inbox").mkdir()
    return tmp_path / "device"


def put(device: Path, name: str, text: str) -> None:
    (device.parent / "inbox" / name).write_text(text)


def run(device: Path, limit_s: float = 60) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", AGENT, str(device), str(device.parent / "inbox"), str(limit_s)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ})


def good(number: int) -> str:
    row = {"word": f"a word {number}", "labels": {"category": "fish"}, "subject": "pupil-0"}
    return json.dumps(row) + "\n"


@POISON
def test_an_entry_that_ends_the_process_is_tried_once(device: Path, attack: Attack) -> None:
    put(device, "a-poison.csv", "kill")
    put(device, "b-good.jsonl", good(1))
    first = run(device)
    assert first.returncode == -signal.SIGKILL
    second = run(device)
    attack.got = second.returncode != 0
    assert second.stdout.split()[:2] == ["1", "1"], second.stdout + second.stderr
    (entry,) = inbox.refused_entries(device.parent / "inbox")
    assert entry.name.endswith("-a-poison.csv")
    assert "ended without a word" in entry.why
    attack.noticed = f"{entry.name}: {entry.why}"
    shown = CliRunner().invoke(homeroom, ["device", "quarantine", str(device), "--inbox", str(device.parent / "inbox")])
    assert entry.name in shown.output


@POISON
def test_an_entry_that_takes_for_ever_ends_the_agent_and_is_set_apart(device: Path, attack: Attack) -> None:
    put(device, "a-poison.csv", "endless")
    put(device, "b-good.jsonl", good(1))
    assert run(device, limit_s=0.5).returncode == TOO_LONG_EXIT_CODE
    second = run(device)
    attack.got = second.stdout.split()[:2] != ["1", "1"]
    (entry,) = inbox.refused_entries(device.parent / "inbox")
    attack.noticed = entry.why


@POISON
def test_a_bundle_of_the_aggregator_that_ended_the_agent_is_not_tried_again(
    device: Path, tiny_bundle: tiny.Tiny, attack: Attack, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[Path] = []

    class EndOfProcessError(BaseException):
        pass

    def end(source: Path, *_: object) -> None:
        tried.append(source)
        raise EndOfProcessError

    offered = device.parent / "offered.homeroom"
    offered.write_bytes(b"a bundle")
    monkeypatch.setattr(bundle_updates.enrolment, "connect", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(bundle_updates.sync, "download_bundle", lambda *_: offered)
    monkeypatch.setattr(bundle_updates, "try_bundle", end)
    with Device.open(device, threads=1) as opened:
        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", lambda *_, **__: None)  # a process that is killed removes no mark
            with pytest.raises(EndOfProcessError):
                bundle_updates.follow_bundle(opened)
        with pytest.raises(BundleError, match="not tried again") as refused:
            bundle_updates.follow_bundle(opened)
        attack.noticed, attack.got = str(refused.value), len(tried) - 1
        offered.write_bytes(b"another bundle")
        with pytest.raises(EndOfProcessError):
            bundle_updates.follow_bundle(opened)


@POISON
@pytest.mark.parametrize("kind", ["deep", "large"])
def test_an_entry_that_fails_its_reader_does_not_keep_others_waiting(device: Path, attack: Attack, kind: str) -> None:
    put(device, "a-poison.csv", kind)
    put(device, "b-good.jsonl", good(1))
    ended = run(device)
    attack.got = ended.stdout.split()[:2] != ["1", "1"]
    assert ended.stdout.strip().endswith("{}"), ended.stdout + ended.stderr
    (entry,) = inbox.refused_entries(device.parent / "inbox")
    attack.noticed = entry.why
    assert "its reader failed" in entry.why


def test_what_is_given_back_is_tried_again(device: Path) -> None:
    folder = device.parent / "inbox"
    put(device, "x.jsonl", good(1))
    inbox.refuse_entry(folder / "x.jsonl", InputError("wrong"))
    (entry,) = inbox.refused_entries(folder)
    arguments = ["device", "quarantine", str(device), "--inbox", str(folder), "--give-back", entry.name]
    assert CliRunner().invoke(homeroom, arguments).output == "none is refused\n"
    with pytest.raises(InputError, match="no such entry"):
        inbox.give_back(folder, "../x.jsonl")
    assert run(device).stdout.split()[:2] == ["1", "0"]
    assert list((folder / "refused").iterdir()) == []
