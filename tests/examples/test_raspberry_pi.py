"""The classroom example, run here as its timer runs it on a Pi."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
import tiny

from homeroom import Device

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


def run(place: Path, bundle: Path | None = None, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLE / "classroom.py"), "run", "--directory", str(place / "device")]
    command += ["--inbox", str(place / "inbox"), "--minutes", "0.2", "--settled", "0"]
    command += ["--bundle", str(bundle)] if bundle else []
    return subprocess.run([*command, *more], capture_output=True, text=True, timeout=120)


def test_an_evening_takes_in_the_lesson_and_leaves_nothing_unencrypted(place: Path, tiny_bundle: tiny.Tiny) -> None:
    rows = put(place / "inbox")
    done = run(place, tiny_bundle.path)
    assert done.returncode == 0, done.stderr
    assert f"{rows} samples added" in done.stdout
    assert "trained" in done.stdout
    assert "stays here" in done.stdout
    assert not [p for p in (place / "inbox").rglob("*") if p.is_file()]
    with Device.open(place / "device") as device:
        assert device.status()["samples"] == rows


def test_an_entry_that_cannot_be_used_is_put_aside_with_the_reason(place: Path, tiny_bundle: tiny.Tiny) -> None:
    (place / "inbox" / "broken.jsonl").write_text('{"nonsense": 1\n')
    done = run(place, tiny_bundle.path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    (why,) = (place / "inbox" / "refused").glob("*.why.txt")
    assert "broken.jsonl" in why.read_text()
    assert not (place / "inbox" / "broken.jsonl").exists()


def test_a_missing_bundle_ends_in_one_sentence_and_its_exit_code(place: Path) -> None:
    done = run(place, place / "nothing.homeroom")
    assert done.returncode in (3, 4)
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_a_32_bit_system_is_refused_before_anything_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classroom.struct, "calcsize", lambda _: 4)
    with pytest.raises(SystemExit, match="64-bit Raspberry Pi OS"):
        classroom.main(["run"])


def test_files_still_on_their_way_wait_for_the_next_evening(tmp_path: Path) -> None:
    for name in ("done.jsonl", "copying.csv.part", ".hidden.jsonl", "photo.jpg", "fresh.jsonl"):
        (tmp_path / name).write_text("")
    for name in ("done.jsonl", "photo.jpg"):
        os.utime(tmp_path / name, (1, 1))
    assert [p.name for p in classroom.settled(tmp_path, time.time(), 30)] == ["done.jsonl"]


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
def test_the_units_are_valid_and_hardened(tmp_path: Path) -> None:
    for name in ("homeroom-classroom.service", "homeroom-classroom.timer"):
        # Only the interpreter's path, which this machine does not have, is replaced.
        text = (EXAMPLE / name).read_text().replace("/opt/homeroom/venv/bin/python", sys.executable)
        (tmp_path / name).write_text(text)
    service, timer = tmp_path / "homeroom-classroom.service", tmp_path / "homeroom-classroom.timer"
    done = subprocess.run(["systemd-analyze", "verify", service, timer], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "homeroom-classroom" not in done.stderr, done.stderr
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=30", str(service)]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert checked.returncode == 0, checked.stdout[-500:]
