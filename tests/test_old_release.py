"""Processes of 0.1.0 beside those of today: an old device goes on, an old server is told apart, and nothing is lost."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_upgrade import (
    DATA,
    LESSON,
    copied,
    done,
    expected,
    plain_round_goes_on,
    run,
    served,
    standing,
    told,
    unpacked,
)

__all__ = ["copied", "expected", "unpacked"]  # fixtures
UPGRADE_FIRST = 14  # the exit code of an AnswerError


class Old:
    """Homeroom 0.1.0 from its wheel, each command a process."""

    def __init__(self, package: Path) -> None:
        self.package = package

    def command(self, *words: object) -> dict[str, Any]:
        arguments = [sys.executable, "-m", "homeroom", *map(str, words)]
        return {"args": arguments, "env": {**os.environ, "PYTHONPATH": str(self.package)}, "text": True}

    def run(self, *words: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(**self.command(*words), capture_output=True, timeout=300, check=False)

    def told(self, *words: object) -> Any:
        finished = self.run(*words, "--json")
        assert finished.returncode == 0, finished.stderr
        return json.loads(finished.stdout)

    @contextlib.contextmanager
    def served(self, folder: Path) -> Iterator[str]:
        with subprocess.Popen(**self.command("serve", folder, "--port", "0"), stdout=subprocess.PIPE) as server:
            try:
                assert server.stdout is not None
                yield next(line.split()[-1] for line in server.stdout if line.startswith("listening"))
            finally:
                server.terminate()
                assert server.wait(60) == 0


@pytest.fixture(scope="session")
def old(tmp_path_factory: pytest.TempPathFactory) -> Old:
    package = tmp_path_factory.mktemp("release")
    with zipfile.ZipFile(next(DATA.glob("*.whl"))) as wheel:
        wheel.extractall(package)
    found = Old(package)
    where = found.command("--version") | {"args": [sys.executable, "-c", "import homeroom; print(homeroom.__file__)"]}
    assert subprocess.run(**where, capture_output=True, check=True).stdout.startswith(str(package))
    return found


def invited(here: Path, name: str, address: str) -> Path:
    path = here / f"{name}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "address": address}))
    return path


def test_a_new_device_tells_an_old_server_to_be_upgraded_first_and_keeps_all(
    old: Old, copied: Callable[[str], Path], expected: Any
) -> None:
    here = copied("plain")
    district, classroom, new = here / "district", here / "classroom", here / "first"
    before, members = standing(classroom), len(done("members", district).splitlines())
    done("device", "init", new, "--bundle", LESSON)
    with old.served(district) as address:
        done("device", "network", classroom, "--address", address)
        for words in (["sync", classroom], ["rotate-key", classroom], ["join", new, invited(here, "open", address)]):
            code, _, told_why = run("device", *words)
            assert code == UPGRADE_FIRST
            assert "upgrade the server first" in told_why
    assert len(done("members", district).splitlines()) == members
    assert (before["updates_waiting"], before["unlearning_waiting"]) == (1, 1)
    after = standing(classroom)
    assert {name: after[name] for name in before} == before
    found = plain_round_goes_on(here)  # the server is upgraded; the new key is finished at this sync
    assert found["sent"] == expected["plain"]["sent"]
    assert found["unlearned"] == expected["plain"]["unlearned"]
    assert found["versions"] == [4, 4]


def test_an_old_device_goes_on_with_a_new_server(old: Old, copied: Callable[[str], Path], expected: Any) -> None:
    here = copied("plain")
    district, classroom, new = here / "district", here / "classroom", here / "new"
    with served(district) as address:
        old.run("device", "network", classroom, "--address", address)
        report = old.told("device", "sync", classroom)
        assert old.run("device", "fetch", new, invited(here, "open", address)).returncode == 0
        assert old.run("device", "join", new, here / "open.json").returncode == 0
        newcomer = old.told("device", "sync", new)
        assert old.run("device", "rotate-key", classroom).returncode == 0
        assert old.told("device", "sync", classroom)["version"] == 4
    assert report["sent"] == expected["plain"]["sent"]
    assert report["unlearned"] == expected["plain"]["unlearned"]
    assert [report["version"], newcomer["version"]] == [4, 4]
    assert told("device", "status", classroom)["updates_waiting"] == 0


def test_an_old_device_goes_on_with_a_new_server_by_stick(old: Old, copied: Callable[[str], Path]) -> None:
    here = copied("stick")
    district, stick, one = here / "district", here / "stick", here / "one"
    for _ in range(2):
        done("carry", "in", district, stick)
        assert old.run("device", "carry", "in", one, stick).returncode == 0
        assert old.run("device", "carry", "out", one, stick).returncode == 0
    done("carry", "in", district, stick)
    assert old.run("device", "carry", "in", one, stick).returncode == 0
    assert standing(one)["global_version"] == 1
