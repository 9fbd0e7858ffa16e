"""Damaged bytes are found, put back from the last good copy, and what was lost is listed."""

from __future__ import annotations

import contextlib
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from faults.devices import features, make_sample, open_store, texts, theta
from faults.work_store import describe
from homeroom.errors import StoreError
from homeroom.store import Store

SEED = 20261124
TRIALS = 120


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A device with samples, versions, an outbox, a state and features, closed; and what it holds."""
    home = tmp_path_factory.mktemp("sound")
    with open_store(home) as store:
        store.add([make_sample(number, f"p-{number % 3}") for number in range(24)])
        for number in range(3):
            store.versions.set_current(store.versions.put(theta(number), "local", number, {}, ["p-0"]))
        store.outbox.queue("u" * 32, bytes(3000), 0, ["p-1"])
        store.versions.save_state(b"half way", "tag", ["p-2"])
        store.put_secret("identity.key", b"key")
        store.write_features("v", {(f"p-{n % 3}", bytes([n])): features(n) for n in range(12)})
        return home, describe(store)


def spoil(path: Path, chance: random.Random, kind: str) -> None:
    """Flip a bit, wipe a sector, or cut the file, anywhere."""
    data = bytearray(path.read_bytes())
    at = chance.randrange(len(data))
    if kind == "bit":
        data[at] ^= 1 << chance.randrange(8)
    elif kind == "sector":
        start = at // 512 * 512
        data[start : start + 512] = chance.randbytes(512)
    else:
        del data[at:]
    path.write_bytes(data)


@pytest.mark.parametrize("kind", ["bit", "sector", "cut"])
def test_whatever_is_spoilt_in_device_db_everything_is_put_back(
    sound: tuple[Path, dict[str, Any]], tmp_path: Path, kind: str
) -> None:
    home, expected = sound
    chance, noticed = random.Random(SEED), 0
    print(f"seed {SEED}")
    for trial in range(TRIALS if kind == "bit" else TRIALS // 3):
        place = tmp_path / str(trial)
        shutil.copytree(home, place)
        spoil(place / "device" / "device.db", chance, kind)
        with open_store(place) as store:
            found = describe(store)
            noticed += bool(found["damage"])
            assert found | {"damage": []} == expected, f"trial {trial}: {found['damage']}"
        with open_store(place) as store:
            assert describe(store) == found, "once repaired, it stays so"
        shutil.rmtree(place)
    assert noticed > TRIALS // 8, "the others hit parts that hold nothing"


def test_what_the_copy_does_not_have_is_saved_or_listed(tmp_path: Path) -> None:
    """The copy is from before the last ten samples: those that can still be read stay, the others are listed."""
    old = tmp_path / "old"
    with open_store(old) as store:
        store.add([make_sample(number) for number in (0, 1)])
    stale = (old / "device" / "backup" / "device.db").read_bytes()
    with open_store(old) as store:
        store.add([make_sample(number) for number in range(2, 12)])
    chance, lost = random.Random(SEED), 0
    for trial in range(TRIALS):
        place = tmp_path / str(trial)
        shutil.copytree(old, place)
        (place / "device" / "backup" / "device.db").write_bytes(stale)
        spoil(place / "device" / "device.db", chance, "bit")
        with open_store(place) as store:
            held, damage = texts(store), store.damage()
        missing = [text for text in (make_sample(n).inputs["text"][0] for n in range(12)) if text not in held]
        assert len(held) == len(set(held))
        assert not missing or damage, f"trial {trial}: {missing} lost in silence"
        assert not missing or any("lost" in line or "could not be read" in line for line in damage), damage
        assert held[:2] == [make_sample(n).inputs["text"][0] for n in (0, 1)]
        lost += len(missing)
        shutil.rmtree(place)
    print(f"seed {SEED}: {lost} samples lost in {TRIALS} trials, each listed")


def test_spoilt_features_are_computed_again(sound: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    home, expected = sound
    chance, absent = random.Random(SEED), 0
    wanted = {(f"p-{n % 3}", bytes([n])): features(n) for n in range(12)}
    for trial in range(TRIALS // 2):
        place = tmp_path / str(trial)
        shutil.copytree(home, place)
        spoil(place / "device" / "cache.db", chance, ("bit", "sector", "cut")[trial % 3])
        with open_store(place) as store:
            found = store.read_features("v", wanted)
            assert all(np.array_equal(array, wanted[key]) for key, array in found.items())
            absent += len(found) < len(wanted)
            store.write_features("v", wanted)
            again = store.read_features("v", wanted)
            assert {key: array.tobytes() for key, array in again.items()} == {
                key: array.tobytes() for key, array in wanted.items()
            }
            assert describe(store) == expected
        shutil.rmtree(place)
    assert absent > TRIALS // 8


def test_a_spoilt_copy_does_no_harm_while_the_store_is_sound(
    sound: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    home, expected = sound
    chance = random.Random(SEED)
    for trial in range(TRIALS // 6):
        place = tmp_path / str(trial)
        shutil.copytree(home, place)
        spoil(place / "device" / "backup" / "device.db", chance, ("bit", "sector", "cut")[trial % 3])
        with open_store(place) as store:
            assert describe(store) == expected
            store.back_up()
        spoil(place / "device" / "device.db", chance, "bit")
        with open_store(place) as store:
            found = describe(store)
            lost = set(expected["samples"]) - set(found["samples"])
            # Of the copy's inputs only keys are compared, so one that is spoilt in both is lost: listed, and alone.
            assert len(lost) <= bool(found["damage"])
            same = ("samples", "subjects") if lost else ()
            assert found | {"damage": []} | {key: expected[key] for key in same} == expected


def test_when_both_are_spoilt_it_is_one_clear_error_or_what_is_left(
    sound: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    home, expected = sound
    chance = random.Random(SEED)
    for trial in range(TRIALS // 3):
        place = tmp_path / str(trial)
        shutil.copytree(home, place)
        for name in ("device.db", "backup/device.db"):
            spoil(place / "device" / name, chance, ("bit", "sector", "cut")[trial % 3])
        with contextlib.suppress(BothDamagedError), opened(place) as store:
            assert_listed(store, expected)


class BothDamagedError(Exception):
    pass


@contextlib.contextmanager
def opened(place: Path) -> Iterator[Store]:
    try:
        store = open_store(place)
    except StoreError as problem:
        if "both damaged" in str(problem):
            raise BothDamagedError from None
        raise
    with store:
        yield store


def assert_listed(store: Store, expected: dict[str, Any]) -> None:
    found = describe(store)
    assert set(found["samples"]) <= set(expected["samples"])
    assert found["damage"] or found == expected


@pytest.mark.parametrize("gone", [("device.db",), ("cache.db", "device.json"), ("device.db", "device.json")])
def test_a_file_that_is_gone_comes_back_from_the_copy(
    sound: tuple[Path, dict[str, Any]], tmp_path: Path, gone: tuple[str, ...]
) -> None:
    home, expected = sound
    shutil.copytree(home, tmp_path / "home")
    for name in gone:
        (tmp_path / "home" / "device" / name).unlink()
    with open_store(tmp_path / "home") as store:
        assert describe(store) | {"damage": []} == expected
        assert bool(store.damage()) == ("device.db" in gone)
