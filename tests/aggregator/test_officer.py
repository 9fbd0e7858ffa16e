"""An officer's way from nothing to a merged version of three schools: true commands, true processes, and how many.

Every command is typed as the pages and `district init` say; the officer's and the schools' are counted together.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import tiny

from aggregator.institution import staying_port
from homeroom.contract.invitation import read_invitation
from homeroom_aggregator.admin.folder import open_log, open_rounds
from homeroom_aggregator.admin.new_district import PAGE_FILE
from homeroom_aggregator.state.members import Members

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
SCHOOLS = (
    "school,devices,consent\nHill School,1,head's letter\nLake & Sons,1,head's letter\nMill Lane,1,form of 2 Nov\n"
)
COMMANDS_LIMIT = 8


@dataclass
class Shell:
    """A shell in one folder, which counts what is typed."""

    folder: Path
    typed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        (self.folder / "key-ring").mkdir()
        self.environment = os.environ | {"HOMEROOM_KEYS": str(self.folder / "key-ring"), "PYTHONUNBUFFERED": "1"}

    def start(self, *words: object) -> subprocess.Popen[str]:
        self.typed.append(" ".join(["homeroom", *map(str, words)]))
        command = [sys.executable, "-m", "homeroom", *map(str, words)]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen(command, text=True, cwd=self.folder, env=self.environment, **streams)  # type: ignore[call-overload,no-any-return]

    def run(self, *words: object, code: int = 0) -> str:
        return ended(self.start(*words), code)

    @contextlib.contextmanager
    def served(self, *words: object) -> Iterator[str]:
        """A server, and what it printed until it listens."""
        process, lines = self.start("district", "serve", *words), list[str]()
        assert process.stdout is not None
        try:
            for line in process.stdout:
                lines.append(line)
                if line.startswith("listening on "):
                    break
            assert lines[-1].startswith("listening on "), "".join(lines)
            yield "".join(lines)
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
        assert process.returncode == 0


def ended(process: subprocess.Popen[str], code: int = 0) -> str:
    out, _ = process.communicate(timeout=240)
    assert process.returncode == code, out
    return out


@pytest.fixture
def shell(tmp_path: Path, tiny_bundle: tiny.Tiny) -> Shell:
    shutil.copytree(tiny_bundle.path, tmp_path / "vocabulary")
    (tmp_path / "schools.csv").write_text(SCHOOLS)
    return Shell(tmp_path)


def init(shell: Shell, *more: object, code: int = 0) -> str:
    bundle = ("--bundle", "vocabulary", "--name", "District 7", "--schools", "schools.csv")
    return shell.run("district", "init", "district", *bundle, *more, code=code)


def lessons(shell: Shell, school: str, seed: int) -> Path:
    folder = shell.folder / f"{school}-lessons"
    tiny.write_samples(folder / "monday", tiny.samples(24, seed))
    return folder


def test_three_schools_have_a_version_after_eight_commands(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    said = init(shell, "--port", staying_port())
    assert "keep district-keys off this machine" in said
    assert (shell.folder / "district-keys" / "root.pem").stat().st_mode & 0o77 == 0
    files = sorted((shell.folder / "district-invitations").glob("*.json"))
    assert [file.name for file in files] == ["Hill-School.json", "Lake-Sons.json", "Mill-Lane.json"]
    page = (shell.folder / "district-invitations" / PAGE_FILE).read_text()
    assert page.count("data:image/svg+xml") == 3 + 1, "a QR code for each, and the page's icon"
    assert "Lake &amp; Sons" in page
    assert all(read_invitation(file).pin and read_invitation(file).address.startswith("https://") for file in files)
    with shell.served("district") as said:
        assert "listening on https://0.0.0.0:" in said
        for seed, file in enumerate(files):
            lessons(shell, file.stem, seed)
            shell.run("device", "join", file.stem, file)
            shell.run("device", "run", file.stem, "--inbox", f"{file.stem}-lessons", "--once")
    with contextlib.closing(open_rounds(shell.folder / "district")) as rounds:
        assert rounds.state.version == 1, "the first merged version"
        assert rounds.verify() == []
        assert rounds.members.count() == 3
    for line in shell.typed:
        print(line)
    with capsys.disabled():
        print(f"\n{len(shell.typed)} commands to the first merged version of three schools")
    assert len(shell.typed) <= COMMANDS_LIMIT


@pytest.mark.extra
def test_a_private_version_takes_the_same_eight_commands(shell: Shell) -> None:
    said = init(shell, "--port", staying_port(), "--epsilon", 8, "--clip-norm", 1, "--noise-multiplier", 2)
    assert "a release will be" in said, "what such rounds will do is said before anybody joins"
    files = sorted((shell.folder / "district-invitations").glob("*.json"))
    with shell.served("district") as said:
        assert "private rounds: epsilon 8" in said
        for seed, file in enumerate(files):
            lessons(shell, file.stem, seed)
            shell.run("device", "join", file.stem, file)
            shell.run("device", "run", file.stem, "--inbox", f"{file.stem}-lessons", "--once")
    assert len(shell.typed) <= COMMANDS_LIMIT
    with contextlib.closing(open_rounds(shell.folder / "district")) as rounds:
        assert rounds.state.version == 1
        assert rounds.ledger is not None
        assert rounds.ledger.shares().keys() == {row["member"] for row in rounds.members.every()}


def test_a_secure_sum_takes_a_roster_of_all_that_joined(shell: Shell) -> None:
    """The agent is told to join: so one command a school. The syncs of running agents are not typed."""
    roster = "trust roster district/roster.json --key district-keys/roster.pem --members district"
    assert roster in init(shell, "--port", staying_port(), "--secure")
    files = sorted((shell.folder / "district-invitations").glob("*.json"))
    with shell.served("district"):
        for seed, file in enumerate(files):
            inbox = lessons(shell, file.stem, seed)
            shell.run("device", "run", file.stem, "--inbox", inbox.name, "--join", file, "--once")
        assert "3 devices, at least 3 in a sum" in shell.run(*roster.split())
        typed = list(shell.typed)
        for _ in range(6):
            said = [ended(one) for one in [shell.start("device", "sync", file.stem) for file in files]]
    assert len(typed) <= COMMANDS_LIMIT
    with contextlib.closing(open_rounds(shell.folder / "district")) as rounds:
        assert rounds.state.version == 1, said
        assert (rounds.log.count("update"), rounds.log.count("secure")) == (0, 1)


def test_everything_that_is_wrong_in_the_sheet_is_said_at_once_and_nothing_is_made(shell: Shell) -> None:
    rows = [
        "school,devices,role,consent",
        ",2,device,",
        "Hill,0,device,letter",
        "Lake,x,pupil,",
        "Mill\x1b[2J,1,device,",
    ]
    (shell.folder / "schools.csv").write_text("\n".join(rows))
    said = init(shell, code=3)
    for mistake in ("row 2, column school", "row 3, column devices", "row 4, column role", "row 4, column devices"):
        assert mistake in said
    assert "row 5, column school" in said
    assert "\x1b" not in said
    assert not (shell.folder / "district").exists()
    assert not (shell.folder / "district-keys").exists()
    (shell.folder / "schools.csv").write_text("schol,devices\nHill,1\n")
    said = init(shell, code=3)
    assert "row 1: 'schol' is no column; there are consent, devices, role, school" in said
    assert "row 1: there is no column school" in said


MAKING = """
import os, sys
from homeroom.cli import main
from homeroom.system import files
calls, last = 0, int(sys.argv.pop(1))
def killed(original):
    def call(*args, **kwargs):
        global calls
        calls += 1
        if calls > last:
            os._exit(9)
        return original(*args, **kwargs)
    return call
