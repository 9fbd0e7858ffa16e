"""An answer from features that are unlike all that a device learned from is not sure, and says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny

from homeroom import Device, Sample
from homeroom.train.selective import UNLIKE
from homeroom.train.settings import Settings


def test_what_lies_further_than_all_that_was_learned_is_not_sure(
    solved_bundle: tiny.Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    rows = [row for row in tiny.samples(300, 1) if "picture" in row and "facts" in row and "size" in row["labels"]][
        :120
    ]
    inputs = [{name: row[name] for name in ("picture", "facts")} for row in rows]
    labels = [{"size": row["labels"]["size"]} for row in rows]
    device = Device.open(tmp_path / "device", solved_bundle.path, solved_bundle.root, threads=1)
    device.add(*(Sample(**own, labels=known) for own, known in zip(inputs, labels, strict=True)), gates=False)
    device.train(settings=Settings(epochs=4, validation=0.5))
    colours = np.random.default_rng(4).integers(0, 256, (3, 40, 40, 3)).astype(np.uint8)
    strange = [Sample(picture=one, facts=rows[0]["facts"]) for one in colours]
    for answer in (one["size"] for one in device.predict_many(strange)):
        assert (UNLIKE in answer.reason, answer.sure) == (True, False)
    good = device.predict_many([Sample(**own) for own in inputs])
    assert sum(UNLIKE in answer["size"].reason for answer in good) <= 3
    device.close()
