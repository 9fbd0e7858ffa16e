"""Labels that look wrong are quarantined and shown to a person, and left alone once released."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from homeroom import Device, Sample
from homeroom.cli.main import main
from homeroom.device.local_samples import training_samples
from homeroom.errors import TrainError
from homeroom.train.features.dataset import Dataset
from homeroom.train.label_errors import LEAST_LABELLED_SAMPLES, suspect_labels
from homeroom.train.settings import Settings
from sdk.learning import dataset, opened

SETTINGS = Settings(learning_rate=1e-2)


@pytest.fixture(autouse=True)
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))


def test_most_wrong_labels_are_suspect_and_few_right_ones() -> None:
    bundle, graphs = opened()
    good = [replace(e, targets={"category": e.targets["category"]}) for e in dataset(120).examples]
    good = [e for e in good if e.targets]
    wrong = set(range(0, len(good), 6))
    bad = [replace(e, targets={"category": np.roll(e.targets["category"], 1)}) for e in good]
    mixed = Dataset(bundle.manifest, [bad[i] if i in wrong else e for i, e in enumerate(good)])
    suspects = suspect_labels(graphs, bundle.theta(), mixed, SETTINGS)
    rows = {suspect.row for suspect in suspects}
    assert len(rows & wrong) >= 0.7 * len(wrong)
    assert len(rows - wrong) <= 0.15 * len(good)
    right = {suspect.row: suspect.instead for suspect in suspects if suspect.row in wrong}
    labels = bundle.manifest.task("category").labels
    hits = [labels[good[row].targets["category"].argmax()] == instead for row, instead in right.items()]
    assert np.mean(hits) > 0.7, "it also says what they are"
    with pytest.raises(TrainError, match="the time ended"):  # no half judgement
        suspect_labels(graphs, bundle.theta(), mixed, SETTINGS, stop=lambda: True)


def test_few_labels_are_not_judged() -> None:
    bundle, graphs = opened()
    few = Dataset(bundle.manifest, dataset(120).examples[: LEAST_LABELLED_SAMPLES - 1])
    with pytest.raises(TrainError, match="no label was judged"):
        suspect_labels(graphs, bundle.theta(), few, SETTINGS)


def test_a_person_has_the_last_word_on_a_suspect_label(
    tiny_bundle: tiny.Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows: list[dict[str, Any]] = [
        {
            "word": row["word"],
            "facts": row["facts"],
            "labels": {"category": row["labels"]["category"]},
            "subject": f"p-{i}",
        }
        for i, row in enumerate(tiny.samples(200, 0))
        if {"word", "facts"} <= row.keys() and "category" in row["labels"]
    ]
    names = tiny.ANIMALS
    for row in rows[::8]:
        row["labels"]["category"] = names[(names.index(row["labels"]["category"]) + 1) % len(names)]
    folder = tmp_path / "device"
    with Device.open(folder, tiny_bundle.path, tiny_bundle.root, threads=1) as device:
        ids = device.add(*(Sample(**row) for row in rows))
        suspect_ids = device.doubt()
        assert len(set(suspect_ids) & set(ids[::8])) >= len(ids[::8]) / 2
        assert {sample.sample_id for sample in device.set_aside()} == set(suspect_ids)
        assert len(training_samples(device.store, device.bundle)) == len(rows) - len(suspect_ids)
        device.put_back(*suspect_ids)
        assert not set(suspect_ids) & set(device.doubt())
    capsys.readouterr()
    main(["device", "quarantine", str(folder), "--doubt"])
    assert suspect_ids[0] not in capsys.readouterr().out