for name in ("open", "rename", "replace", "mkdir"):
    setattr(os, name, killed(getattr(os, name)))
main.main(sys.argv[1:])
"""


def test_killed_anywhere_the_same_command_finishes_it(shell: Shell) -> None:
    bundle = ["--bundle", "vocabulary", "--name", "District 7", "--schools", "schools.csv"]
    bundle += ["--port", str(staying_port())]
    words, kills = ["district", "init", "district", *bundle], 0
    for step in (*range(1, 20, 3), *range(20, 120, 11)):
        command = [sys.executable, "-c", MAKING, str(step), *words]
        done = subprocess.run(
            command, cwd=shell.folder, env=shell.environment, capture_output=True, text=True, timeout=90
        )
        kills += done.returncode == 9
        assert done.returncode in (0, 9), done.stderr
    assert kills > 5
    said = shell.run(*words)
    assert said == shell.run(*words), "and once more changes nothing"
    with contextlib.closing(open_log(shell.folder / "district")) as log:
        members = Members(log.database)
        assert [row["school"] for row in members.schools()] == ["Hill School", "Lake & Sons", "Mill Lane"]
        assert log.database.one("SELECT count(*) FROM invitations WHERE NOT revoked")[0] == 3
    root = re.search(r"root: (\w{64})", said)
    assert root is not None
    for file in (shell.folder / "district-invitations").glob("*.json"):
        assert read_invitation(file).root == root[1]


def test_what_it_was_made_with_is_not_changed_by_another_call(shell: Shell) -> None:
    init(shell, "--port", staying_port())
    words = ["district", "init", "district", "--bundle", "vocabulary", "--schools", "schools.csv", "--name", "Other"]
    assert "with another name" in shell.run(*words, code=3)
    assert "would lie in the server's folder" in init(shell, "--keys", "district/keys", code=3)
    (shell.folder / "schools.csv").write_text(SCHOOLS + "Oak Street,2,\n")
    assert "3 of 5 invitations are here already" in init(shell, code=3)
