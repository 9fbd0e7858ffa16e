"""Faults of disks, files and clocks, tried on the device's store; a part of `fault_injection.py`."""

from __future__ import annotations

import datetime
import itertools
import json
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from faults import test_full_disk, work_store
from faults.devices import features, make_sample, numbers, open_store, theta
from faults.disk import Loss, after_power_cut
from faults.recording import Mark, find_strace, record
from faults.test_damage import spoil
from faults.work_store import describe

from homeroom.errors import StoreError

SEED = 20261125
Trials = Iterator[tuple[int, Callable[[], object]]]


class LeftOutError(Exception):
    """What this system lacks to try a fault."""


# The power goes


def power_cuts(folder: Path, quick: bool) -> Trials:
    if find_strace() is None:
        raise LeftOutError("strace is neither installed nor to be had from apt-get")
    home = folder / "recorded" / "home"
    home.mkdir(parents=True)
    events = record(Path(work_store.__file__), home, folder / "strace.log")
    states = [json.loads(event.text) for event in events if isinstance(event, Mark)]
    assert len(states) == 13

    def cut(moment: int, loss: Loss) -> None:
        place = folder / "home"
        after_power_cut(events[:moment], loss, SEED + moment, home, place)
        try:
            told = sum(isinstance(event, Mark) for event in events[:moment])
            with open_store(place) as store:
                assert describe(store) in states[max(0, told - 1) : told + 1], f"{loss}, moment {moment}"
        finally:
            shutil.rmtree(place)

    for loss in ("nothing", "all", "some"):
        for moment in range(0, len(events) + 1, 60 if quick else 3):
            yield 1, lambda moment=moment, loss=loss: cut(moment, loss)


# Bits flip, sectors go, files are cut


def _sound(folder: Path) -> tuple[Path, dict[str, Any]]:
    """A closed device with everything that a store can hold, and what that is."""
    home = folder / "sound"
    with open_store(home) as store:
        store.add([make_sample(number, f"p-{number % 3}") for number in range(12)])
        for number in range(3):
            store.versions.set_current(store.versions.put(theta(number), "local", number, {}, ["p-0"]))
        store.outbox.queue("u" * 32, bytes(3000), 0, ["p-1"])
        store.versions.save_state(b"half way", "tag", ["p-2"])
        store.put_secret("identity.key", b"key")
        store.write_features("v", {(f"p-{n % 3}", bytes([n])): features(n) for n in range(12)})
        return home, describe(store)


def spoilt_stores(folder: Path, quick: bool) -> Trials:
    """In `device.db`: all that was there is there again, from the copy, and it stays so."""
    home, expected = _sound(folder)
    chance = random.Random(SEED)

    def attempt(kind: str) -> None:
        place = folder / "spoilt"
        shutil.copytree(home, place)
        try:
            spoil(place / "device" / "device.db", chance, kind)
            with open_store(place) as store:
                found = describe(store)
            assert found | {"damage": []} == expected, f"{kind}: {found['damage']}"
            with open_store(place) as store:
                assert describe(store) == found, "once repaired, it stays so"
        finally:
            shutil.rmtree(place)

    for _, kind in itertools.product(range(5 if quick else 100), ("bit", "sector", "cut")):
        yield 1, lambda kind=kind: attempt(kind)


def spoilt_checkpoints(folder: Path, quick: bool) -> Trials:
    """A bit of a half-done training, under its seal: put back from the copy; without one, said and begun anew."""
    home, expected = _sound(folder)
    chance = random.Random(SEED)

    def attempt(copy: bool) -> None:
        place = folder / "spoilt"
        shutil.copytree(home, place)
        try:
            flip_in_state(place / "device" / "device.db", chance)
            if not copy:
                flip_in_state(place / "device" / "backup" / "device.db", chance)
            with open_store(place) as store:
                found = describe(store)
            assert found["damage"], "not noticed"
            state = expected["state"] if copy else None
            edited = "" if copy else found["edited"]  # with the copy damaged too, it may be said as an edit
            assert found | {"damage": []} == expected | {"state": state, "edited": edited}
        finally:
            shutil.rmtree(place)

    for trial in range(4 if quick else 60):
        yield 1, lambda copy=trial % 2 == 0: attempt(copy)


def flip_in_state(database: Path, chance: random.Random) -> None:
    raw = sqlite3.connect(database)
    ((value,),) = raw.execute("SELECT body FROM secrets WHERE name = 'state'").fetchall()
    body = bytearray(value)
    body[chance.randrange(len(body))] ^= 1 << chance.randrange(8)
    raw.execute("UPDATE secrets SET body = ? WHERE name = 'state'", (bytes(body),))
    raw.commit()
    raw.close()


def spoilt_caches(folder: Path, quick: bool) -> Trials:
    """Damaged features are missing, never wrong, and can be written again; the store is as it was."""
    home, expected = _sound(folder)
    chance = random.Random(SEED)
    wanted = {(f"p-{n % 3}", bytes([n])): features(n) for n in range(12)}

    def attempt(kind: str) -> None:
        place = folder / "spoilt"
        shutil.copytree(home, place)
        try:
            spoil(place / "device" / "cache.db", chance, kind)
            with open_store(place) as store:
                found = store.read_features("v", wanted)
                assert all((array == wanted[key]).all() for key, array in found.items())
                store.write_features("v", wanted)
                again = store.read_features("v", wanted)
                assert {k: a.tobytes() for k, a in again.items()} == {k: a.tobytes() for k, a in wanted.items()}
                assert describe(store) == expected
        finally:
            shutil.rmtree(place)

    for _, kind in itertools.product(range(3 if quick else 50), ("bit", "sector", "cut")):
        yield 1, lambda kind=kind: attempt(kind)


