"""Each subject's sums are kept under its key, are never stale, and leave without a trace."""

from __future__ import annotations

import contextlib
import datetime
import sqlite3
import tarfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from conftest import Attack
from faults.devices import make_sample, numbers, open_store, sums

from homeroom.contract.statistics import encoding
from homeroom.contract.statistics.encoding import encode
from homeroom.contract.statistics.sums import NOTHING, Statistics, merge
from homeroom.data.consent import Consent
from homeroom.data.samples import StoredSample
from homeroom.errors import UpdateError
from homeroom.store import Store, schema
from homeroom.store.master_keys import FolderKeys
from homeroom.store.migration import go_back, plan_migration
from homeroom.system import clock

PUPILS = ("p-0", "p-1", "p-2")


def fill(store: Store) -> list[str]:
    """Two samples of each pupil, and each pupil's sums; the samples' ids."""
    ids = store.add([make_sample(number, PUPILS[number % 3]) for number in range(6)])
    store.put_sums("lesson", [(pupil, sums(number)) for number, pupil in enumerate(PUPILS)])
    return ids


def held(store: Store) -> list[str]:
    return [subject for subject, _ in store.each_subjects_sums("lesson")]


def raw(home: Path) -> contextlib.closing[sqlite3.Connection]:
    return contextlib.closing(sqlite3.connect(home / "device" / "device.db", isolation_level=None))


