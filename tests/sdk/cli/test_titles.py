"""Titles: people see "Which animal?" and "A cat"; sheets, options and JSON keep `category` and `cat`."""

from __future__ import annotations

import http.client
import json
import threading
from pathlib import Path

import msgspec
import pytest
import tiny

from homeroom import Device, Sample
from homeroom.agent.loop import Agent, AgentSettings
from homeroom.agent.page import PageServer
from homeroom.cli.main import main
from homeroom.contract.canonical_json import canonical
from homeroom.runtime.bundle import write_signature

TITLES = ("A cat", "A dog", "A bird", "<b>A fish</b>")


def titled(made: tiny.Tiny, out: Path) -> tiny.Tiny:
    """The tiny bundle with titles of one task, of its labels, and of a slot."""
    made = tiny.with_task(made, out, "category", title="Which animal?", label_titles=TITLES)
    slots = tuple(
        msgspec.structs.replace(one, title="Your word") if one.name == "word" else one for one in made.manifest.slots
    )
    manifest = msgspec.structs.replace(made.manifest, slots=slots)
    (out / "manifest.json").write_bytes(canonical(manifest))
    write_signature(out, manifest, made.certificate, made.exporter_key)
    return made


@pytest.fixture
def device(tiny_bundle: tiny.Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    made = titled(tiny_bundle, tmp_path / "titled")
    with Device.open(tmp_path / "device", made.path, tiny_bundle.root, threads=1) as device:
        device.add(Sample(word="el gato", labels={"category": "cat"}))
        device.train(epochs=1)
    return tmp_path / "device"


def run(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    main([str(word) for word in words])
    return capsys.readouterr().out


def test_answers_and_reasons_are_said_by_titles(device: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = run(capsys, "device", "predict", device, "word=el gato").splitlines()
    line = next(line for line in lines if line.startswith("Which animal?: "))
    assert any(title in line for title in TITLES)
    told = json.loads(run(capsys, "device", "predict", device, "word=el gato", "--json"))
    assert told["category"]["best"] in ("cat", "dog", "bird", "fish")
    said = run(capsys, "device", "explain", device, "category", "word=el gato", "--label", "dog")
    assert said.startswith("Which animal?: A dog")
    assert (
        json.loads(run(capsys, "device", "explain", device, "category", "word=el gato", "--json"))["task"] == "category"
    )


def test_an_inspected_bundle_lists_names_with_titles(
    device: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = run(capsys, "bundle", "inspect", tmp_path / "titled")
    assert "category (Which animal?): classification" in listed
    assert "word (Your word): text" in listed


def test_the_page_asks_by_titles_and_takes_names(device: Path) -> None:
    agent, stopping = Agent(AgentSettings(device, look_s=0.05)), threading.Event()

    def work() -> None:
        while not stopping.is_set():
            agent.cycle()
            agent._wait()

    thread, page = threading.Thread(target=work), PageServer(agent)
    thread.start()
    try:
        connection = http.client.HTTPConnection("127.0.0.1", page.server_port, timeout=90)
        connection.request("GET", "/", headers={"Cookie": f"homeroom={page.address.token}"})
        text = connection.getresponse().read().decode()
        connection.close()
    finally:
        stopping.set()
        thread.join(60)
        page.close()
    assert "<label>Which animal? <select" in text
    assert '<option value="dog">A dog</option>' in text
    assert '<option value="fish">&lt;b&gt;A fish&lt;/b&gt;</option>' in text, "a title is text"
    assert "Your word</p>" in text
