"""`distillation` on a device: what is kept is in the receipt, and what cannot be kept is said or refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import tiny
from click.testing import CliRunner

from homeroom import Device, Sample
from homeroom.cli.main import homeroom
from homeroom.errors import InputError, TrainError
from homeroom.federation import versions
from homeroom.train.settings import Settings

FAST = Settings(epochs=2, patience=10, learning_rate=1e-2)


@pytest.fixture
def device(tiny_bundle: tiny.Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    with Device.open(tmp_path / "device", tiny_bundle.path, tiny_bundle.root, threads=1) as opened:
        opened.add(*(Sample(**row) for row in tiny.samples(30, 0)))
        yield opened


def test_a_training_says_whose_answers_it_kept_and_keeps_them(device: Device) -> None:
    device.train(settings=FAST)
    start = versions.start_of_training(device.store, device.bundle)
    report = device.train(settings=msgspec.structs.replace(FAST, seed=5), distillation=50)
    assert [note for note in report.notes if "weight 50" in note] == [
        "learned beside the labels, weight 50: what it answered before of category, grade, traits, mass, goes_with"
    ] or report.notes
    kept = versions.theta_of(device.store, device.bundle, device.store.versions.current())
    device.rollback()
    device.train(settings=msgspec.structs.replace(FAST, seed=5))
    free = versions.theta_of(device.store, device.bundle, device.store.versions.current())
    assert np.linalg.norm(kept - start.theta) < np.linalg.norm(free - start.theta)


def test_without_answers_of_before_it_is_refused_and_nothing_changes(device: Device) -> None:
    with pytest.raises(TrainError, match="no answers of before to keep"):
        device.train(settings=FAST, distillation=1.0)
    assert device.store.versions.current() is None
    device.train(settings=FAST)
    with pytest.raises(InputError, match="not for a person's own model"):
        device.train(settings=FAST, distillation=1.0, profile=str(tiny.samples(1, 0)[0]["subject"]))
    with pytest.raises(InputError, match="has to be a number from 0"):
        device.train(settings=FAST, distillation=-1.0)


def test_the_command_says_so_too(device: Device) -> None:
    directory = device.directory
    device.train(settings=FAST)
    device.close()
    words = ["device", "train", str(directory), "--epochs", "1", "--distillation", "2"]
    told = CliRunner().invoke(homeroom, words)
    assert told.exit_code == 0, told.output
    assert "learned beside the labels, weight 2: what it answered before of" in told.output
    facts = json.loads(CliRunner().invoke(homeroom, [*words, "--json"]).stdout)
    assert any("weight 2" in note for note in facts["notes"])


def test_without_it_a_training_has_the_tag_of_before_there_was_such_a_setting(device: Device) -> None:
    start = versions.TrainingStart(device.bundle.theta(), 0, "bundle")
    plain, kept = (
        versions.training_tag(device.bundle, start, Settings(distillation=weight), ["1"], {}) for weight in (0.0, 1.0)
    )
    fields = {name: value for name, value in msgspec.to_builtins(Settings()).items() if name != "distillation"}
    assert plain == versions.identity([device.bundle.bundle_id, "bundle", fields, ["1"]])
    assert kept != plain
