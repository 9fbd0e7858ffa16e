"""The starter lesson: the session of `homeroom quickstart`, README's ten lines after it, and the starter bundle."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from examples.starter import calibration
from homeroom.cli.main import main
from homeroom.data.preprocess.image import decode
from homeroom.quickstart import starter
from homeroom.quickstart.drawings import KINDS_TAUGHT, THINGS, draw
from homeroom.quickstart.lesson import (
    ASKED,
    ASKED_SOUNDS,
    CALIBRATION,
    LANGUAGES,
    TAUGHT,
)
from homeroom.quickstart.sounds import recording
from homeroom.system.installation import Origin

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "examples" / "starter" / "recipe.toml"
LIMIT_MB = 40


def test_every_thing_is_drawn_and_every_kind_is_heard() -> None:
    assert len(THINGS) == len({thing.name for thing in THINGS}) == 20
    assert set(Counter(thing.kind for thing in THINGS).values()) == {5}
    pictures = {decode(draw(thing.shape, variant), thing.name).tobytes() for thing in THINGS for variant in TAUGHT}
    assert len(pictures) == 40
    sounds = {recording(kind, variant) for kind in KINDS_TAUGHT for variant in range(3)}
    assert len(sounds) == 12
    assert recording("home", 1) == recording("home", 1), "made again, it has the same bytes"


def test_no_question_was_taught_and_no_calibration_sample_is_a_question() -> None:
    parts = (TAUGHT, ASKED, ASKED_SOUNDS, CALIBRATION)
    assert len({variant for part in parts for variant in part}) == sum(map(len, parts))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_session_learns_asks_explains_and_says_where_it_is_not_sure(
    small_starter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["quickstart", "--bundle", str(small_starter)])
    said = capsys.readouterr().out
    assert "40 samples" in said
    assert "why, for a drawing with its word" in said
    assert re.search(r"'собака'.*: not sure\. ", said)
    assert "homeroom device page" in said, "no terminal: no page, but how to have one"
    for more in ([], ["new", "--json", "--no-page"], ["new", "--district", "--no-page"]):
        with pytest.raises(SystemExit) as ended:
            main(["quickstart", *more, "--bundle", str(small_starter)])
        assert ended.value.code == 3, "a folder that is there is not touched; an option without effect is refused"
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist" / starter.STARTER_FILE).write_bytes(small_starter.read_bytes())
    block = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert block
    assert len(block[1].splitlines()) <= 10
    exec(block[1], {"__name__": "readme"})
    assert json.loads(capsys.readouterr().out.replace("'", '"').splitlines()[-1]).keys() == set(KINDS_TAUGHT)


def test_an_unusable_bundle_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "no.homeroom").write_bytes(b"no bundle")
    with pytest.raises(SystemExit) as ended:
        main(["quickstart", str(tmp_path / "new"), "--bundle", str(tmp_path / "no.homeroom")])
    assert ended.value.code == 4
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("origin", "remedy"),
    [(Origin("clone", "/clone"), "make starter"), (Origin("wheel", "/release/homeroom.whl"), "beside the wheel")],
)
def test_where_the_starter_bundle_is_looked_for(
    origin: Origin, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(starter, "find_origin", lambda: origin)
    with pytest.raises(SystemExit) as ended:
        main(["quickstart"])
    assert ended.value.code == 3
    err = capsys.readouterr().err
    assert remedy in err
    assert all(f"looked for {path}" in err for path in starter.places(origin))


def test_a_bundle_beside_the_wheel_or_in_the_clone_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind, source, place in (("wheel", "a.whl", "."), ("clone", "clone", "clone/dist")):
        file = tmp_path / kind / place / starter.STARTER_FILE
        file.parent.mkdir(parents=True)
        file.write_bytes(b"")
        monkeypatch.setattr(starter, "find_origin", lambda kind=kind, s=source: Origin(kind, str(tmp_path / kind / s)))
        assert starter.find_starter(None).resolve() == file.resolve()


def in_a_process(*words: str) -> str:
    """What a command prints; a process of its own, since tests fork, which what an export leaves in memory forbids."""
    done = subprocess.run([sys.executable, "-m", "homeroom", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.extra
@pytest.mark.timeout(1800)
def test_the_starter_bundle_is_small_the_same_each_time_and_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["calibration", "samples"])
    calibration.main()
    (tmp_path / "second").mkdir()
    for out in ("starter", "second/starter"):
        keys = tmp_path / "second" / "starter.keys"
        if out != "starter":
            (tmp_path / "starter.keys").rename(keys)
        in_a_process("bundle", "export", str(RECIPE), out, "--calibration", "samples/samples.jsonl", "--zip")
    one, two = (tmp_path / name for name in ("starter.homeroom", "second/starter.homeroom"))
    assert one.read_bytes() == two.read_bytes()
    assert one.stat().st_size <= LIMIT_MB * 1e6
    told = json.loads(in_a_process("quickstart", "session", "--bundle", str(one), "--json"))
    assert told["score"]["accuracy"] >= 0.9
    assert sum(question["answer"] == question["right"] for question in told["questions"][:7]) >= 5
    told = json.loads(in_a_process("quickstart", "three", "--bundle", str(one), "--district", "--json"))
    assert told["version"] == 2
    assert [school["language"] for school in told["schools"]] == list(LANGUAGES)
    gains = [school["together"] - school["alone"] for school in told["schools"]]
    assert sum(gains) > 0
