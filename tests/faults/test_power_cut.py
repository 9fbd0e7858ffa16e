"""The power goes at any instant of a store's life: everything that was said to be done is there, nothing is doubled."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest

from faults.devices import make_sample, numbers, open_store
from faults.disk import Loss, after_power_cut
from faults.recording import Event, Mark, Sync, SyncDirectory, find_strace, record
from faults.work_store import describe
from homeroom.errors import StoreError

SEED = 20261123
EVERY: dict[Loss, int] = {"nothing": 10, "all": 4, "some": 4}  # every how many events the power goes

pytestmark = pytest.mark.skipif(find_strace() is None, reason="strace is neither installed nor to be had from apt-get")


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Event]]:
    home = tmp_path_factory.mktemp("recorded") / "home"
    home.mkdir()
    return home, record(Path(__file__).with_name("work_store.py"), home, home.parent / "strace.log")


@pytest.mark.slow
@pytest.mark.parametrize("loss", list(EVERY))
def test_after_a_power_cut_the_store_is_as_it_was_before_or_after_the_step(
    recording: tuple[Path, list[Event]], tmp_path: Path, loss: Loss
) -> None:
    home, events = recording
    states = [json.loads(event.text) for event in events if isinstance(event, Mark)]
    assert len(states) == 13
    chance = random.Random(SEED)
    moments = [n for n in range(len(events) + 1) if n == len(events) or chance.randrange(EVERY[loss]) == 0]
    print(f"seed {SEED}: {len(moments)} of {len(events)} moments, {loss} of what was not synced is lost")
    for moment in moments:
        place = tmp_path / "home"
        after_power_cut(events[:moment], loss, SEED + moment, home, place)
        told = sum(isinstance(event, Mark) for event in events[:moment])
        with open_store(place) as store:
            found = describe(store)
            allowed = states[max(0, told - 1) : told + 1]
            assert found in allowed, f"moment {moment}, after {told} steps"
            store.add([make_sample(99, "later")])
        with open_store(place) as store:
            assert numbers(store) == [*found["samples"], 99]
        shutil.rmtree(place)


@pytest.mark.parametrize("kind", [Sync, SyncDirectory])
def test_the_replay_would_find_a_store_that_forgets_to_sync(
    recording: tuple[Path, list[Event]], tmp_path: Path, kind: type[Event]
) -> None:
    """An adversary for the harness itself: with the recorded syncs taken away, promises must be seen to break."""
    home, events = recording
    states = [json.loads(event.text) for event in events if isinstance(event, Mark)]
    broken = 0
    for told in range(2, len(states)):
        moment = [n for n, event in enumerate(events) if isinstance(event, Mark)][told - 1] + 1
        place = tmp_path / str(told)
        after_power_cut([e for e in events[:moment] if not isinstance(e, kind)], "all", SEED, home, place)
        try:
            with open_store(place) as store:
                broken += describe(store) not in states[told - 1 : told + 1]
        except StoreError:
            broken += 1
    assert broken > len(states) // 2
