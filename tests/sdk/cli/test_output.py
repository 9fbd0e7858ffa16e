"""What is printed for whom: `--json`, `-q` and `-v` are the same for all commands, and no command says nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
import tiny

from homeroom import Device, Sample
from homeroom.cli.commands import COMMANDS
from homeroom.cli.main import Commands, homeroom, main

# Commands whose `--json` does not print an object, and why.
NO_JSON = {
    "device run": "runs until it is stopped; `device agent --json` tells what it did",
    "district serve": "runs until it is stopped; its log is JSON with --log-requests",
    "research simulate": "its --json names the file that the figures go to, as in 0.1.0",
}
DEVICE = {  # by command: its words after the device's folder, and a name in what it prints; {} is a folder of the test
    "init": ("", "bundle_id"),
    "accept-restored": ("", "accepted"),
    "undo": ("", "in_use"),
    "quarantine": ("", None),
    "subjects": ("", "p-17"),
    "network": ("", "metered"),
    "policy": ("", "scopes"),
    "status": ("", "samples"),
    "migrate": ("--dry-run", "target"),
    "support-bundle": ("--out {}/support.zip", "parts"),
    "hand-over": ("p-17 --out {}/p-17", "files"),
    "remove": ("{id} --yes", "versions"),
    "consent": ("--subject p-17 --state given --by Ray", "samples"),
    "forget": ("p-17 --yes", "also_held"),
}

Run = Callable[..., tuple[str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs a command line; stdout and stderr."""
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))

    def run_line(*words: object, code: int = 0) -> tuple[str, str]:
        ended = 0
        try:
            main([str(word) for word in words])
        except SystemExit as problem:
            ended = int(problem.code or 0)
        out, err = capsys.readouterr()
        assert ended == code, err
        return out, err

    return run_line


@pytest.fixture
def device(tiny_bundle: tiny.Tiny, tmp_path: Path, run: Run) -> Path:
    with Device.open(tmp_path / "device", tiny_bundle.path, tiny_bundle.root, threads=1) as device:
        device.add(*(Sample(word=word, labels={"category": word}, subject="p-17") for word in ("cat", "dog")))
    return tmp_path / "device"


def options(path: str) -> dict[str, click.Option]:
    here: click.Command | None = homeroom
    for word in path.split():
        assert isinstance(here, Commands)
        here = here.get_command(click.Context(here), word)
    assert here is not None
    return {name: one for one in here.params if isinstance(one, click.Option) for name in one.opts}


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_has_the_same_three_options(path: str) -> None:
    held = options(path)
    assert held["-q"].is_flag
    assert held["-v"].is_flag
    assert ("--json" in held and held["--json"].is_flag) != (path in NO_JSON)


def words_of(command: str, device: Path, tmp_path: Path) -> list[str]:
    with Device.open(device) as opened:
        if command == "undo":
            opened.train(epochs=1)
        first = next(iter(opened.store.each_without_inputs())).sample_id[:8]
    more = DEVICE[command][0].replace("{}", str(tmp_path)).replace("{id}", first)
    return ["device", command, str(device), *more.split()]


@pytest.mark.parametrize("command", DEVICE)
def test_a_program_gets_one_object_and_no_line_for_people(command: str, device: Path, tmp_path: Path, run: Run) -> None:
    told: Any = json.loads(run(*words_of(command, device, tmp_path), "--json")[0])
    name = DEVICE[command][1]
    assert name is None or name in told


@pytest.mark.parametrize("command", DEVICE)
def test_people_are_told_what_was_done(command: str, device: Path, tmp_path: Path, run: Run) -> None:
    words = words_of(command, device, tmp_path)
    brief = run(*words, "-q")[0]
    assert brief.strip(), "no command says nothing, with -q neither"
    assert not brief.startswith(("{", "["))
    assert "next:" not in brief


def test_quiet_leaves_out_the_next_step_and_nothing_else(device: Path, run: Run) -> None:
    full, brief = (run("device", "init", device, *more)[0].splitlines() for more in ([], ["-q"]))
    assert [line for line in full if line not in brief] == [full[-1]]
    assert full[-1].startswith("  next: ")


def test_verbose_says_what_it_took_and_where_an_error_arose(device: Path, tmp_path: Path, run: Run) -> None:
    out, err = run("device", "status", device, "-v")
    assert err.startswith("took ")
    assert run("device", "status", device) == (out, "")
    brief = run("device", "score", device, tmp_path / "none.csv", code=3)[1]
    long = run("device", "score", device, tmp_path / "none.csv", "-v", code=3)[1]
    assert long.endswith(brief)
    assert "ingest" in long.removesuffix(brief), "the module that refused it"
    assert "ingest" not in brief
    assert "took " in long


def test_quiet_and_verbose_exclude_each_other(device: Path, run: Run) -> None:
    assert "-v says nothing with -q" in run("device", "status", device, "-q", "-v", code=3)[1]


def test_progress_is_for_terminals(device: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = run("device", "train", device, "--epochs", 1, "--minutes", 1)
    assert "\r" not in out + err
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    shown = run("device", "train", device, "--epochs", 1, "--minutes", 1)[1]
    assert " of " in shown
    assert shown.endswith("\r\033[K"), "and it leaves no trace"
    assert run("device", "train", device, "--epochs", 1, "--minutes", 1, "-q")[1] == ""
    shown = run("device", "train", device, "--epochs", 1, "--minutes", 1, "-v")[1]
    assert "\r" not in shown, "lines for a log"
    assert "... training: 1 of 1" in shown