def test_the_total_is_that_of_all_subjects_and_others_of_another_meaning_are_none(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        fill(store)
    with open_store(tmp_path) as store:
        assert dict(store.each_subjects_sums("lesson")) == {pupil: sums(n) for n, pupil in enumerate(PUPILS)}
        assert encode(store.own_total("lesson")) == encode(merge(map(sums, range(3))))
        assert (store.own_total("another lesson"), store.damage()) == (NOTHING, [])
        mark = store.sums_mark()
        assert store.put_sums("another lesson", [("p-1", sums(7)), ("nobody", sums(8))]) == sums(7)
        assert (held(store), store.own_total("another lesson")) == ([], sums(7))
        assert store.sums_mark() not in (mark, b"")


LEAVES: dict[str, Callable[[Store, list[str]], object]] = {
    "the pupil is forgotten": lambda store, ids: store.forget("p-1"),
    "a sample is removed": lambda store, ids: store.remove([ids[1]]),
    "a label is corrected on the page": lambda store, ids: store.relabel(ids[1], {"category": "plants"}),
    "a label is corrected by adding it again": lambda store, ids: store.add([_corrected()]),
    "a sample is quarantined": lambda store, ids: store.quarantine({ids[1]: "looks wrong"}),
    "consent is withdrawn": lambda store, ids: store.set_consent(
        Consent("withdrawn", "Ms Ray"), lambda sample: sample.sample_id == ids[1]
    ),
}


def _corrected() -> StoredSample:
    return msgspec.structs.replace(make_sample(1, "p-1"), labels={"category": "plants"})


@pytest.mark.parametrize("leaves", LEAVES.values(), ids=list(LEAVES))
def test_a_subjects_sums_go_at_once_where_a_sample_in_them_goes_and_the_others_equal_never_there(
    tmp_path: Path, leaves: Callable[[Store, list[str]], object]
) -> None:
    with open_store(tmp_path) as store:
        leaves(store, fill(store))
        assert encode(store.own_total("lesson")) == encode(merge([sums(0), sums(2)]))
    with open_store(tmp_path) as store:
        assert (held(store), store.damage(), store.edited) == (["p-0", "p-2"], [], "")


def test_sums_go_with_the_end_of_a_sample_and_stay_where_nothing_of_it_is_in_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def at(day: str) -> None:
        moment = datetime.datetime.fromisoformat(f"{day}T12:00:00+00:00")
        monkeypatch.setattr(clock, "now", lambda: moment)

    at("2026-03-01")
    with open_store(tmp_path) as store:
        ids = fill(store)
        store.add([make_sample(9, "p-2", retain_until="2026-06-30")])
        store.quarantine({ids[0]: "looks wrong"})
        store.put_sums("lesson", [(pupil, sums(number)) for number, pupil in enumerate(PUPILS)])
        store.release([ids[0]])
        store.set_consent(Consent("given", "Ms Ray"), lambda sample: True)
        assert held(store) == list(PUPILS)
    at("2026-07-01")
    with open_store(tmp_path) as store:
        assert (held(store), store.damage()) == (["p-0", "p-1"], [])


def test_damaged_sums_are_put_back_from_the_copy_or_listed_and_the_others_stay(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        fill(store)
    damage = "UPDATE statistics SET body = zeroblob(200) WHERE subject_id = 2"
    with raw(tmp_path) as database:
        database.execute(damage)
    with open_store(tmp_path) as store:
        assert (held(store), store.own_total("lesson")) == (list(PUPILS), merge(map(sums, range(3))))
        assert "statistics of subject 2 was found damaged and put back" in store.damage()[0]
    copy = tmp_path / "device" / "backup" / "device.db"
    with raw(tmp_path) as database, contextlib.closing(sqlite3.connect(copy, isolation_level=None)) as other:
        database.execute(damage)
        other.execute(damage)
    with open_store(tmp_path) as store:
        assert "p-1" not in held(store)
        assert any("statistics of subject 2 was damaged and is lost" in line for line in store.damage())


@pytest.mark.attack("files and bundles", "a thief of the disk puts sums back that were corrected since")
def test_older_sums_that_are_put_back_answer_nothing(tmp_path: Path, attack: Attack) -> None:
    with open_store(tmp_path) as store:
        ids = fill(store)
    with raw(tmp_path) as database:
        row = database.execute("SELECT * FROM statistics WHERE subject_id = 2").fetchone()
    with open_store(tmp_path) as store:
        store.relabel(ids[1], {"category": "plants"})
    with raw(tmp_path) as database:
        database.execute("INSERT INTO statistics VALUES (?, ?, ?)", row)
    with open_store(tmp_path) as store:
        attack.got = "p-1" in held(store)
        attack.noticed = store.damage()[-1]
        assert (held(store), store.edited) == ([], ""), "the next training computes them again"
        assert numbers(store) == [0, 2, 3, 4, 5, 1]


def test_sums_open_only_where_they_were_sealed(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        fill(store)
    with raw(tmp_path) as database:
        database.execute("UPDATE statistics SET sums_id = 'another lesson' WHERE subject_id = 1")
    with open_store(tmp_path) as store:
        assert store.own_total("another lesson") == NOTHING
        assert store.damage()


def test_sums_that_cannot_be_stored_leave_those_of_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_store(tmp_path) as store:
        fill(store)
        monkeypatch.setattr(encoding, "VALUES_LIMIT", 20)
        big = Statistics({cell: values for n in range(3) for cell, values in sums(n, f"task-{n}")})
        with pytest.raises(UpdateError, match="too large"):
            store.put_sums("lesson", [("p-0", sums(5)), ("p-1", big)])
        monkeypatch.undo()
        assert encode(store.own_total("lesson")) == encode(merge(map(sums, range(3))))


def test_a_store_of_version_5_goes_on_and_back(tmp_path: Path) -> None:
    with tarfile.open(Path(__file__).parents[2] / "data/schema-5/store.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    keys = FolderKeys(tmp_path / "keys")
    plan = plan_migration(tmp_path / "device", keys)
    assert (plan.present, plan.target, plan.samples) == (5, schema.SCHEMA_VERSION, 5)
    with open_store(tmp_path) as store:
        assert (numbers(store), store.damage(), store.edited) == ([0, 1, 2, 3, 4], [], "")
        assert store.own_total("lesson") == NOTHING
        store.put_sums("lesson", [("p-1", sums(1))])
    with open_store(tmp_path) as store:
        assert (held(store), store.damage(), store.edited) == (["p-1"], [], "")
    assert go_back(tmp_path / "device", keys).version == 5
    with raw(tmp_path) as database:
        assert database.execute("PRAGMA user_version").fetchone()[0] == 5
