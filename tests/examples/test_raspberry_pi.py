"""The classroom example, run here as its timer runs it on a Pi."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import tiny

from homeroom import Device, Sample
from homeroom.agent.inbox import import_entries, scan_inbox
from homeroom.device.install import installed_bundle
from homeroom.runtime.bundle import zip_bundle
from homeroom.store import Store
from homeroom.store.master_keys import FolderKeys

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
    assert "is no device directory" in done.stderr
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
        assert import_entries(device, scan_inbox(place / "inbox", 0.0).samples) == (1, 0)
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
@pytest.mark.parametrize("unit", ["homeroom-classroom", "homeroom-first-boot", "homeroom-ssh-keys"])
def test_the_units_are_valid_and_hardened(tmp_path: Path, unit: str) -> None:
    # Only the programs' paths, which this machine may not have, are replaced.
    text = (EXAMPLE / f"{unit}.service").read_text().replace("/opt/homeroom/venv/bin/homeroom", sys.executable)
    service = tmp_path / f"{unit}.service"
    service.write_text(text.replace("ExecStart=/usr/bin/ssh-keygen", f"ExecStart={sys.executable}"))
    done = subprocess.run(["systemd-analyze", "verify", service], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert unit not in done.stderr, done.stderr
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=30", str(service)]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert checked.returncode == 0, checked.stdout[-500:]


# Installing, and cards for many classrooms


def shell(script: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["sh", str(EXAMPLE / script), *map(str, arguments)]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=120)


def tools(folder: Path, **says: str) -> str:
    """A PATH on which these programs say this."""
    folder.mkdir()
    for name, text in says.items():
        (folder / name).write_text(f"#!/bin/sh\necho {text}\n")
        (folder / name).chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


@pytest.mark.parametrize(
    ("says", "arguments", "sentence"),
    [
        ({"getconf": "32", "uname": "aarch64"}, [], "this is a 32-bit system"),
        ({"uname": "armv7l"}, [], "this script is for arm64"),
        ({"uname": "aarch64"}, ["--bundle", "gone.homeroom"], "there is no such bundle"),
        ({}, ["--wheels"], "--wheels needs a value"),
        ({}, ["--colour"], "there is no option --colour"),
        ({}, ["--purge"], "--purge goes with --uninstall"),
    ],
)
def test_an_installation_that_cannot_be_is_refused_in_one_sentence(
    tmp_path: Path, says: dict[str, str], arguments: list[str], sentence: str
) -> None:
    path = tools(tmp_path / "tools", **says)
    done = shell("install.sh", *arguments, INTO=str(tmp_path / "into"), PATH=path, PYTHON=sys.executable)
    assert done.returncode == 1
    (told,) = done.stderr.splitlines()
    assert told.startswith("error: ")
    assert sentence in told
    assert not (tmp_path / "into").exists(), "nothing was changed"


def test_who_is_not_root_is_told_so(tmp_path: Path) -> None:
    done = shell("install.sh", PATH=tools(tmp_path / "tools", id="1000"))
    assert (done.returncode, done.stderr.startswith("error: an installation is made by root")) == (1, True)


def test_every_pinned_package_has_its_hashes_and_the_base_is_whole() -> None:
    text = (EXAMPLE / "wheels-arm64.txt").read_text()
    pinned = [line.split("==")[0] for line in text.splitlines() if "==" in line]
    assert text.count("--hash=sha256:") >= len(pinned)
    wanted = tomllib.loads((EXAMPLE.parents[1] / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {re.split(r"[<>=\[ ]", line)[0].lower().replace("_", "-") for line in wanted}
    assert names <= set(pinned), "run examples/raspberry_pi/pin.py"
    entries = [entry.split() for entry in text.replace("\\\n", " ").splitlines() if not entry.startswith("#")]
    assert all(len(entry) >= 2 for entry in entries), "a package without a hash"


@pytest.fixture(scope="module")
def used_card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the install script leaves on a card, with this machine's homeroom, after its first boot."""
    into = tmp_path_factory.mktemp("used") / "card"
    for name in (
        "opt/homeroom/venv/bin",
        "var/lib/homeroom-keys",
        "srv/homeroom/inbox",
        "etc/ssh",
        "var/log/journal/1",
    ):
        (into / name).mkdir(parents=True)
    zip_bundle(tiny.bundle().path, into / "srv/homeroom/bundle.homeroom")
    program = into / "opt/homeroom/venv/bin/homeroom"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m homeroom "$@"\n')
    program.chmod(0o755)
    (into / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    (into / "etc/ssh/ssh_host_ed25519_key").write_text("secret")
    first_boot(into)
    return into


@pytest.fixture
def card(used_card: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(used_card, tmp_path / "card"))


def first_boot(card: Path) -> dict[str, str]:
    """What the unit does on a card where its conditions hold; the device's id and key, which no other may have."""
    lines = [line.partition("=") for line in (EXAMPLE / "homeroom-first-boot.service").read_text().splitlines()]
    wanted = [path for name, _, path in lines if name == "ConditionPathExists"]
    if all((card / path.lstrip("!/")).exists() != path.startswith("!") for path in wanted):
        for command in (shlex.split(words) for name, _, words in lines if name in ("ExecStart", "ExecStartPost")):
            here = [re.sub("^/(?!usr/)", f"{card}/", word) for word in command if word != "$ROOT_KEY"]
            environment = os.environ | {"HOMEROOM_KEYS": str(card / "var/lib/homeroom-keys")}
            done = subprocess.run(here, env=environment, capture_output=True, text=True, timeout=120)
            assert done.returncode == 0, done.stderr
    told = json.loads((card / "var/lib/homeroom/device.json").read_text())
    (key,) = (card / "var/lib/homeroom-keys").iterdir()
    return {"id": told["store_id"], "key": key.read_text()}


def test_each_copy_of_a_sealed_card_becomes_a_device_of_its_own(card: Path, tmp_path: Path) -> None:
    before = json.loads((card / "var/lib/homeroom/device.json").read_text())["store_id"]
    done = shell("seal-card.sh", INTO=str(card))
    assert done.returncode == 0, done.stderr
    assert (card / "etc/machine-id").read_text() == ""
    for emptied in ("var/lib/homeroom", "var/lib/homeroom-keys", "etc/ssh", "var/log/journal"):
        assert not list((card / emptied).iterdir()), emptied
    found = []
    for name in ("a", "b"):
        shutil.copytree(card, tmp_path / name)
        found.append(first_boot(tmp_path / name))
    assert len({before, *(one["id"] for one in found)}) == 3
    assert found[0]["key"] != found[1]["key"]


def test_a_first_boot_that_a_power_cut_ended_is_done_again_and_a_whole_one_is_not(
    used_card: Path, tmp_path: Path
) -> None:
    card = tmp_path / "card"
    for part in ("opt", "srv"):
        shutil.copytree(used_card / part, card / part)
    Store.open(card / "var/lib/homeroom", FolderKeys(card / "var/lib/homeroom-keys")).close()
    made = first_boot(card)
    with Store.open(card / "var/lib/homeroom", FolderKeys(card / "var/lib/homeroom-keys")) as store:
        assert installed_bundle(store), "the bundle's installing was what the power cut ended"
    (card / "srv/homeroom/bundle.homeroom").write_bytes(b"read at the first boot only")
    assert first_boot(card) == made


@pytest.mark.parametrize("where", ["device", "inbox"])
def test_a_card_with_pupils_samples_is_not_sealed_unless_told_to(
    card: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setenv("HOMEROOM_KEYS", str(card / "var/lib/homeroom-keys"))
    if where == "device":
        with Device.open(card / "var/lib/homeroom", threads=1) as device:
            device.add(*(Sample(**row) for row in tiny.samples(2, seed=1)))
    else:
        (card / "srv/homeroom/inbox/p-17.txt").write_text("the cat sleeps")
    done = shell("seal-card.sh", INTO=str(card))
    assert (done.returncode, "pupils' samples are on this card" in done.stderr) == (1, True), done.stderr
    with Device.open(card / "var/lib/homeroom", threads=1) as device:
        assert device.status()["samples"] == (2 if where == "device" else 0)
    assert shell("seal-card.sh", "--discard", INTO=str(card)).returncode == 0
    assert not list((card / "var/lib/homeroom").iterdir())
    assert not list((card / "srv/homeroom/inbox").iterdir())


def test_uninstalling_keeps_pupils_data_unless_told_to_purge(card: Path) -> None:
    done = shell("install.sh", "--uninstall", INTO=str(card))
    assert (done.returncode, "pupils' data stay" in done.stdout) == (0, True), done.stderr
    assert not (card / "opt/homeroom").exists()
    assert (card / "var/lib/homeroom/device.db").exists()
    assert list((card / "var/lib/homeroom-keys").iterdir())
    assert shell("install.sh", "--uninstall", "--purge", INTO=str(card)).returncode == 0
    assert not [
        name for name in ("var/lib/homeroom", "var/lib/homeroom-keys", "srv/homeroom") if (card / name).exists()
    ]
