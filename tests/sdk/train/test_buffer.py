"""Many samples in little memory: what is learned is the same, pictures stay in the store, lost features come again."""

from __future__ import annotations

import io
import sqlite3
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from homeroom import Device, Sample
from homeroom.data.samples import InputReference, StoredSample, digest_of
from homeroom.device import local_samples
from homeroom.federation.versions import theta_of
from homeroom.train.features import spill
from homeroom.train.features.buffer import OBJECT_BYTES, ContentIndex, FeatureBuffer, LazyInputs
from homeroom.train.settings import Settings
from sdk import learning

FAST = Settings(epochs=2, patience=10)


@pytest.fixture(autouse=True)
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))


def opened(bundle: tiny.Tiny, folder: Path) -> Device:
    return Device.open(folder, bundle.path, bundle.root, threads=1)


def room_for(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_samples, "buffer_bytes", lambda samples: count)


@given(sizes=st.lists(st.integers(0, 60), max_size=20), room=st.none() | st.integers(0, 3000))
def test_a_buffer_gives_back_what_was_put_whatever_its_room(sizes: list[int], room: int | None) -> None:
    arrays = {number: np.full(size, number, np.int8) for number, size in enumerate(sizes)}
    recomputed: list[int] = []

    def recompute(numbers: set[int]) -> dict[int, np.ndarray]:
        recomputed.extend(numbers)
        return {number: arrays[number] for number in numbers}

    buffer = FeatureBuffer(room, recompute)
    for number, array in arrays.items():
        buffer.put(number, array)
    assert all(np.array_equal(buffer[number], array) for number, array in arrays.items())
    assert room is None or buffer.held_bytes <= room
    assert buffer.held_bytes == sum(
        array.nbytes + OBJECT_BYTES for key, array in arrays.items() if key not in recomputed
    )


GIVEN = st.none() | st.sampled_from(["", "a", "el gato", "\0", "b\0"])


@given(rows=st.lists(st.tuples(st.sampled_from(["classroom", "p-1", "p-2"]), GIVEN, GIVEN, GIVEN), max_size=12))
def test_contents_are_numbered_by_subject_modality_and_words(rows: list[tuple[str, Any, Any, Any]]) -> None:
    manifest = learning.opened()[0].manifest
    slots = [slot for slot in manifest.slots if slot.count == 1][:3]
    samples = [
        StoredSample(inputs={slot.name: [value] for slot, value in zip(slots, values, strict=True)}, subject=subject)
        for subject, *values in rows
    ]
    contents = ContentIndex(manifest, samples)
    inputs = [
        (row, slot, value) for row, (_, *values) in enumerate(rows) for slot, value in zip(slots, values, strict=True)
    ]
    numbers = {}
    for row, slot, value in inputs:
        key, buffer = (slot.name, 0), FeatureBuffer(None, lambda numbers: {n: np.array([n]) for n in numbers})
        assert (key in LazyInputs(buffer, contents, row)) == (value is not None)
        if value is not None:
            (number,) = LazyInputs(buffer, contents, row)[key]
            assert contents.key(number) == (rows[row][0], digest_of(value))
            assert (contents.source(number)[1], contents.modality(number)) == (value, slot.modality)
            numbers[rows[row][0], slot.modality, value] = number
    assert sorted(numbers.values()) == list(range(len(contents)))  # equal contents share a number, others do not


def test_what_is_known_of_many_inputs_is_some_bytes_each() -> None:
    samples = [StoredSample(inputs={"answer": [f"answer {n}"]}, subject=f"p-{n % 40}") for n in range(4000)]
    manifest = learning.opened()[0].manifest
    tracemalloc.start()
    try:
        contents = ContentIndex(manifest, samples)
        assert len(contents) == 4000
        assert tracemalloc.get_traced_memory()[0] < 4000 * (60 + 4 * len(contents.inputs))
    finally:
        tracemalloc.stop()


def learned(bundle: tiny.Tiny, folder: Path, *, lose_features: bool = False) -> np.ndarray:
    """What thirty samples teach; the cache of features may be lost after some steps."""
    with opened(bundle, folder) as device:
        device.add(*(Sample(**row) for row in tiny.samples(30, 0)))

        def lose(stage: str, done: int, total: int) -> None:
            if lose_features and stage == "training" and done == 3:
                device.store._context.cache.rebuild()

        device.train(settings=FAST, progress=lose)
        return theta_of(device.store, device.bundle, device.store.versions.current())


