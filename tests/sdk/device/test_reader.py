"""A second process beside the one that has the device open: it answers by the version in use, and changes nothing."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import tiny

from homeroom import Device, DeviceReader, Sample
from homeroom.cli.main import main
from homeroom.errors import Code, InputError, StoreError
from homeroom.train.settings import Settings

ENDLESS = Settings(epochs=100_000, patience=100_000)
ASKED = Sample(word="the cat")
SECOND_PROCESS = """
import json, sys
from dataclasses import asdict
from homeroom import Device, HomeroomError, Sample
with Device.read(sys.argv[1], threads=1) as reader:
    sample = Sample(word="the cat")
    answer = {task: asdict(one) for task, one in reader.predict(sample).items()}
    why = reader.explain(sample, "category").sentences()
    score = reader.score(Sample(word="the cat", labels={"category": "cat"}))["category"].n
    status = reader.status()
try:
    Device.open(sys.argv[1])
except HomeroomError as problem:
    refused = [problem.code, str(problem)]
print(json.dumps({"answer": answer, "why": why, "score": score, "status": status, "refused": refused}))
"""


@pytest.fixture
def device(tiny_bundle: tiny.Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    with Device.open(tmp_path / "device", tiny_bundle.path, tiny_bundle.root, threads=1) as opened:
        opened.add(*(Sample(**row) for row in tiny.samples(12, 0)))
        yield opened


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = 0
    try:
        main([str(word) for word in words])
    except SystemExit as ended:
        code = int(ended.code or 0)
    told = capsys.readouterr()
    return code, told.out, told.err


def test_another_process_answers_while_one_trains(device: Device) -> None:
    device.train(settings=Settings(epochs=1))
    expected, why = device.predict(ASKED), device.explain(ASKED, "category").sentences()
    started, cancel = threading.Event(), threading.Event()
    with ThreadPoolExecutor(1) as threads:
        training = threads.submit(device.train, settings=ENDLESS, cancel=cancel, progress=lambda *_: started.set())
        assert started.wait(60)
        command = [sys.executable, "-c", SECOND_PROCESS, str(device.directory)]
        said = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout)
        assert not training.done()
        assert said["status"]["samples"] == 12
        cancel.set()
        training.result(60)
    assert {task: one["probabilities"] for task, one in said["answer"].items()} == {
        task: dict(one.probabilities) for task, one in expected.items()
    }
    assert said["why"] == why
    assert said["score"] == 1
    code, sentence = said["refused"]
    assert code == Code.IN_USE
    assert f"{Path(sys.executable).resolve().name[:6]}" in sentence
    assert "since" in sentence


def test_a_reader_follows_the_version_in_use_and_answers_by_none_that_is_gone(device: Device) -> None:
    first = device.predict(ASKED)
    with Device.read(device.directory, threads=1) as reader:
        assert reader.predict(ASKED) == first
        device.train(settings=Settings(epochs=2))
        trained = device.predict(ASKED)
        assert reader.predict(ASKED) == trained != first
        device.rollback()
        assert reader.predict(ASKED) == first
        device.train(settings=Settings(epochs=2))
        device.train(profile="pupil-1")
        assert reader.predict(ASKED, "pupil-1") == device.predict(ASKED, "pupil-1")
        assert reader.profile("pupil-1") == device.profile("pupil-1") != None  # noqa: E711
        device.forget("pupil-1")
        assert reader.predict(ASKED) == device.predict(ASKED) == first
        assert reader.profile("pupil-1") is None
        assert reader.status() == device.status()


def test_a_reader_has_no_verb_that_changes_the_device_and_says_that_it_is_closed(device: Device) -> None:
    reader = Device.read(device.directory, threads=1)
    before = device.predict(ASKED)
    device.close()
    assert reader.predict(ASKED) == before, "nobody has it open"
    assert type(reader) is DeviceReader
    assert not {"add", "train", "forget", "sync", "rollback"} & set(dir(reader))
    reader.close()
    with pytest.raises(StoreError, match="is closed") as refused:
        reader.predict(ASKED)
    assert refused.value.code == Code.CLOSED
    with pytest.raises(InputError, match="is no device directory"):
        Device.read(device.directory / "bundles")


def test_a_second_opening_says_who_holds_the_directory(device: Device) -> None:
    with pytest.raises(StoreError, match=r"in use by this process, since \d\d:\d\d UTC .*Device.read"):
        Device.open(device.directory)
    (device.directory / "holder.json").write_text('{"pid": 4194304000, "since": "2026-01-01T00:00:00Z"}')
    with pytest.raises(StoreError, match=r"in use by another process \(wait"):
        Device.open(device.directory)
    device.close()
    assert not (device.directory / "holder.json").exists()


def test_commands_that_read_answer_while_the_directory_is_busy(
    device: Device, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tiny.write_samples(tmp_path / "test", tiny.samples(5, 4))
    commands: dict[str, list[Any]] = {
        "status": [],
        "predict": ["word=the cat"],
        "explain": ["category", "word=the cat"],
        "score": [rows],
    }
    busy = {name: run(capsys, "device", name, device.directory, *more, "--json") for name, more in commands.items()}
    code, _, refused = run(capsys, "device", "train", device.directory)
    device.close()
    for name, more in commands.items():
        code_free, out, told = run(capsys, "device", name, device.directory, *more, "--json")
        assert (code_free, told) == (0, "")
        assert busy[name][:2] == (0, out), "the same JSON"
        assert "is in use by this process" in busy[name][2]
    assert code == 7
    assert "is in use by this process" in refused


@pytest.mark.parametrize("given", ["the cat", {"word": "the cat"}, None])
def test_what_is_no_sample_is_refused_in_a_sentence(device: Device, given: Any) -> None:
    with pytest.raises(InputError, match="needs a Sample"):
        device.predict(given)
    with pytest.raises(InputError, match="needs samples, or paths"):
        device.score([Sample(word="the cat")])  # type: ignore[arg-type]


@pytest.mark.parametrize("threads", [0, -1, 10_000, "1", 1.5, True])
def test_a_number_of_threads_that_cannot_be_is_refused_at_once(device: Device, threads: Any) -> None:
    with pytest.raises(InputError, match="whole number from 1 to 256"):
        Device.read(device.directory, threads=threads)
