"""Scores by label beside the version before, and labels that nothing here judges any more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tiny
from click.testing import CliRunner

from homeroom import Device, Sample
from homeroom.cli.main import homeroom
from homeroom.data.tasks import probabilities
from homeroom.train.by_label import LabelScore, by_label, label_line, unheld
from homeroom.train.evaluate import labelled_outputs
from homeroom.train.features.dataset import Dataset
from homeroom.train.fit import fit
from homeroom.train.settings import Settings
from sdk.learning import dataset, opened


def test_each_label_has_its_share_now_and_before() -> None:
    bundle, graphs = opened()
    some, before = dataset(60), bundle.theta()
    theta = fit(graphs, some, None, before, Settings(epochs=6, learning_rate=1e-2)).theta
    found = by_label(graphs, some, theta, before)
    assert {"category", "grade", "size"} == found.keys()  # other kinds have no named label, or several a sample
    for values, name in ((theta, "right"), (before, "before")):
        outputs, targets = labelled_outputs(graphs, some, values)["category"]
        task = bundle.manifest.task("category")
        right = probabilities(task, outputs).argmax(1) == targets.argmax(1)
        for number, label in enumerate(task.labels):
            rows = targets.argmax(1) == number
            if rows.any():
                assert getattr(found["category"][label], name) == pytest.approx(right[rows].mean())
                assert found["category"][label].n == rows.sum()
    assert all(one.before is None for one in by_label(graphs, some, theta, None)["category"].values())


def test_many_labels_are_shown_by_what_fell_the_most() -> None:
    scores = {f"label-{number}": LabelScore(10, number / 20, 1.0) for number in range(12)}
    line = label_line(scores)
    assert line.startswith("label-0 0% of 10 (100%), label-1 5% of 10 (100%)")
    assert line.endswith("… and 4 more labels")
    assert label_line({"a": LabelScore(3, 1.0, None)}) == "a 100% of 3"


def test_a_label_of_which_nothing_is_left_is_named() -> None:
    bundle, _ = opened()
    examples, task = dataset(60).examples, bundle.manifest.task("category")
    first = np.eye(task.width, dtype=np.float32)[0]
    left = [one for one in examples if not np.array_equal(one.targets.get("category", first), first)]
    told = [line for line in unheld(Dataset(bundle.manifest, left)) if line.startswith("category: ")]
    what = "whether what was learned of it before still holds is not known"
    assert told == [f"category: no sample of {task.labels[0]} is here: {what}"]


@pytest.fixture
def directory(tiny_bundle: tiny.Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    with Device.open(tmp_path / "device", tiny_bundle.path, tiny_bundle.root, threads=1) as device:
        device.add(*(Sample(**row) for row in tiny.samples(40, 0)))
        first = device.train(settings=Settings(epochs=2))
        assert first.by_label["category"]
        assert all(one.before is None for one in first.by_label["category"].values())
        assert not any("whether what was learned" in note for note in first.notes)
    return tmp_path / "device"


def test_a_training_tells_both(directory: Path) -> None:
    told = CliRunner().invoke(homeroom, ["device", "train", str(directory), "--epochs", "1"])
    assert told.exit_code == 0, told.output
    assert "theta by label (and the version before): " in told.output
