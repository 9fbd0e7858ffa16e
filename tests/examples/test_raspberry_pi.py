"""The classroom example, run here as its timer runs it on a Pi."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import tiny

from homeroom import Device
from homeroom.agent.inbox import look, take_in

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "raspberry_pi"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("classroom", EXAMPLE / "classroom.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


classroom = load()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    (tmp_path / "keys").mkdir()
    (tmp_path / "inbox").mkdir()
    return tmp_path


def put(inbox: Path) -> int:
    """A lesson with pictures, sounds and labels as one folder; return how many rows."""
    rows = tiny.samples(12, seed=4)
    tiny.write_samples(inbox / "monday", rows)
    return len(rows)


def command_of_the_unit(place: Path) -> list[str]:
    """ExecStart of the unit, with this machine's paths, for one look."""
    text = (EXAMPLE / "homeroom-classroom.service").read_text()
    words = shlex.split(next(line for line in text.splitlines() if line.startswith("ExecStart="))[10:])
    moved = {"/opt/homeroom/venv/bin/homeroom": [sys.executable, "-m", "homeroom"]}
    moved |= {"/var/lib/homeroom": [str(place / "device")], "/srv/homeroom/inbox": [str(place / "inbox")]}
    found = [part for word in words for part in moved.get(word, [word])]
    assert "--window" in found
    return [*found, "--once", "--settled", "0", "--window", "00:00-00:00", "--minutes", "5"]


def run(place: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [*command_of_the_unit(place), *more]
    return subprocess.run(command, capture_output=True, text=True, timeout=280)


def test_an_evening_takes_in_the_lesson_and_leaves_nothing_unencrypted(place: Path, tiny_bundle: tiny.Tiny) -> None:
    rows = put(place / "inbox")
    done = run(place, "--bundle", str(tiny_bundle.path))
    assert done.returncode == 0, done.stderr
    assert f"{rows} samples added" in done.stderr
    assert "trained" in done.stderr
    assert "not joined" in done.stdout
    assert not [p for p in (place / "inbox").rglob("*") if p.is_file()]
    with Device.open(place / "device") as device:
        assert device.status()["samples"] == rows


def test_without_a_device_the_unit_ends_in_one_sentence_and_its_exit_code(place: Path) -> None:
    done = run(place)
    assert done.returncode == 3
    assert "no such device directory" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_captured_sample_reaches_the_device_by_way_of_the_inbox(
    place: Path, tiny_bundle: tiny.Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = place / "photo.png"
    photo.write_bytes(tiny.samples(1, 0)[0]["picture"])
    tool = place / "rpicam-still"
    tool.write_text(f'#!/bin/sh\nfor last; do :; done\ncp {photo} "$last"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    Device.open(place / "device", tiny_bundle.path, tiny_bundle.root, threads=1).close()
    found = classroom.capture
    monkeypatch.setattr(classroom, "capture", lambda *given: {"picture": found(*given)["image"]})  # of two such slots
    given = ["learn", "--inbox", str(place / "inbox"), "--camera", "--label", "category=cat", "--subject", "p-17"]
    assert classroom.main(given) == 0
    with Device.open(place / "device", threads=1) as device:
        assert take_in(device, look(place / "inbox", 0.0).samples) == (1, 0)
        (sample,) = device.store.samples()
    assert (sample.subject, sample.labels) == ("p-17", {"category": "cat"})


def test_camera_and_microphone_are_read_through_their_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("rpicam-still", "arecord"):
        tool = tmp_path / name
        tool.write_text('#!/bin/sh\nfor last; do :; done\necho "$0" > "$last"\n')
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    args = classroom.parse(["ask", "--camera", "--microphone", "3"])
    made = classroom.capture(args, tmp_path)
    assert {name: path.read_text().strip().rsplit("/")[-1] for name, path in made.items()} == {
        "image": "rpicam-still",
        "audio": "arecord",
    }


def test_a_missing_camera_program_names_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="apt install rpicam-apps"):
        classroom.capture(classroom.parse(["ask", "--camera"]), tmp_path)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_the_unit_is_valid_and_hardened(tmp_path: Path) -> None:
    # Only the program's path, which this machine does not have, is replaced.
    text = (
        (EXAMPLE / "homeroom-classroom.service").read_text().replace("/opt/homeroom/venv/bin/homeroom", sys.executable)
    )
    service = tmp_path / "homeroom-classroom.service"
    service.write_text(text)
    done = subprocess.run(["systemd-analyze", "verify", service], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "homeroom-classroom" not in done.stderr, done.stderr
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=30", str(service)]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert checked.returncode == 0, checked.stdout[-500:]
