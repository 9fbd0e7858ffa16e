"""After a model went, came or was refused, the command says what answers now and what to do next."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
from click.testing import CliRunner

from homeroom import Device, Sample, SyncReport
from homeroom.cli.main import homeroom
from homeroom.train.settings import Settings


def run(*words: object) -> str:
    done = CliRunner().invoke(homeroom, ["device", *map(str, words)])
    assert done.exit_code == 0, done.output
    return str(done.output)


def test_it_says_what_answers_now_and_what_to_do(
    tiny_bundle: tiny.Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    folder = tmp_path / "device"
    said = run("init", folder, "--bundle", tiny_bundle.path, "--root", tiny_bundle.root)
    assert "in use now: the bundle's own model, as it came" in said
    assert "next: no sample is held: add labelled ones" in said
    with Device.open(folder, threads=1) as device:
        rows = [{name: row[name] for name in ("word", "facts", "subject")} for row in tiny.samples(24, 1)]
        labels = [{"category": row["labels"]["category"]} for row in tiny.samples(24, 1)]
        device.add(*(Sample(**row, labels=label) for row, label in zip(rows, labels, strict=True)))
        first = device.train(settings=Settings(epochs=1)).version_id
        second = device.train(settings=Settings(epochs=2)).version_id
    assert f"`homeroom device train {folder}` goes on from it" in run("undo", folder)
    monkeypatch.setattr(Device, "sync", lambda self: SyncReport(version=3, in_use="local"))
    said = run("sync", folder)
    assert "the new shared version is clearly worse" in said
    assert f"in use now: version {first[:8]}, trained on this device" in said
    assert second[:8] not in said
    said = run("forget", folder, "pupil-1", "--yes")
    assert "in use now: the bundle's own model, as it came: no training of this device is in it" in said
    assert f"next: `homeroom device train {folder}` teaches it from the 19 samples held" in said
