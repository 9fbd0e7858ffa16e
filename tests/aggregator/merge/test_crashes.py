"""A hundred sudden deaths at seeded moments, inside a merge, a release, a commit: nothing is lost or counted twice.

Each death is a forked child that kills itself at one of the places where work is done, so it hits what a kill from
outside rarely hits. `test_kill.py` kills the whole server from outside.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from aggregator.institution import School, learn, make_folder, running
from homeroom import Device
from homeroom.federation import enrolment
from homeroom.federation import sync as exchange
from homeroom.system.sqlite import Database
from homeroom_aggregator.admin.folder import invite_devices, open_rounds
from homeroom_aggregator.merge import checkpoint, round_state, rounds, segment_sums
from homeroom_aggregator.server.service import open_service
from homeroom_aggregator.state import audit
from homeroom_aggregator.state.log import Log

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
DEATHS = 100
SCHOOLS = [School() for _ in range(3)]
PLACES: dict[str, tuple[Any, str]] = {
    "a statement": (Database, "write"),
    "a merge": (segment_sums, "add_weighted"),
    "a release": (rounds, "make_version"),
    "a version's row": (Log, "put_version"),
    "a checkpoint": (checkpoint, "pack"),
    "a commit": (Database, "transaction"),
    "the audit log": (audit, "record"),
}


def dying(original: Callable[..., Any], after_calls: int, late: bool) -> Callable[..., Any]:
    """The function, which kills the process at one of its calls, before or after its work."""
    left = [after_calls]

    def instead(*arguments: Any, **more: Any) -> Any:
        left[0] -= 1
        if left[0] == 0 and not late:
            os.kill(os.getpid(), signal.SIGKILL)
        found = original(*arguments, **more)
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    return instead


def work(folder: Path, seed: int, told: int) -> None:
    """Send updates until death; tell each id that was accepted."""
    chance = random.Random(seed)
    module, name = PLACES[chance.choice(list(PLACES))]
    setattr(module, name, dying(getattr(module, name), chance.randint(1, 12), chance.random() < 0.5))
    rounds.CHECKPOINT_ENTRIES = 3
    opened = open_rounds(folder, retain=4)
    for _ in range(6):
        school = chance.choice(SCHOOLS)
        if opened.log.sent_on(school.name, opened.state.version):
            school = School()
        data = school.update(opened.configuration, chance.uniform(-0.1, 0.1), opened.state.version)
        update_id, _ = opened.update(data, school.name)
        os.write(told, update_id.encode())
        if chance.random() < 0.1:
            opened.withdraw(update_id, school.name)


def die(folder: Path, seed: int) -> tuple[list[str], bool]:
    """One child's life: the ids that were accepted, and whether it was killed."""
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reads)
            work(folder, seed, writes)
        finally:
            os._exit(0)
    os.close(writes)
    with open(reads, "rb") as pipe:
        told = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    return [told[i : i + 32] for i in range(0, len(told) - 31, 32)], os.WIFSIGNALED(status)


@pytest.mark.slow
def test_nothing_accepted_is_lost_or_merged_twice_whenever_it_dies(tmp_path: Path) -> None:
    folder, accepted, killed = make_folder(tmp_path), list[str](), 0
    for seed in range(3 * DEATHS):
        if killed == DEATHS:
            break
        ids, died = die(folder, seed)
        accepted += ids
        killed += died
        if seed % 10 == 9:
            with closing(open_rounds(folder, retain=4)) as opened:
                rows = opened.log.database.rows("SELECT update_id FROM log WHERE kind = 'update'")
                logged = [row[0] for row in rows]
                assert set(accepted) <= set(logged)
                assert len(logged) == len(set(logged))
                assert opened.verify() == []
                assert opened.state.version == opened.log.newest()
                assert audit.verify(opened.log.database)[2] is None
                assert round_state.release_due(opened.state, opened.rules) is False
    assert killed == DEATHS
    assert len(accepted) > DEATHS


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
def test_a_death_in_the_evaluation_of_a_version_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    """Devices evaluate what they fetch: by then it is durable at the server, and the next sync evaluates it again."""
    (tmp_path / "keys").mkdir()
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    monkeypatch.setattr(
        "homeroom.inference.golden.choose_precision", lambda *_, **__: {}
    )  # these bundles hold no graphs
    folder = make_folder(tmp_path, buffer_size=1, min_devices=1)

    def sync(first: bool) -> int | None:
        with (
            closing(open_service(folder)) as service,
            running(service) as address,
            Device.open(tmp_path / "room", tmp_path / "bundle") as device,
        ):
            if first:
                (invitation,) = invite_devices(folder, address, 1)
                (tmp_path / "invitation.json").write_bytes(msgspec.json.encode(invitation))
                device.join(tmp_path / "invitation.json")
                learn(device, 0.5)
                monkeypatch.setattr(exchange, "clearly_worse", dying(exchange.clearly_worse, 1, late))
            enrolment.set_network(device.store, address=address, lan="off")
            return device.sync().version

    child = os.fork()
    if child == 0:
        try:
            sync(True)
        finally:
            os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    with closing(open_rounds(folder)) as rounds_:
        assert (rounds_.state.version, rounds_.log.count("update")) == (1, 1)
        assert rounds_.verify() == []
    assert sync(False) == 1
    with closing(open_rounds(folder)) as rounds_:
        assert (rounds_.state.version, rounds_.log.count("update")) == (1, 1)


def open_and_die(folder: Path, statement: int) -> None:
    """Open the rounds; kills the process at this of its SQL statements, counted from 1."""
    statements, connect = itertools.count(1), sqlite3.connect

    def kill(_: str) -> None:
        if next(statements) == statement:
            os.kill(os.getpid(), signal.SIGKILL)

    def traced(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*arguments, **options)
        connection.set_trace_callback(kill)
        return connection

    sqlite3.connect = traced  # type: ignore[assignment]
    open_rounds(folder)


def test_a_migration_may_die_anywhere(tmp_path: Path) -> None:
    """From the first layout: killed at each of its statements in turn, the next start finds the old or the new one."""
    from aggregator.state.test_log import LAYOUT_1

    folder = make_folder(tmp_path)
    with closing(open_rounds(folder)) as opened:
        for school in SCHOOLS:
            opened.update(school.update(opened.configuration, 0.1), school.name)
        before = checkpoint.pack(opened.state)
    with closing(sqlite3.connect(folder / "log.db", isolation_level=None)) as raw:
        raw.executescript(LAYOUT_1)
    deaths = 0
    for statement in itertools.count(1):
        child = os.fork()
        if child == 0:
            try:
                open_and_die(folder, statement)
            finally:
                os._exit(0)
        if not os.WIFSIGNALED(os.waitpid(child, 0)[1]):
            break
        deaths += 1
    assert deaths > 25
    with closing(open_rounds(folder)) as again:
        assert checkpoint.pack(again.state) == before
        assert again.verify() == []