def test_without_room_for_features_the_same_is_learned(
    tiny_bundle: tiny.Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theta = learned(tiny_bundle, tmp_path / "roomy")
    room_for(2000, monkeypatch)
    assert np.array_equal(learned(tiny_bundle, tmp_path / "narrow"), theta)
    room_for(0, monkeypatch)
    monkeypatch.setattr(spill.Spill, "read", lambda self, numbers: {})  # a disk without room either
    assert np.array_equal(learned(tiny_bundle, tmp_path / "lossy", lose_features=True), theta)


def test_pictures_stay_in_the_store(tiny_bundle: tiny.Tiny, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def noise() -> bytes:
        out = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (300, 300, 3), np.uint8)).save(out, "PNG")
        return out.getvalue()

    pictures = [noise() for _ in range(30)]
    total = sum(map(len, pictures))
    with opened(tiny_bundle, tmp_path / "device") as device:
        for number, picture in enumerate(pictures):
            label = ("cat", "dog")[number % 2]
            device.add(Sample(picture=picture, labels={"category": label}, subject=f"p{number}"))
        del pictures
        tracemalloc.start()
        try:
            device.train(settings=FAST)
            assert tracemalloc.get_traced_memory()[1] < total / 3
        finally:
            tracemalloc.stop()


def test_what_is_to_be_computed_is_read_a_window_at_a_time_and_once_whoever_wrote_it(
    tiny_bundle: tiny.Tiny, tmp_path: Path
) -> None:
    def essay(number: int) -> str:
        return f"the cat sleeps {number} " + "x" * 18_000  # one word, so that tokens take no time

    rows = [
        Sample(word=essay(n // 2), labels={"category": ("cat", "dog")[n % 2]}, subject=f"p{n % 3}") for n in range(600)
    ]
    total = sum(len(row.inputs["word"]) for row in rows)
    with opened(tiny_bundle, tmp_path / "device") as device:
        device.add(*rows, gates=False)
        del rows
        reports: list[tuple[str, int]] = []
        tracemalloc.start()
        try:
            device.train(settings=FAST, progress=lambda stage, done, total: reports.append((stage, total)))
            assert tracemalloc.get_traced_memory()[1] < total / 3
        finally:
            tracemalloc.stop()
        assert ("text features", 300) in reports


def test_four_times_as_many_samples_take_some_hundred_bytes_more_each(
    tiny_bundle: tiny.Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room_for(20_000, monkeypatch)

    def peak(count: int) -> int:
        rows = [
            Sample(word=f"the cat {n % 200}", facts={"legs": n}, labels={"category": "cat"}, subject=f"p{n % 9}")
            for n in range(count)
        ]
        with opened(tiny_bundle, tmp_path / f"{count}") as device:
            device.add(*rows, gates=False)
            del rows
            device.train(settings=Settings(epochs=1))
            tracemalloc.start()
            try:
                device.train(settings=Settings(epochs=1))
                return tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()

    assert peak(800) - peak(200) < 600 * 1000


def test_a_picture_that_is_damaged_in_the_copy_too_is_left_out_of_the_training(
    tiny_bundle: tiny.Tiny, tmp_path: Path
) -> None:
    rows = [{**row, "picture": row.get("picture", row["pictures"][0])} for row in tiny.samples(24, 0)]
    with opened(tiny_bundle, tmp_path / "device") as device:
        lost, *_ = device.add(*(Sample(**row) for row in rows), gates=False)
        sample = device.store.sample(lost)
        assert sample is not None
        (picture,) = sample.inputs["picture"]
        assert isinstance(picture, InputReference)
        sql = "SELECT content FROM samples WHERE sample_id = ?"
        (content,) = device.store._context.database.one(sql, (lost,))
    for name in ("device.db", "backup/device.db"):
        raw = sqlite3.connect(tmp_path / "device" / name)
        raw.execute("UPDATE inputs SET body = zeroblob(99) WHERE content = ? AND place = ?", (content, picture.place))
        raw.commit()
        raw.close()
    with opened(tiny_bundle, tmp_path / "device") as device:
        report = device.train(settings=FAST)
        assert (report.samples, report.left_out, report.finished) == (23, 1, True)
        assert "lost" in device.store.damage()[-1]
        assert device.store.sample(lost) is None
        assert device.train(settings=FAST).left_out == 0
