"""Help, ranges, completion and JSON are the same for all commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import click
import pytest
import tiny

from homeroom import Device
from homeroom.cli.commands import COMMANDS
from homeroom.cli.main import Commands, homeroom, main
from homeroom.cli.parameters import LARGEST_WHOLE, Finite, Whole, range_words


def command(path: str) -> click.Command:
    here: click.Command | None = homeroom
    for word in path.split():
        assert isinstance(here, Commands)
        here = here.get_command(click.Context(here), word)
    assert here is not None
    return here


@pytest.mark.parametrize("path", COMMANDS)
def test_no_help_shows_a_range_as_a_formula(
    path: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module, _, function = COMMANDS[path][0].partition(":")
    original = getattr(import_module(module), function)
    monkeypatch.setattr(original, "_help_option", None)  # click keeps that of a call without our command line above
    main([*path.split(), "-h"])
    out = " ".join(capsys.readouterr().out.split())
    assert "<=" not in out
    assert ">=" not in out
    assert " RANGE" not in out
    assert f"{LARGEST_WHOLE}" not in out.replace(",", "")
    numbers = [
        param.type for param in command(path).params if isinstance(param.type, click.IntRange | click.FloatRange)
    ]
    assert [type(one).__name__ for one in numbers if not isinstance(one, Whole | Finite)] == []


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        ((1, 256, False, False), "1 to 256"),
        ((0, None, True, False), "above 0"),
        ((0, None, False, False), "0 or more"),
        ((None, 5, False, False), "up to 5"),
        ((0, 1, True, True), "above 0, below 1"),
        ((0, 36_500, True, False), "above 0, up to 36,500"),
        ((None, None, False, False), ""),
    ],
)
def test_ranges_in_words(bounds: tuple[float | None, float | None, bool, bool], words: str) -> None:
    assert range_words(*bounds) == words


def test_a_number_outside_is_refused_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["device", "train", "classroom", "--threads", "0"])
    assert ended.value.code == 2
    assert "0 is not in the range 1 to 256" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="its shells have no such completion")
def test_the_shell_is_told_how_to_complete() -> None:
    def complete(words: str, count: int) -> str:
        shell = {"_HOMEROOM_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(count)}
        run = "from homeroom.cli.main import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", run], capture_output=True, text=True, timeout=120, env=os.environ | shell
        )
        return done.stdout

    assert "plain,quickstart" in complete("homeroom quick", 1)
    assert "plain,--threads" in complete("homeroom device train --thr", 3)


def test_a_bundle_and_a_network_as_json(
    tiny_bundle: tiny.Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["bundle", "inspect", str(tiny_bundle.path), "--golden", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["bundle_id"] == tiny_bundle.bundle_id
    assert told["root"] == tiny_bundle.root
    assert told["manifest"]["name"] == tiny_bundle.manifest.name
    assert set(told["golden"]) == {modality.name for modality in tiny_bundle.manifest.modalities}
    Device.open(tmp_path / "device", bundle=tiny_bundle.path, threads=1).close()
    main(["device", "network", str(tmp_path / "device"), "--metered", "allow", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["metered"] == "allow"
    assert "statistics_agreed" in told
