"""Tutorials and how-to pages: every block is typed as a reader would, and what a page promises is there afterwards."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from aggregator.institution import staying_port
from doc_blocks import DOCS, Reader, blocks, commands
from newcomer.roles import ROLES

from homeroom import Device, Sample
from homeroom.quickstart.drawings import THINGS, draw
from homeroom_aggregator.admin.folder import open_rounds

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
STARTER = "starter.homeroom"
TYPED_ELSEWHERE = {"tutorials/own-model.md", "howto/offline-wheels.md"}  # by `make newcomer`
WITHOUT_BLOCKS = {"howto/windows.md"}


@pytest.fixture
def reader(small_starter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    """A reader in a new folder with the starter bundle."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "key-ring"))
    (tmp_path / "key-ring").mkdir(mode=0o700)
    shutil.copy(small_starter, STARTER)
    one = Reader(staying_port())
    yield one
    one.stop()


def taught(folder: str, bundle: str = STARTER) -> None:
    """A device that has learned some words of four pupils."""
    words = [(thing.kind, thing.words["en"]) for thing in THINGS[::2]]
    with Device.open(folder, bundle=bundle, threads=1) as device:
        device.add(
            *(
                Sample(word=f"{article} {word}", labels={"kind": kind}, subject=f"pupil-{number % 4 + 1}")
                for number, (kind, word) in enumerate(words)
                for article in ("the", "a")
            )
        )
        device.train(minutes=1)


def new_district(reader: Reader, *schools: str) -> None:
    rows = ["school,devices,consent", *(f"{school},1,letter" for school in schools)]
    Path("schools.csv").write_text("\n".join(rows))
    reader.type(f'homeroom district init district --bundle {STARTER} --name "District 7" --schools schools.csv')


def version(folder: str) -> int:
    with contextlib.closing(open_rounds(Path(folder))) as rounds:
        assert rounds.verify() == []
        return rounds.state.version


def test_an_app_in_ten_lines(reader: Reader, capsys: pytest.CaptureFixture[str]) -> None:
    first = next(block for block in blocks(DOCS / "tutorials" / "app.md") if block.language == "python")
    assert sum(bool(line.strip()) for line in first.text.splitlines()) <= 10
    reader.read("tutorials/app.md")
    said = capsys.readouterr().out
    assert said.splitlines()[0] in ("animals", "plants", "home", "vehicles")
    assert "not sure: " in said
    assert "there-is-no.wav" in said


def test_a_sheet_of_ones_own(reader: Reader, capsys: pytest.CaptureFixture[str]) -> None:
    reader.read("tutorials/own-data.md")
    said = capsys.readouterr().out
    rows = Path("wrong.csv").read_text("utf-8").splitlines()
    assert len(rows) == 2, "the names, and one row"
    assert "vehicle;" in rows[1] or ",vehicle" in rows[1]
    assert "6 samples" in said
    assert Path("homeroom-columns.json").exists()
    with Device.open("classroom") as device:
        assert device.status().samples == 10


def test_a_bundle_is_asked_by_a_new_device(reader: Reader, capsys: pytest.CaptureFixture[str]) -> None:
    reader.type(f'homeroom device predict new/ word="a cat" --bundle {STARTER}')
    assert "kind: " in capsys.readouterr().out
    with pytest.raises(AssertionError, match="exit code 3"):
        reader.type('homeroom device predict none/ word="a cat"')
    assert not Path("none").exists()


def test_a_pupil_is_forgotten(reader: Reader, capsys: pytest.CaptureFixture[str]) -> None:
    taught("classroom")
    with pytest.raises(AssertionError, match="device sync"):  # the part of a device that has joined
        reader.read("howto/forget.md")
    with Device.open("classroom") as device:
        assert {sample.subject for sample in device.store.samples()} == {"pupil-2", "pupil-3", "pupil-4"}
    assert "pupil-1" in capsys.readouterr().out
    assert any(Path("pupil-1").iterdir())


