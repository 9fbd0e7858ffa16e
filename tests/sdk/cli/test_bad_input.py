"""Bad samples and files, through the command line: one clear message, a documented exit code, nothing changed."""

from __future__ import annotations

import io
import json
import os
import signal
import struct
import subprocess
import sys
import wave
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from PIL import Image

from homeroom import Device, Sample
from homeroom.cli.main import main
from homeroom.data.ingest import read_samples
from homeroom.data.samples import StoredSample
from homeroom.errors import InputError


@pytest.fixture(scope="module")
def classroom(tiny_bundle: tiny.Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A device with three samples; every case must leave it as it is."""
    home = tmp_path_factory.mktemp("classroom")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOMEROOM_KEYS", str(home / "keys"))
        with Device.open(home / "device", tiny_bundle.path, tiny_bundle.root, threads=1) as device:
            device.add(*(Sample(**row) for row in tiny.samples(3, 0)))
        yield home / "device"


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """The exit code and what was said on stderr."""
    with pytest.raises(SystemExit) as ended:
        sys.exit(main([str(argument) for argument in arguments]))
    return int(ended.value.code or 0), capsys.readouterr().err


def assert_refused(code: int, said: str, expected: int, *words: str) -> None:
    assert code == expected, said
    assert said.startswith("homeroom: ")
    assert 1 <= len(said.strip().splitlines()) <= 2, said
    assert "Traceback" not in said
    for word in words:
        assert word in said, said


def png(width: int, height: int, data: bytes | None = None) -> bytes:
    """A grey PNG whose header says so; `data` in place of its pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    pixels = zlib.compress(data if data is not None else bytes((width + 1) * height), 9)
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def picture(kind: str, **options: Any) -> bytes:
    image, out = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)), io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def sound(frames: int, rate: int = 16000) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(bytes(2 * frames))
    return out.getvalue()


LAUGHS = b"""<?xml version="1.0"?><!DOCTYPE s [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">
<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;"><!ENTITY d "&c;&c;&c;&c;&c;&c;&c;&c;&c;&c;">
<!ENTITY e "&d;&d;&d;&d;&d;&d;&d;&d;&d;&d;"><!ENTITY f "&e;&e;&e;&e;&e;&e;&e;&e;&e;&e;">]>
<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><text>&f;&f;&f;&f;&f;&f;&f;&f;&f;&f;</text></svg>"""

FILES: dict[str, tuple[str, Callable[[], bytes]]] = {
    "a truncated PNG": ("picture.png", lambda: picture("PNG")[:-300]),
    "a truncated JPEG": ("picture.jpg", lambda: picture("JPEG")[:200]),
    "a PNG with a flipped byte": ("picture.png", lambda: picture("PNG")[:60] + b"\xff" + picture("PNG")[61:]),
    "a PNG that is only a header": ("picture.png", lambda: png(32, 32, b"")),
    "a picture of no pixels": ("picture.png", lambda: png(0, 0, b"")),
    "a decompression bomb": ("picture.png", lambda: png(30_000, 30_000, bytes(30_001 * 1000))),
    "a bomb that only claims its size": ("picture.png", lambda: png(1 << 30, 1 << 30, b"x")),
    "a text called PNG": ("picture.png", lambda: b"not a picture at all"),
    "an empty picture": ("picture.png", lambda: b""),
    "an SVG of a billion laughs": ("picture.svg", lambda: LAUGHS),
    "an SVG that is cut": ("picture.svg", lambda: b'<svg xmlns="http://www.w3.org/2000/svg" width="9"'),
    "a truncated sound": ("speech.wav", lambda: sound(400)[:30]),
    "a sound of no length": ("speech.wav", lambda: sound(0)),
    "noise called sound": ("speech.ogg", lambda: b"OggS" + bytes(range(256))),
    "an empty sound": ("speech.wav", lambda: b""),
    "a picture called sound": ("speech.wav", lambda: picture("PNG")),
}


