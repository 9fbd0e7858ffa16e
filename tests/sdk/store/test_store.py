"""The device's store: what it keeps, what it refuses, and that nothing in its files can be read."""

from __future__ import annotations

import contextlib
import datetime
import shutil
import sqlite3
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from faults.devices import SECRET_WORD, features, make_sample, numbers, open_store, texts, theta

from homeroom.data.consent import Consent
from homeroom.data.samples import InputReference, StoredSample
from homeroom.errors import DiskFullError, InputError, StoreError
from homeroom.store import Store, migrations, schema
from homeroom.store.master_keys import KeyRing
from homeroom.store.retention_clock import RetentionClock, believe
from homeroom.system import clock


def test_samples_come_back_as_they_were_added(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        form = Consent("given", basis="form 3")
        ids = store.add([make_sample(0), make_sample(1, "p-18", consent=form, retain_until="2999-01-01")])
    with open_store(tmp_path) as store:
        first, second = store.samples()
        assert [first.sample_id, second.sample_id] == ids
        assert (second.subject, second.consent, second.retain_until) == ("p-18", form, "2999-01-01")
        assert first.inputs == make_sample(0).inputs
        assert [s.sample_id for s in store.samples("p-18")] == ids[1:]


def test_adding_the_same_again_doubles_nothing(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        ids = store.add([make_sample(0), make_sample(1)])
        assert store.add([make_sample(1), make_sample(0), make_sample(2)])[:2] == ids[::-1]
        assert numbers(store) == [0, 1, 2]
        assert store.add([make_sample(0, "p-18")]) != ids[:1]


def test_many_samples_are_held_one_at_a_time_and_kept_all_or_none(tmp_path: Path) -> None:
    def large(many: int, fails: bool = False) -> Iterator[StoredSample]:
        for number in range(many):
            picture = np.random.default_rng(number).bytes(200_000)
            yield msgspec.structs.replace(make_sample(number, f"new-{number}"), inputs={"picture": [picture]})
        if fails:
            raise InputError("row 81 is damaged")

    with open_store(tmp_path) as store:
        tracemalloc.start()
        with pytest.raises(InputError):
            store.add(large(80, fails=True))
        assert (store.count(), store.subjects()) == (0, [])
        ids = store.add(large(80))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(set(ids)) == store.count() == 80
        assert peak < 3e6  # of 16 MB


def test_those_are_chosen_by_what_is_said_about_them_and_read_one_at_a_time(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        poor = msgspec.structs.replace(make_sample(7, "p-1"), aside="too dark")
        ids = store.add([*(make_sample(number, f"p-{number % 2}") for number in range(6)), poor])
        asked: list[StoredSample] = []

        def chosen(one: StoredSample) -> bool:
            asked.append(one)
            return one.subject == "p-1" and not one.aside

        found = store.select(chosen)
        references = [value for one in asked for values in one.inputs.values() for value in values if value]
        assert {type(value) for value in references} == {InputReference}, "a choice needs no picture"
        assert [one.sample_id for one in found] == ids[1:6:2]
        read = [store.with_inputs(one) for one in found[1:]]
        assert [one and one.inputs for one in read] == [make_sample(number).inputs for number in (3, 5)]
        assert (len(found), found[-1].sample_id, list(found[3:])) == (3, ids[5], [])
        store.release(ids[6:])
        found = store.select(chosen)
        assert (found[3].sample_id, found[3].aside) == (ids[6], "")


def test_no_file_of_the_directory_shows_a_name_a_text_or_a_picture(tmp_path: Path) -> None:
    array = np.full((2, 50, 8), 7, np.int8)
    with open_store(tmp_path) as store:
        store.add([make_sample(0, "Grete Hermann", source="essay of May")])
        store.write_features("minilm", {("Grete Hermann", b"content digest"): array})
        store.versions.put(np.full(64, 1.5, np.float32), "local", 0, {"note": SECRET_WORD}, ["Grete Hermann"])
        store.put_secret("identity.key", b"the signing key")
        store.versions.save_state(b"the state of training", "tag", ["Grete Hermann"])
        store.outbox.queue("a" * 32, b"the signed update", 0, ["Grete Hermann"])
        hidden = ("Grete", SECRET_WORD, "animals", "essay", "content digest", "signing key", "state of training")
        needles = [word.encode() for word in (*hidden, "signed update")]
        needles += [array.tobytes()[:40], np.full(64, 1.5, np.float32).tobytes()[:40]]
        _assert_hidden(tmp_path / "device", needles)
    _assert_hidden(tmp_path / "device", needles)


def _assert_hidden(directory: Path, needles: list[bytes]) -> None:
    files = [path for path in directory.rglob("*") if path.is_file()]
    assert {"device.db", "cache.db", "device.json"} <= {path.name for path in files}
    for path in files:
        data = path.read_bytes()
        assert [needle for needle in needles if needle in data] == [], path


def test_two_rows_that_changed_places_are_noticed_and_put_back(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.add([make_sample(0), make_sample(1)])
        store.back_up()
    with sqlite3.connect(tmp_path / "device" / "device.db") as raw:
        rows = raw.execute("SELECT rowid, body FROM inputs WHERE place = 0 ORDER BY rowid").fetchall()
        (one, first), (two, second) = rows
        raw.executemany("UPDATE inputs SET body = ? WHERE rowid = ?", [(second, one), (first, two)])
    raw.close()
    with open_store(tmp_path) as store:
        assert numbers(store) == [0, 1]
        assert len(store.damage()) == 2
        assert all("put back from the copy" in line for line in store.damage())


def test_cached_features_belong_to_variant_subject_and_content(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.add([make_sample(0, "a"), make_sample(1, "b")])
        store.write_features("v1", {("a", b"x"): features(1), ("nobody", b"x"): features(2)})
    with open_store(tmp_path) as store:
        found = store.read_features("v1", [("a", b"x"), ("b", b"x"), ("a", b"y"), ("nobody", b"x")])
        assert list(found) == [("a", b"x")]
        assert np.array_equal(found["a", b"x"], features(1))
        assert store.read_features("v2", [("a", b"x")]) == {}


def test_versions_keep_their_theta_and_can_be_stepped_back(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.add([make_sample(0)])
        assert store.versions.current() is None
        ids = [store.versions.put(theta(n), "local", 0, {"n": n}, ["p-17"]) for n in range(2)]
        assert store.versions.current() is None
        for version_id in ids:
            store.versions.set_current(version_id)
    with open_store(tmp_path) as store:
        present = store.versions.current()
        assert present is not None
        assert present.facts == {"n": 1}
        assert store.versions.subjects(present) == ("p-17",)
        assert np.array_equal(store.versions.theta(present.version_id), theta(1))
        back = store.versions.step_back()
        assert back is not None
        assert back.version_id == ids[0]
        assert store.versions.step_back() is None


def test_old_versions_go_but_not_the_current_and_the_newest_global_one(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        kept = [store.versions.put(theta(0), "global", 5, {}), store.versions.put(theta(1), "local", 5, {})]
        store.versions.set_current(kept[1])
        newer = [store.versions.put(theta(n), "local", 5, {}) for n in range(20)]
        assert [v.version_id for v in store.versions.all()] == kept + newer[-8:]


def test_one_update_waits_for_each_base_and_a_begun_upload_is_not_replaced(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        assert store.outbox.queue("a" * 32, b"first", 0, [])
        assert store.outbox.queue("b" * 32, b"better", 0, [])
        assert [u.data for u in store.outbox.pending()] == [b"better"]
        store.outbox.mark_sending("b" * 32)
    with open_store(tmp_path) as store:
        assert not store.outbox.queue("c" * 32, b"best", 0, [])
        assert [u.update_id for u in store.outbox.pending()] == ["b" * 32]
        store.outbox.mark_sent("b" * 32)
        assert not store.outbox.queue("c" * 32, b"best", 0, [])
        assert store.outbox.queue("c" * 32, b"best", 1, [])
        assert store.outbox.sent() == ["b" * 32]


def test_a_step_is_all_or_nothing(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        with pytest.raises(StoreError):
            _fail_inside_a_step(store)
        assert (store.count(), store.versions.all(), store.subjects()) == (0, [], [])
        store.add([make_sample(0, "new")])
        assert store.count() == 1


def _fail_inside_a_step(store: Store) -> None:
    with store.step("train"):
        store.add([make_sample(0, "new")])
        store.versions.put(theta(0), "local", 0, {}, ["new"])
        raise StoreError("the rest went wrong")


def test_state_is_for_one_training_only(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.versions.save_state(b"step 7", "these samples", [])
    with open_store(tmp_path) as store:
        assert store.versions.load_state("these samples") == b"step 7"
        assert store.versions.load_state("others") is None
        store.versions.drop_state()
        assert store.versions.load_state("these samples") is None


def test_another_process_is_told_that_the_directory_is_in_use(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from homeroom.store import Store
from homeroom.errors import StoreError
try:
    Store.open(Path({str(tmp_path / "device")!r}))
except StoreError as problem:
    print(problem)
"""
    with open_store(tmp_path):
        said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        assert "in use by another process" in said
        with pytest.raises(StoreError, match="in use"):
            open_store(tmp_path)
    open_store(tmp_path).close()


def test_a_full_disk_changes_nothing(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.add([make_sample(0)])
        connection = store._context.database.connection
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages + 4}")
        with pytest.raises(DiskFullError, match="nothing was changed"):
            store.add([make_sample(n) for n in range(1, 50)])
        with pytest.raises(DiskFullError):
            store.versions.save_state(bytes(100_000), "tag", [])
        assert numbers(store) == [0]
        connection.execute("PRAGMA max_page_count = 1000000")
        store.add([make_sample(1)])
    with open_store(tmp_path) as store:
        assert numbers(store) == [0, 1]
        assert store.damage() == []


def test_a_directory_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "device").write_text("a file, not a directory")
    with pytest.raises(StoreError):
        open_store(tmp_path)


def test_without_its_key_a_copy_says_so_and_can_only_be_opened_anew(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.add([make_sample(0)])
    clone = tmp_path / "elsewhere"
    shutil.copytree(tmp_path / "device", clone / "device")
    with pytest.raises(StoreError, match="master key is not on this machine"):
        open_store(clone)
    with open_store(clone, anew=True) as store:
        assert store.count() == 0
        store.add([make_sample(1)])
    with open_store(clone) as store:
        assert numbers(store) == [1]
    with open_store(tmp_path, anew=True) as store:
        assert numbers(store) == [0], "`anew` leaves a readable store alone"


def test_a_clone_with_its_key_on_another_machine_loses_its_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store(tmp_path) as store:
        store.add([make_sample(0)])
        store.put_secret("identity.key", b"key")
        store.put_secret("bundle", b"id")
        store.outbox.queue("a" * 32, b"signed with the key", 0, [])
        assert not store.moved
    monkeypatch.setattr("homeroom.store.master_keys.machine_identity", lambda: "another machine")
    with open_store(tmp_path) as store:
        assert store.moved
        assert store.get_secret("identity.key") is None
        assert store.outbox.pending() == []
        assert store.get_secret("bundle") == b"id"
        assert numbers(store) == [0]
    with open_store(tmp_path) as store:
        assert not store.moved


def test_a_lost_device_json_is_written_again(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.add([make_sample(0)])
    for content in (None, b"", b"{"):
        path = tmp_path / "device" / "device.json"
        path.unlink() if content is None else path.write_bytes(content)
        with open_store(tmp_path) as store:
            assert numbers(store) == [0]


def test_a_store_of_a_newer_homeroom_is_left_alone(tmp_path: Path) -> None:
    open_store(tmp_path).close()
    path = tmp_path / "device" / "device.db"
    for written in (path, tmp_path / "device" / "backup" / "device.db"):
        raw = sqlite3.connect(written)
        raw.execute("PRAGMA user_version = 99")
        raw.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="update homeroom"):
        open_store(tmp_path)
    assert path.read_bytes() == before


def test_a_newer_store_whose_copy_is_of_before_is_not_replaced_by_it(tmp_path: Path) -> None:
    """A newer homeroom migrated it, and the power went before the copy was made."""
    with open_store(tmp_path) as store:
        store.add([make_sample(0)])
    path = tmp_path / "device" / "device.db"
    with contextlib.closing(sqlite3.connect(path)) as raw:
        raw.execute(f"PRAGMA user_version = {schema.SCHEMA_VERSION + 1}")
    before = path.read_bytes()
    with pytest.raises(StoreError, match="update homeroom"):
        open_store(tmp_path)
    assert path.read_bytes() == before
    with contextlib.closing(sqlite3.connect(path)) as raw:
        raw.execute("PRAGMA user_version = 1073741828")  # a flipped bit
    with open_store(tmp_path) as store:
        assert numbers(store) == [0]
        assert "claims to be of version" in store.damage()[0]


def test_an_older_store_is_copied_and_then_brought_up_to_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_store(tmp_path) as store:
        store.add([make_sample(0)])
    monkeypatch.setattr(schema, "SCHEMA_VERSION", schema.SCHEMA_VERSION + 1)
    monkeypatch.setattr(schema, "DEVICE", schema.DEVICE.replace("count INTEGER);", "count INTEGER, note TEXT);"))
    step = "ALTER TABLE audit ADD COLUMN note TEXT"
    monkeypatch.setitem(
        migrations.MIGRATIONS, schema.SCHEMA_VERSION - 1, lambda database, _: database.tables.execute(step)
    )
    with open_store(tmp_path) as store:
        assert numbers(store) == [0]
        assert store._context.database.one("PRAGMA user_version")[0] == schema.SCHEMA_VERSION
        assert "note" in [row[1] for row in store._context.database.rows("PRAGMA table_info(audit)")]


def test_samples_go_when_their_date_has_passed_and_old_copies_of_them_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _clock(monkeypatch, "2026-03-01")
    with open_store(tmp_path) as store:
        store.add(
            [make_sample(0, retain_until="2026-06-30"), make_sample(1), make_sample(2, "b", retain_until="2026-06-30")]
        )
        store.versions.put(theta(0), "local", 0, {}, ["p-17"])
        old = {subject.name: subject.cipher for subject in store._context.keys.all()}
    shutil.copytree(tmp_path / "device", tmp_path / "old")
    _clock(monkeypatch, "2026-07-01")
    with open_store(tmp_path) as store:
        assert texts(store) == [f"{SECRET_WORD} 1"]
        assert store.subjects() == ["p-17"]
        assert len(store.versions.all()) == 1
        assert store._context.keys.find("p-17").cipher.key != old["p-17"].key  # type: ignore[union-attr]
    shutil.rmtree(tmp_path / "device")
    shutil.move(tmp_path / "old", tmp_path / "device")
    with pytest.raises(StoreError, match="has been destroyed"):
        open_store(tmp_path)


def test_a_clock_that_jumps_years_destroys_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _clock(monkeypatch, "2026-03-01")
    with open_store(tmp_path) as store:
        store.add([make_sample(0, retain_until="2026-06-30")])
    for wrong in ("2099-01-01", "2099-01-03", "1970-01-01", "2026-03-02", "2099-01-05"):
        _clock(monkeypatch, wrong)
        with open_store(tmp_path) as store:
            assert numbers(store) == [0]
            assert (store.clock_warning() is not None) == (wrong > "2027")


def test_a_day_is_believed_when_it_is_near_or_has_stood_for_a_week() -> None:
    day = datetime.date.fromisoformat
    seen = believe(None, day("2026-03-01"))
    assert believe(seen, day("2026-05-01")) == RetentionClock(day("2026-05-01"))
    assert believe(seen, day("1970-01-01")) == seen
    doubting = believe(seen, day("2028-01-01"))
    assert doubting == RetentionClock(day("2026-03-01"), day("2028-01-01"))
    assert believe(doubting, day("2028-01-07")) == doubting
    assert believe(doubting, day("2028-01-08")) == RetentionClock(day("2028-01-08"))


def _clock(monkeypatch: pytest.MonkeyPatch, today: str) -> None:
    moment = datetime.datetime.fromisoformat(f"{today}T12:00:00+00:00")
    monkeypatch.setattr(clock, "now", lambda: moment)


def test_the_audit_log_names_no_one(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.add([make_sample(0, "Grete"), make_sample(1, "Emmy")])
        store.forget("Grete")
        assert [(e["event"], e["count"]) for e in store.audit()][-2:] == [("add", 2), ("forget", 1)]
        assert "Grete" not in str(store.audit())


def test_a_ring_never_shows_in_the_directory(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        ring: KeyRing = store._context.key_ring
    for path in (tmp_path / "device").rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert bytes.fromhex(ring.keys[1]) not in data
            assert ring.keys[1].encode() not in data
