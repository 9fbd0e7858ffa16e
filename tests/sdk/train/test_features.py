"""Features from the frozen backbone: one per value, the same in any company, within the time given."""

import threading
from typing import Any

import numpy as np
import pytest
import tiny

from homeroom.contract.manifest import Modality
from homeroom.data.preprocess import Prepared
from homeroom.errors import InputError
from homeroom.runtime.graphs import Graphs
from homeroom.train.features import compute as features
from homeroom.train.features.compute import BATCH_MEDIA, compute
from sdk.learning import opened

TEXTS = ["cat", "the cat is small and the dog is big", "red bird", "", "air " * 100, "cat"]


def test_every_text_has_features_of_its_own_length() -> None:
    bundle, graphs = opened()
    facts = bundle.manifest.modality("text")
    arrays = dict(compute(bundle, graphs, "text", TEXTS))
    assert sorted(arrays) == list(range(len(TEXTS)))
    for array in arrays.values():
        assert array.dtype == np.int8
        assert array.shape[::2] == (len(facts.taps), facts.dim)
        assert 1 <= array.shape[1] <= max(facts.buckets)
    assert arrays[1].shape[1] > arrays[0].shape[1]
    assert np.array_equal(arrays[0], arrays[5])


@pytest.mark.parametrize("modality", ["text", "image", "audio", "table"])
def test_a_value_has_the_same_features_alone_and_in_company(modality: str) -> None:
    bundle, graphs = opened()
    slot = next(slot.name for slot in tiny.SLOTS if slot.modality == modality and slot.count == 1)
    values = [row[slot] for row in tiny.samples(20, seed=2) if row.get(slot) is not None][:10]
    together = dict(compute(bundle, graphs, modality, values))
    for number, value in enumerate(values):
        ((_, alone),) = compute(bundle, graphs, modality, [value])
        assert alone.shape == together[number].shape
        assert np.abs(alone.astype(int) - together[number]).max() <= 1  # one step of rounding


def test_a_stop_comes_before_the_next_batch() -> None:
    bundle, graphs = opened()
    assert list(compute(bundle, graphs, "text", TEXTS, stop=lambda: True)) == []
    done: list[int] = []
    for number, _ in compute(bundle, graphs, "text", TEXTS * 200, stop=lambda: len(done) > 50):
        done.append(number)
    assert 50 < len(done) < len(TEXTS) * 200


def test_progress_is_reported_and_the_backbone_released() -> None:
    bundle, _ = opened()
    graphs = Graphs(bundle, threads=1)
    reports: list[tuple[str, int, int]] = []
    list(compute(bundle, graphs, "text", TEXTS, progress=lambda *step: reports.append(step)))
    assert reports[-1] == ("text features", len(TEXTS), len(TEXTS))
    assert [done for _, done, _ in reports] == sorted(done for _, done, _ in reports)
    assert not graphs._loaded


def test_the_next_pictures_are_decoded_while_the_backbone_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, graphs = opened()
    pictures = [row["picture"] for row in tiny.samples(40, seed=4) if "picture" in row][: 3 * BATCH_MEDIA]
    backbone, begun, waited = graphs.features("image"), [threading.Event() for _ in pictures], []
    plain = features.prepare

    def prepare(facts: Modality, value: Any, file: Any) -> Prepared:
        begun[pictures.index(value)].set()
        return plain(facts, value, file)

    def run(feeds: Any) -> Any:
        following = BATCH_MEDIA * (len(waited) + 1)
        waited.append(following >= len(pictures) or begun[following].wait(60))
        return backbone(feeds)

    expected = dict(compute(bundle, graphs, "image", pictures))
    for event in begun:
        event.clear()
    monkeypatch.setattr(graphs, "features", lambda _: run)
    arrays = dict(compute(bundle, graphs, "image", pictures, prepare=prepare))
    assert waited == [True] * 3
    assert all(np.array_equal(arrays[number], expected[number]) for number in range(len(pictures)))


def test_a_picture_that_cannot_be_decoded_is_the_same_error_as_alone() -> None:
    bundle, graphs = opened()
    pictures = [row["picture"] for row in tiny.samples(20, seed=4) if "picture" in row][:10]
    with pytest.raises(InputError):
        list(compute(bundle, graphs, "image", [*pictures, b"no picture", *pictures]))