@pytest.mark.parametrize("case", FILES)
def test_a_broken_file_is_refused(
    case: str, classroom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, make = FILES[case]
    (tmp_path / name).write_bytes(make())
    line = {"word": "good", Path(name).stem: name}
    (tmp_path / "rows.jsonl").write_text(json.dumps({"word": "fine"}) + "\n" + json.dumps(line) + "\n")
    assert_refused(*run(capsys, "device", "add", classroom, tmp_path / "rows.jsonl"), 3, "line 2", name)
    assert_unchanged(classroom)


def assert_unchanged(classroom: Path) -> None:
    with Device.open(classroom, threads=1) as device:
        assert device.store.count() == 3
        assert device.store.damage() == []


ROWS: dict[str, tuple[str | dict[str, Any], str]] = {
    "an empty text": ({"word": ""}, "empty"),
    "a text of blanks": ({"word": " \n\t "}, "empty"),
    "100,000 characters": ({"word": "a" * 100_000}, "characters"),
    "a number for a text": ({"word": 7}, "text"),
    "no input": ({"labels": {"category": "cat"}}, "no input"),
    "an unknown slot": ({"wrod": "cat"}, "did you mean word"),
    "a modality with several slots": ({"text": "cat"}, "could be any of"),
    "one slot under two names": ({"picture": "a.png", "image": "a.png"}, ""),
    "a missing file": ({"picture": "nowhere.png"}, "nowhere.png"),
    "a folder for a file": ({"picture": "."}, "cannot be read"),
    "a name with a null byte": ({"picture": "a\0.png"}, "cannot be read"),
    "too many places": ({"word": "cat", "pictures": ["a.png"] * 5}, "places"),
    "one value for several places": ({"word": "cat", "pictures": "a.png"}, "list"),
    "an unknown task": ({"word": "cat", "labels": {"colour": "red"}}, "no task"),
    "an unknown label": ({"word": "cat", "labels": {"category": "cta"}}, "did you mean cat"),
    "labels that are a list": ({"word": "cat", "labels": ["cat"]}, "labels"),
    "a label of another kind": ({"word": "cat", "labels": {"category": {"a": 1}}}, "no label"),
    "a level that is none": ({"word": "cat", "labels": {"size": "huge"}}, "no label"),
    "one label for many": ({"word": "cat", "labels": {"traits": "fur"}}, "list of labels"),
    "a word for a number": ({"word": "cat", "labels": {"weight": "heavy"}}, "number"),
    "true for a number": ({"word": "cat", "labels": {"weight": True}}, "number"),
    "not a number": ('{"word": "cat", "labels": {"weight": NaN}}', "JSON"),
    "an endless number": ('{"word": "cat", "labels": {"weight": 1e999}}', ""),
    "a number that float32 cannot hold": ({"word": "cat", "labels": {"weight": 1e308}}, "1e+308"),
    "a number of 400 digits": ('{"word": "cat", "labels": {"weight": ' + "9" * 400 + "}}", ""),
    "a cell that float32 cannot hold": ({"facts": {"legs": -1e308}}, "-1e+308"),
    "an option beyond the last": ({"word": "cat", "labels": {"which_picture": 9}}, "option"),
    "an option that is not given": ({"word": "cat", "labels": {"which_picture": 1}}, "not given"),
    "maybe": ({"word": "cat", "labels": {"same": "maybe"}}, "neither true nor false"),
    "an unknown column": ({"facts": {"lenght": 3}}, "no column"),
    "a row without values": ({"facts": {"legs": None}}, ""),
    "a cell that is no number": ({"facts": {"legs": "four"}}, ""),
    "an infinite cell": ('{"facts": {"legs": 1e999}}', ""),
    "a day that is none": ({"word": "cat", "retain_until": "2027-02-30"}, "not a day"),
    "a subject without end": ({"word": "cat", "subject": "x" * 1000}, "subject"),
    "a subject that is a list": ({"word": "cat", "subject": ["a"]}, "subject"),
    "half a line of JSON": ('{"word": "cat"', "JSON"),
    "a list for a sample": ("[1, 2]", "not an object"),
    "JSON a thousand levels deep": ("[" * 5000 + "]" * 5000, "JSON"),
    "a line of two megabytes": ('{"word": "' + "a" * (2 << 20) + '"}', "longer than"),
}


@pytest.mark.parametrize("case", ROWS)
def test_a_bad_row_is_refused_with_its_line(
    case: str, classroom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row, words = ROWS[case]
    (tmp_path / "a.png").write_bytes(picture("PNG"))
    text = row if isinstance(row, str) else json.dumps(row)
    (tmp_path / "rows.jsonl").write_text(json.dumps({"word": "fine"}) + "\n\n" + text + "\n")
    assert_refused(*run(capsys, "device", "add", classroom, tmp_path / "rows.jsonl"), 3, "rows.jsonl line 3", words)
    assert_unchanged(classroom)


SHEETS: dict[str, tuple[bytes, str]] = {
    "a sheet without a header": (b"", "first line"),
    "a column named twice": (b"word,word\na,b\n", "once"),
    "more cells than columns": (b"word,subject\na,b,c\n", "line 2"),
    "a sheet in another encoding": ("word\nniño\n".encode("latin-1"), "UTF-8"),
    "a quote that never ends": (b'word\n"cat\n', "CSV"),
    "a cell that is no number": (b"word,label.weight\ncat,heavy\n", "line 2"),
    "an unknown column": (b"wrod\ncat\n", "did you mean word"),
    "a place beyond the last": (b"word,pictures.7\ncat,a.png\n", "did you mean pictures.3"),
    "a task that is none": (b"word,label.colour\ncat,red\n", "no column 'label.colour'"),
    "a null byte": (b"word\nca\0t,,\n", "line"),
}


@pytest.mark.parametrize("case", SHEETS)
def test_a_bad_sheet_is_refused(case: str, classroom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, words = SHEETS[case]
    (tmp_path / "rows.csv").write_bytes(data)
    assert_refused(*run(capsys, "device", "add", classroom, tmp_path / "rows.csv"), 3, "rows.csv", words)
    assert_unchanged(classroom)


def test_bad_folders_and_unknown_files_are_refused(
    classroom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_refused(*run(capsys, "device", "add", classroom, tmp_path / "nowhere"), 3, "no such file")
    assert_refused(*run(capsys, "device", "add", classroom, tmp_path), 3, "holds no pictures")
    (tmp_path / "rows.xlsx").write_bytes(b"PK")
    assert_refused(*run(capsys, "device", "add", classroom, tmp_path / "rows.xlsx"), 3, ".xlsx")
    folder = tmp_path / "lesson"
    folder.mkdir()
    (folder / "cat.png").write_bytes(picture("PNG"))
    (folder / "labels.csv").write_text("file,label.category\ndog.png,dog\n")
    assert_refused(*run(capsys, "device", "add", classroom, folder), 3, "labels.csv line 2", "dog.png")
    (folder / "labels.csv").write_text("file,label.category\ncat.png,cow\n")
    assert_refused(*run(capsys, "device", "add", classroom, folder), 3, "labels.csv line 2", "no label 'cow'")
    (folder / "labels.csv").unlink()
    (folder / "cat.jpg").write_bytes(picture("JPEG"))
    assert_refused(*run(capsys, "device", "add", classroom, folder), 3, "a second image")
    assert_unchanged(classroom)


def test_one_bad_sample_among_good_ones_adds_none(classroom: Path) -> None:
    good = [Sample(**row) for row in tiny.samples(2, 5)]
    with Device.open(classroom, threads=1) as device:
        with pytest.raises(InputError):
            device.add(*good, Sample(word=""))
        assert device.store.count() == 3
        for bad in (Sample(), Sample(word=None), Sample(picture=b"x"), Sample(facts={}), Sample(speech=3)):
            with pytest.raises(InputError):
                device.predict(bad)


def test_other_mistakes_end_in_one_message_too(
    classroom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_refused(*run(capsys, "device", "forget", classroom, "nobody", "--yes"), 3, "nothing is held")
    assert_refused(*run(capsys, "device", "hand-over", classroom, "nobody"), 3, "nothing is held")
    assert_refused(*run(capsys, "device", "sync", classroom), 3, "join")
    assert_refused(*run(capsys, "device", "predict", classroom, "cat"), 3, "SLOT=VALUE")
    assert_refused(*run(capsys, "device", "status", tmp_path / "none"), 3, "no device directory")
    (tmp_path / "empty").mkdir()
    for command in ("status", "run"):
        assert_refused(*run(capsys, "device", command, tmp_path / "empty"), 3, "no device directory")
    assert not list((tmp_path / "empty").iterdir())
    (tmp_path / "nothing.jsonl").write_text("\n")
    assert_refused(*run(capsys, "device", "add", classroom, tmp_path / "nothing.jsonl"), 3, "holds no sample")
    (tmp_path / "invitation.json").write_bytes(b"")
    assert_refused(
        *run(capsys, "device", "join", classroom, tmp_path / "invitation.json"), 3, "is empty", "get it again"
    )
    (tmp_path / "file").write_text("x")
    assert run(capsys, "device", "train", classroom, "--minutes", "-1")[0] == 2
    with Device.open(classroom, threads=1):
        assert_refused(*run(capsys, "device", "undo", classroom), 7, "in use by this process")
    assert_unchanged(classroom)


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[]", b"\xff\xfe", json.dumps({"address": "ftp://x", "root": "0" * 64}).encode(), bytes(1 << 17)],
    ids=["empty", "no fields", "a list", "no text", "not http", "too long"],
)
def test_a_bad_invitation_is_refused(
    content: bytes, classroom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "invitation.json").write_bytes(content)
    assert_refused(*run(capsys, "device", "join", classroom, tmp_path / "invitation.json"), 3, "invitation.json")
    assert_unchanged(classroom)


def test_an_invitation_of_another_institution_or_bundle_is_refused(
    classroom: Path, tiny_bundle: tiny.Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = {"address": "http://127.0.0.1:9", "root": tiny_bundle.root, "code": "c" * 16, "institution": "x"}
    asked["bundle_id"] = tiny_bundle.bundle_id
    path = tmp_path / "invitation.json"
    path.write_text(json.dumps(asked | {"root": "0" * 64}))
    assert_refused(*run(capsys, "device", "join", classroom, path), 6, "root")
    path.write_text(json.dumps(asked | {"bundle_id": "0" * 64}))
    assert_refused(*run(capsys, "device", "join", classroom, path), 4, "bundle")
    path.write_text(json.dumps(asked))
    assert_refused(*run(capsys, "device", "join", classroom, path), 10, "no connection")
    assert_unchanged(classroom)


def test_a_real_process_prints_no_traceback(classroom: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{")
    command = [sys.executable, "-m", "homeroom", "device", "add", str(classroom), str(tmp_path / "rows.jsonl")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert_refused(done.returncode, done.stderr, 3, "line 1")


@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "1e309"])
def test_a_number_that_is_none_is_refused_before_anything_is_made(
    number: str, classroom: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_bundle: tiny.Tiny
) -> None:
    code, said = run(capsys, "device", "train", classroom, f"--megabytes={number}")
    assert (code, "--megabytes" in said) == (2, True), said
    serve = ("district", "serve", tmp_path / "district", "--bundle", tiny_bundle.path, f"--proximal={number}")
    code, said = run(capsys, *serve)
    assert (code, "--proximal" in said) == (2, True), said
    assert not (tmp_path / "district").exists()


@pytest.mark.parametrize(
    ("option", "url", "words"),
    [
        ("--proxy", "http://proxy:99999", "from 1 to 65535"),
        ("--proxy", "http://proxy:0", "from 1 to 65535"),
        ("--proxy", "http://proxy:many", "Invalid port"),
        ("--proxy", "http://:3128", "needs a name"),
        ("--address", "https://district:70000", "from 1 to 65535"),
        ("--proxy", "socks5://proxy:1080", "pip install socksio"),
    ],
)
def test_a_way_out_that_cannot_be_is_refused_when_it_is_set(
    option: str,
    url: str,
    words: str,
    classroom: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("homeroom.federation.network.transport.find_spec", lambda _: None)
    assert_refused(*run(capsys, "device", "network", classroom, option, url), 3, url, words)
    assert main(["device", "network", str(classroom)]) == 0
    assert url not in capsys.readouterr().out


def test_an_empty_name_is_not_the_folder_at_hand(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_bundle: tiny.Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, said = run(capsys, "device", "init", "", "--bundle", tiny_bundle.path)
    assert (code, "empty name" in said) == (2, True), said
    assert not list(tmp_path.iterdir())


def test_what_is_held_of_a_pupil_is_not_mixed_into_a_folder(
    classroom: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "export.json").write_text("another pupil's")
    code, said = run(capsys, "device", "hand-over", classroom, "pupil-0", "--out", tmp_path)
    assert_refused(code, said, 3, str(tmp_path), "not empty")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["another pupil's"]


def test_a_folder_that_is_no_device_is_left_as_it_is(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "cat.jpg").write_bytes(b"a picture")
    code, said = run(capsys, "device", "status", tmp_path)
    assert_refused(code, said, 3, "no device directory")
    assert run(capsys, "doctor", tmp_path)[0] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["cat.jpg"]


def test_a_file_with_a_byte_order_mark_is_read(classroom: Path, tmp_path: Path) -> None:
    file = tmp_path / "saved by an office program.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + b'{"word": "el gato"}\r\n')
    (sample,) = read_samples(file, tiny.draft())
    assert sample.inputs["word"] == ["el gato"]


@pytest.fixture
def no_hang() -> Iterator[None]:
    """Ends a test that waits for a pipe."""

    def stop(*_: object) -> None:
        raise TimeoutError("it waits")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.usefixtures("no_hang")
def test_a_pipe_in_place_of_a_file_is_refused_at_once(
    classroom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("pipe.csv", "pipe.jsonl", "pipe.png", "folder/samples.jsonl", "pipe.homeroom", "pipe"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "names.jsonl").write_text(json.dumps({"picture": "pipe.png"}))
    for name in ("pipe.csv", "pipe.jsonl", "names.jsonl", "folder"):
        assert_refused(*run(capsys, "device", "add", classroom, tmp_path / name), 3, "a pipe or a device")
    picture_name = f"picture={tmp_path / 'pipe.png'}"
    assert_refused(*run(capsys, "device", "predict", classroom, picture_name), 3, "a pipe or a device")
    for command in ("policy", "join"):
        assert_refused(*run(capsys, "device", command, classroom, tmp_path / "pipe"), 3, "a pipe or a device")
    assert_refused(*run(capsys, "device", "init", classroom, "--bundle", tmp_path / "pipe.homeroom"), 4)
    assert_unchanged(classroom)


def test_no_more_of_a_file_is_read_than_is_allowed(
    classroom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("big.png", "big.csv", "big.jsonl"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(1 << 40)
    (tmp_path / "names.jsonl").write_text(json.dumps({"picture": "big.png"}))
    assert_refused(*run(capsys, "device", "add", classroom, tmp_path / "names.jsonl"), 3, "is larger than 64 MB")
    assert_refused(*run(capsys, "device", "add", classroom, tmp_path / "big.csv"), 3, "a line of more than")
    assert_refused(*run(capsys, "device", "add", classroom, tmp_path / "big.jsonl"), 3, "is longer than")
    assert_unchanged(classroom)


def test_a_name_that_would_steer_the_terminal_is_shown_as_text(
    classroom: Path, tiny_bundle: tiny.Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "ana\x1b]0;x\x07\x9b31m\u202eevil\u2066\nfake: line"
    with Device.open(tmp_path / "device", tiny_bundle.path, tiny_bundle.root, threads=1) as device:
        device.store.add([StoredSample(inputs={"word": ["cat"]}, subject=name, aside=name)])
    with pytest.raises(SystemExit):
        sys.exit(main(["device", "quarantine", str(tmp_path / "device")]))
    shown = capsys.readouterr().out
    assert shown.count("\n") == 1
    assert "evil" in shown
    assert shown.rstrip("\n").isprintable()
    with pytest.raises(SystemExit):
        sys.exit(main(["device", "quarantine", str(tmp_path / "device"), "--json"]))
    shown = capsys.readouterr().out
    assert shown.replace("\n", "").isprintable()
    assert json.loads(shown)[0]["subject"] == name