# The disk is full, or may not be written


def full_disks(folder: Path, quick: bool) -> Trials:
    """Each step is refused at whichever of its writes the space ends, and then nothing has changed."""
    if (private := test_full_disk.own_file_system()) is None:
        raise LeftOutError("this system lets no user mount a file system of their own")
    for room in range(0, 400_000, 100_000 if quick else 8192):
        yield (
            1,
            lambda room=room: _held([*private, sys.executable, str(test_full_disk.WORK), "/mnt", "disk", str(room)]),
        )
    yield 1, lambda: _held([sys.executable, str(test_full_disk.WORK), str(folder / "limited"), "limit"])


def _held(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr.strip().splitlines()[-1:]
    assert "all held" in done.stdout


def read_only_disks(folder: Path, quick: bool) -> Trials:
    if test_full_disk.own_file_system() is None:
        raise LeftOutError("this system lets no user mount a file system of their own")
    for _ in range(1 if quick else 3):
        yield 1, test_full_disk.test_a_read_only_file_system_is_one_clear_error


# Copies, companions, clocks


def old_backups(folder: Path, quick: bool) -> Trials:
    """After `forget`, every mix of old and new files: refused, or the forgotten pupil is in none of it."""
    home = folder / "home"
    with open_store(home) as store:
        store.add([make_sample(0, "gone"), make_sample(1, "stays"), make_sample(2, "gone")])
        store.versions.put(theta(0), "local", 0, {}, ["gone"])
    shutil.copytree(home / "device", folder / "old")
    with open_store(home) as store:
        store.forget("gone")
    shutil.copytree(home / "device", folder / "new")

    def attempt(kept: tuple[str, ...]) -> None:
        shutil.rmtree(home / "device")
        shutil.copytree(folder / "old", home / "device")
        for name in kept:
            there, part = home / "device" / name, folder / "new" / name
            shutil.rmtree(there) if there.is_dir() else there.unlink(missing_ok=True)
            shutil.copytree(part, there) if part.is_dir() else shutil.copy(part, there)
        if "device.db" in kept or "backup" in kept:
            with open_store(home) as store:
                assert (store.subjects(), numbers(store), store.versions.all()) == (["stays"], [1], []), kept
        else:
            with pytest.raises(StoreError, match="has been destroyed"):
                open_store(home)

    names = ("device.db", "backup", "cache.db", "device.json")
    for size in range(len(names) + 1):
        for kept in itertools.combinations(names, size):
            yield 1, lambda kept=kept: attempt(kept)


RACE = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from faults.devices import make_sample, open_store
from homeroom.errors import StoreError
try:
    with open_store(Path(sys.argv[2])) as store:
        store.add([make_sample(int(sys.argv[3]))])
        print("added")
except StoreError as problem:
    assert problem.code == "in_use", problem
    print("refused")
"""


def two_processes(folder: Path, quick: bool) -> Trials:
    """Two at once on one directory: each adds its sample or is refused with a sentence; what was added is there."""
    home, added = folder / "home", list[int]()
    open_store(home).close()
    tests = str(Path(test_full_disk.__file__).parents[1])

    def attempt(first: int) -> None:
        both = [
            subprocess.Popen([sys.executable, "-c", RACE, tests, str(home), str(n)], stdout=-1, stderr=-1, text=True)
            for n in (first, first + 1)
        ]
        told = [process.communicate(timeout=120) for process in both]
        assert all(out in ("added\n", "refused\n") for out, _ in told), told[0][1] + told[1][1]
        added.extend(first + n for n, (out, _) in enumerate(told) if out == "added\n")
        with open_store(home) as store:
            assert sorted(numbers(store)) == sorted(added)
            assert store.damage() == []

    for trial in range(2 if quick else 20):
        yield 1, lambda trial=trial: attempt(2 * trial)


def clock_jumps(folder: Path, quick: bool) -> Trials:
    """Whatever day the system says for less than a week, no sample goes before its date; after its date it goes."""
    home, chance = folder / "home", random.Random(SEED)

    def on(day: datetime.date) -> Any:
        moment = datetime.datetime.combine(day, datetime.time(12), datetime.UTC)
        return mock.patch("homeroom.system.clock.now", return_value=moment)

    start = datetime.date(2026, 3, 1)
    with on(start), open_store(home) as store:
        store.add([make_sample(0, retain_until="2026-06-30"), make_sample(1)])

    def jump(day: datetime.date, held: list[int]) -> None:
        with on(day), open_store(home) as store:
            assert numbers(store) == held, day

    for year in [chance.choice((1970, 1980, 2000, 2038, 2070, 2093, 2106)) for _ in range(3 if quick else 30)]:
        yield 1, lambda year=year: jump(datetime.date(year, 1, 1), [0, 1])
        yield 1, lambda: jump(start + datetime.timedelta(days=1), [0, 1])
    yield 1, lambda: jump(datetime.date(2026, 7, 1), [1])


FAULTS = {
    "torn, lost and reordered writes when the power goes": ("the state before or after the step", power_cuts),
    "damaged bytes in the store": ("restored from its last good state, and said", spoilt_stores),
    "damaged bytes in a checkpoint of training": ("restored, or said and begun anew", spoilt_checkpoints),
    "damaged bytes in the cache": ("features are computed again", spoilt_caches),
    "a disk that is full at any write": ("refused in one sentence, nothing changed", full_disks),
    "a read-only disk": ("one sentence, and whole when it can be written again", read_only_disks),
    "an old backup after forget": ("forget is not undone", old_backups),
    "two processes on one directory": ("one is refused in one sentence", two_processes),
    "a clock that jumps by years": ("no sample goes early", clock_jumps),
}
