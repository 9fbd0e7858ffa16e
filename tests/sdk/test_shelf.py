"""Many samples in little memory: what is learned is the same, pictures stay in the store, lost features come again."""

from __future__ import annotations

import io
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from homeroom import Device, Sample, planner
from homeroom.lineage import theta_of
from homeroom.shelf import Shelf
from homeroom.training import Settings

FAST = Settings(epochs=2, patience=10)


@pytest.fixture(autouse=True)
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))


def opened(bundle: tiny.Tiny, folder: Path) -> Device:
    return Device.open(folder, bundle.path, bundle.root, threads=1)


def room_for(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "free_room", lambda: count)


@given(sizes=st.lists(st.integers(0, 60), max_size=20), room=st.none() | st.integers(0, 300))
def test_a_shelf_gives_back_what_was_put_whatever_its_room(sizes: list[int], room: int | None) -> None:
    arrays = {number: np.full(size, number, np.int8) for number, size in enumerate(sizes)}
    asked: list[int] = []

    def again(key: int) -> np.ndarray:
        asked.append(key)
        return arrays[key]

    shelf = Shelf[int](room, again)
    for key, array in arrays.items():
        shelf.put(key, array, len(array))
    row = shelf.row({("slot", key): key for key in arrays})
    assert all(np.array_equal(row["slot", key], array) for key, array in arrays.items())
    assert [shelf.tokens(key) for key in arrays] == sizes
    assert room is None or shelf.held_bytes <= room
    assert shelf.held_bytes + sum(arrays[key].nbytes for key in asked) == sum(sizes)


def learned(bundle: tiny.Tiny, folder: Path, *, lose_features: bool = False) -> np.ndarray:
    """What thirty samples teach; the cache of features may be lost after some steps."""
    with opened(bundle, folder) as device:
        device.add(*(Sample(**row) for row in tiny.samples(30, 0)))

        def lose(stage: str, done: int, total: int) -> None:
            if lose_features and stage == "training" and done == 3:
                device.store._cache.rebuild()

        device.train(settings=FAST, progress=lose)
        return theta_of(device.store, device.bundle, device.store.current())


def test_without_room_for_features_the_same_is_learned(
    tiny_bundle: tiny.Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theta = learned(tiny_bundle, tmp_path / "roomy")
    room_for(2000, monkeypatch)
    assert np.array_equal(learned(tiny_bundle, tmp_path / "narrow"), theta)
    room_for(0, monkeypatch)
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