def test_an_app_that_starts_itself_as_the_decoder(reader: Reader, tmp_path: Path) -> None:
    taught("app")
    Path("question.svg").write_bytes(draw(THINGS[0].shape, 2))
    reader.read("howto/frozen-app.md")
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOMEROOM_KEYS": str(tmp_path / "key-ring"),
        "PYTHONPATH": ":".join(sys.path),
    }
    trace = tmp_path / "commands"
    program = Path("app.py").read_text()
    spied = program.replace(
        "if sys.argv[1:]", f"open({str(trace)!r}, 'a').write(f'{{sys.argv[1:]}}\\n')\nif sys.argv[1:]", 1
    )
    Path("app.py").write_text(spied)
    done = subprocess.run([sys.executable, "app.py"], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in {thing.kind for thing in THINGS}
    assert "['--decode']" in trace.read_text(), "the picture was decoded by the program itself"


def test_a_stick(reader: Reader) -> None:
    new_district(reader, "Hill School")
    shutil.copy("district-invitations/Hill-School.json", "invitation.json")
    Path("stick").mkdir()
    taught("school", next(str(path) for path in Path("district/bundles").iterdir()))
    reader.read("howto/stick.md")
    with contextlib.closing(open_rounds(Path("district"))) as rounds:
        assert rounds.members.count() == 1
        assert rounds.log.count("update") == 1


def test_a_lost_key(reader: Reader) -> None:
    new_district(reader, "Hill School", "Mill Lane")
    reader.serve("district", "serve", "district")
    reader.type("homeroom device join mill district-invitations/Mill-Lane.json")
    taught("classroom")
    reader.stop()
    shutil.rmtree("key-ring")  # with the keys of all devices here
    with contextlib.closing(open_rounds(Path("district"))) as rounds:
        (member,) = rounds.members.every()
        before = rounds.certificate
    reader.words["KEY"] = member["device"]
    Path("key-ring").mkdir(mode=0o700)
    reader.read("howto/lost-key.md")
    with contextlib.closing(open_rounds(Path("district"))) as rounds:
        assert rounds.certificate != before
        assert rounds.members.count() == 0
    with Device.open("classroom") as device:
        assert device.status().samples == 0


@pytest.mark.extra
def test_a_district_from_its_first_day_to_a_school_that_leaves(
    reader: Reader, capsys: pytest.CaptureFixture[str]
) -> None:
    reader.read("tutorials/three-schools.md")
    assert sum(line.startswith("homeroom") for line in reader.typed) == 10, "eight, and two that look at the result"
    assert "\nkind: " in capsys.readouterr().out
    reader.read("howto/proxy.md")
    assert "http://proxy.school.example:3128" in capsys.readouterr().out
    reader.read("howto/backup.md")
    reader.stop()
    restored = version("district")
    assert restored > 1_000_000, "a number of its own, which no release before had"
    reader.read("howto/move-server.md")
    reader.stop()
    shutil.rmtree("district")
    Path("moved").rename("district")
    reader.read("howto/school-leaves.md")
    assert version("district") > restored
    report = json.loads(Path("report.json").read_text())
    assert report


def test_every_page_with_blocks_is_typed() -> None:
    text = Path(__file__).read_text()
    pages = {
        path.relative_to(DOCS).as_posix() for part in ("tutorials", "howto") for path in (DOCS / part).glob("*.md")
    }
    typed = set(re.findall(r'reader\.read\("([\w/.-]+)"\)', text))
    assert pages == typed | TYPED_ELSEWHERE | WITHOUT_BLOCKS
    assert {role.page for role in ROLES} >= TYPED_ELSEWHERE
    assert [page for page in WITHOUT_BLOCKS if blocks(DOCS / page)] == []
    known = {"sh", "python", "csv", "text", "json"}
    assert {block.language for page in pages for block in blocks(DOCS / page)} <= known
    assert all(block.file for page in pages for block in blocks(DOCS / page) if block.language == "csv")
    assert all(commands(block) for page in pages for block in blocks(DOCS / page) if block.language == "sh")
