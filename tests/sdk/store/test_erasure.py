"""`forget`, against an adversary who kept raw copies of the whole directory, and against power cuts in the middle."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from faults.devices import SECRET_WORD, features, make_sample, numbers, open_store, sums, theta

from homeroom.errors import BrokenSealError, DiskFullError, InputError, StoreError
from homeroom.store import Store, erasure
from homeroom.store.data_keys import DataKeys
from homeroom.store.encryption import Cipher
from homeroom.store.master_keys import KeyRing
from homeroom.system import sqlite


def fill(home: Path) -> None:
    """Samples of two subjects; versions, a state and updates that one of them, or both, entered."""
    with open_store(home) as store:
        store.add([make_sample(0, "gone"), make_sample(1, "stays"), make_sample(2, "gone")])
        store.write_features("v", {("gone", b"x"): features(0), ("stays", b"x"): features(0)})
        for number, subjects in enumerate((["stays"], ["gone", "stays"])):
            version_id = store.versions.put(theta(number), "local", number, {}, subjects)
            store.versions.set_current(version_id)
            store.versions.put_refit(version_id, theta(2 + number))
        store.versions.save_state(b"mixed", "tag", ["gone", "stays"])
        store.outbox.queue("a" * 32, b"sent one", 0, ["gone"])
        store.outbox.mark_sent("a" * 32)
        store.outbox.queue("b" * 32, b"begun one", 1, ["gone"])
        store.outbox.mark_sending("b" * 32)
        store.outbox.queue("c" * 32, b"unsent one", 2, ["gone", "stays"])
        store.outbox.queue("d" * 32, b"of another", 3, ["stays"])
        store.put_secret("identity.key", b"signing key")
        for family in ("residual.", "secure."):  # what an update could not carry; what a secure round keeps of it
            store.put_secret(family + "a" * 32, b"of gone")
            store.put_secret(family + "d" * 32, b"of stays")
        store.put_sums("s", [("gone", sums(0)), ("stays", sums(1))])


def test_what_grew_from_void_versions_goes_with_its_updates(tmp_path: Path) -> None:
    fill(tmp_path)
    with open_store(tmp_path) as store:
        store.outbox.queue("e" * 32, b"sent", 1, ["stays"], "other", residual=b"of e")
        store.outbox.mark_sent("e" * 32)
        store.put_profile("stays", {"start": store.versions.all()[1].version_id}, {"s": theta(0)}, ["stays"])
        with store.step("test"):
            report = store.drop_void(lambda version: version in (1, 2))
        assert (report.trainings, report.updates, report.profiles) == (1, 2, 1)
        assert [version.base for version in store.versions.all()] == [0]
        assert [update.data for update in store.outbox.pending()] == [b"of another"], "begun and unsent ones went"
        assert {"b" * 32, "e" * 32} < {*store.outbox.sent()}, "what may have arrived is not sent twice"
        assert store.get_secret("residual." + "e" * 32) is None
        assert store.get_secret("residual." + "d" * 32), "of version 3, which is not void"
        assert store.versions.load_state("tag") is None
        assert store.profile("stays") is None


def assert_forgotten(store: Store) -> None:
    assert store.subjects() == ["stays"]
    assert numbers(store) == [1]
    with pytest.raises(InputError, match="nothing is held"):
        store.export("gone")
    assert list(store.read_features("v", [("gone", b"x"), ("stays", b"x")])) == [("stays", b"x")]
    assert [version.base for version in store.versions.all()] == [0]
    present = store.versions.current()
    assert present is not None
    assert np.array_equal(store.versions.theta(present.version_id), theta(0))
    assert np.array_equal(store.versions.refit(present.version_id), theta(2))
    assert store._context.database.one("SELECT count(*) FROM refits") == (1,), "the other went with its version"
    assert store.versions.load_state("tag") is None
    assert [update.data for update in store.outbox.pending()] == [b"of another"]
    assert sorted(store.outbox.unlearning()) == ["a" * 32, "b" * 32]
    assert store.get_secret("identity.key") == b"signing key"
    assert list(store.each_subjects_sums("s")) == [("stays", sums(1))]
    for family in ("residual.", "secure."):
        assert store.get_secret(family + "a" * 32) is None, family
        assert store.get_secret(family + "d" * 32) == b"of stays", family
    assert store.damage() == []


def test_forget_removes_all_that_stems_from_a_subject_and_nothing_else(tmp_path: Path) -> None:
    fill(tmp_path)
    with open_store(tmp_path) as store:
        report = store.forget("gone")
        assert (report.samples, report.versions, report.unsent_updates) == (2, 1, 1)
        assert sorted(report.unlearning) == ["a" * 32, "b" * 32]
        assert_forgotten(store)
        assert not store.outbox.queue("e" * 32, b"again", 1, []), "a begun upload may have arrived: not counted twice"
    with open_store(tmp_path) as store:
        assert_forgotten(store)
        with pytest.raises(InputError):
            store.forget("gone")
        for update_id in store.outbox.unlearning():
            store.outbox.mark_unlearned(update_id)
        assert store.outbox.unlearning() == []


def test_a_subject_who_comes_back_is_a_new_one(tmp_path: Path) -> None:
    fill(tmp_path)
    with open_store(tmp_path) as store:
        old = store.samples("gone")[0].sample_id
        store.forget("gone")
        assert store.add([make_sample(0, "gone")]) != [old]
        assert len(store.export("gone").samples) == 1


@pytest.mark.attack("files and bundles", "a thief of the disk reads a forgotten pupil from old copies")
def test_no_copy_from_before_can_be_opened_again(tmp_path: Path) -> None:
    """Every mix of old and new files that an old backup could bring about."""
    fill(tmp_path)
    device, old = tmp_path / "device", tmp_path / "old"
    shutil.copytree(device, old)
    with open_store(tmp_path) as store:
        store.forget("gone")
    new = tmp_path / "new"
    shutil.copytree(device, new)
    for kept in ((), ("device.db",), ("backup",), ("cache.db",), ("device.db", "cache.db"), ("backup", "cache.db")):
        shutil.rmtree(device)
        shutil.copytree(old, device)
        for name in kept:
            part, there = new / name, device / name
            shutil.rmtree(there) if there.is_dir() else there.unlink()
            shutil.copytree(part, there) if part.is_dir() else shutil.copy(part, there)
        if "device.db" in kept or "backup" in kept:
            with open_store(tmp_path) as store:
                assert store.subjects() == ["stays"], kept
                assert numbers(store) == [1]
                assert list(store.read_features("v", [("gone", b"x")])) == []
        else:
            with pytest.raises(StoreError, match="has been destroyed"):
                open_store(tmp_path)


@pytest.mark.attack("files and bundles", "a thief of the disk reads a forgotten pupil from old copies")
def test_with_all_keys_of_today_an_old_copy_gives_nothing_away(tmp_path: Path) -> None:
    """The adversary holds the old directory, today's directory and today's ring, and tries every key on every value."""
    fill(tmp_path)
    shutil.copytree(tmp_path / "device", tmp_path / "old")
    with open_store(tmp_path) as store:
        old_master = store._context.key_ring.cipher(1)
        store.forget("gone")
        book = store._context.keys
        keys = [book.device, book._index, book._master, *(subject.cipher for subject in book.all())]
        stays = book.find("stays")
        index_today = book.index("gone")
    ring_file = next((tmp_path / "keys").iterdir())
    ring = msgspec.json.decode(ring_file.read_bytes(), type=KeyRing)
    keys += [Cipher(bytes.fromhex(key)) for key in ring.keys.values()]
    assert stays is not None
    for path in (
        tmp_path / "old" / "device.db",
        tmp_path / "old" / "backup" / "device.db",
        tmp_path / "old" / "cache.db",
    ):
        raw = sqlite3.connect(path)
        opened = [place for place, value in sealed_values(raw) if any(opens(key, value, place) for key in keys)]
        others = [place for place, value in sealed_values(raw) if old_master and opens(old_master, value, place)]
        raw.close()
        by_subject = ("samples.", "inputs.", "subjects.name", "statistics.", "features")
        assert all(str(place[0]).startswith(by_subject) for place in opened)
        assert len(opened) == len([place for place in opened if not opens_for_gone(path, place)])
        assert len(others) == (0 if path.name == "cache.db" else 4), "the old master key would have opened it"
    assert index_today not in (tmp_path / "old" / "device.db").read_bytes(), "not even who was there can be confirmed"


def sealed_values(raw: sqlite3.Connection) -> list[tuple[tuple[str | int, ...], bytes]]:
    """Every sealed value of a database with the place it was sealed for."""
    found: list[tuple[tuple[str | int, ...], bytes]] = []
    tables = {row[0] for row in raw.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if "features" in tables:
        return [(("features", name.hex()), body) for name, body in raw.execute("SELECT name, body FROM features")]
    for generation, device_key, index_key in raw.execute("SELECT generation, device_key, index_key FROM store"):
        found += [(("store.device_key", generation), device_key), (("store.index_key", generation), index_key)]
        for index, key, name in raw.execute("SELECT name_index, data_key, name FROM subjects"):
            found += [(("subjects.data_key", index.hex(), generation), key), (("subjects.name",), name)]
    for table, key, columns in (
        ("versions", "version_id", ("facts", "theta")),
        ("updates", "update_id", ("data",)),
    ):
        for column in columns:
            sql = f"SELECT {key}, {column} FROM {table} WHERE {column} IS NOT NULL"
            found += [((f"{table}.{column}", name), value) for name, value in raw.execute(sql)]
    for name, content, facts in raw.execute("SELECT sample_id, content, facts FROM samples"):
        found.append((("samples.facts", name, content), facts))
    inputs = raw.execute("SELECT content || '/' || place, body FROM inputs")
    found += [(("inputs.body", name), body) for name, body in inputs]
    rows = raw.execute("SELECT subject_id, sums_id, body FROM statistics")
    found += [(("statistics.body", owner, sums_id), body) for owner, sums_id, body in rows]
    found += [(("secrets", name), body) for name, body in raw.execute("SELECT name, body FROM secrets")]
    return found


def opens(key: Cipher, value: bytes, place: tuple[str | int, ...]) -> bool:
    return key.holds(value, *place)


def opens_for_gone(path: Path, place: tuple[str | int, ...]) -> bool:
    """Whether a value in an old database belongs to the subject that was forgotten (its rows came first)."""
    if place[0] == "statistics.body":
        return place[1] == 1
    if place[0] not in ("samples.facts", "inputs.body"):
        return False
    content = int(str(place[-1]).partition("/")[0])
    raw = sqlite3.connect(path)
    owner = raw.execute("SELECT subject_id FROM samples WHERE content = ?", (content,)).fetchone()[0]
    raw.close()
    return bool(owner == 1)


@pytest.mark.attack("files and bundles", "a thief of the disk reads a forgotten pupil from old copies")
def test_the_files_hold_no_bytes_of_the_forgotten_rows(tmp_path: Path) -> None:
    fill(tmp_path)
    raw = sqlite3.connect(tmp_path / "device" / "device.db")
    sql = "SELECT body FROM inputs JOIN samples USING (content) WHERE subject_id = 1"
    bodies = [row[0][:64] for row in raw.execute(sql)]
    bodies += [row[0] for row in raw.execute("SELECT data_key FROM subjects")]
    bodies += [row[0][:64] for row in raw.execute("SELECT body FROM statistics WHERE subject_id = 1")]
    raw.close()
    with open_store(tmp_path) as store:
        store.forget("gone")
        for path in (tmp_path / "device").rglob("*"):
            if path.is_file():
                assert [body for body in bodies if body in path.read_bytes()] == [], path


class NoRoom:
    """A connection to a database on a disk without room for a second copy of it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
        if sql == "VACUUM":
            problem = sqlite3.OperationalError("database or disk is full")
            problem.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise problem
        return self.connection.execute(sql, *arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.connection, name)


@pytest.mark.attack("files and bundles", "a thief of the disk reads a forgotten pupil from old copies")
def test_a_disk_without_room_to_rewrite_the_file_holds_no_bytes_of_the_forgotten_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a SQLite that keeps deleted rows unless it is told otherwise, as most of them do."""

    def keeps_rows(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*arguments, **options)
        connection.execute("PRAGMA secure_delete = OFF")
        return connection

    connect = sqlite.connect
    monkeypatch.setattr(sqlite, "connect", keeps_rows)
    fill(tmp_path)
    with open_store(tmp_path) as store:
        database = store._context.database
        sql = "SELECT body FROM inputs JOIN samples USING (content) WHERE subject_id = 1"
        bodies = [row[0][-64:] for row in database.rows(sql)]
        assert len(bodies) > 1
        database.connection = NoRoom(database.connection)  # type: ignore[assignment]
        store.forget("gone")
        database.empty_log()
        assert [body for body in bodies if body in database.path.read_bytes()] == []


STAGES = ("remove_and_rotate", "finish_rotation")


@pytest.mark.parametrize("stage", STAGES)
def test_a_forget_that_was_cut_short_is_finished_at_the_next_opening(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    fill(tmp_path)
    shutil.copytree(tmp_path / "device", tmp_path / "old")

    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, open_store(tmp_path) as store:
        patch.setattr(erasure, stage, cut)
        with pytest.raises(KeyboardInterrupt):
            store.forget("gone")
    with open_store(tmp_path) as store:
        assert_forgotten(store)
        assert len(store._context.key_ring.keys) == 1
    shutil.rmtree(tmp_path / "device")
    shutil.copytree(tmp_path / "old", tmp_path / "device")
    with pytest.raises(StoreError, match="has been destroyed"):
        open_store(tmp_path)


def test_a_forget_on_a_full_disk_changes_nothing_and_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path)

    def rotate_on_a_full_disk(book: DataKeys, ring: KeyRing) -> None:
        rotate(book, ring)
        raise DiskFullError("no space left; nothing was changed")

    rotate = DataKeys.rotate
    with open_store(tmp_path) as store:
        with monkeypatch.context() as patch:
            patch.setattr(DataKeys, "rotate", rotate_on_a_full_disk)
            with pytest.raises(DiskFullError):
                store.forget("gone")
        assert len(store._context.key_ring.keys) == 1
        assert numbers(store) == [0, 1, 2]
        store.add([make_sample(3, "stays")])
    with open_store(tmp_path) as store:
        assert numbers(store) == [0, 1, 2, 3]
        store.forget("gone")
        assert numbers(store) == [1, 3]


def test_a_damaged_value_does_not_stop_a_forget(tmp_path: Path) -> None:
    fill(tmp_path)
    raw = sqlite3.connect(tmp_path / "device" / "device.db")
    raw.execute("UPDATE versions SET theta = zeroblob(40) WHERE number = 1")
    raw.commit()
    raw.close()
    (tmp_path / "device" / "backup" / "device.db").unlink()
    with open_store(tmp_path) as store:
        assert [version.base for version in store.versions.all()] == [1]
        assert "is lost" in store.damage()[-1]
        store.forget("gone")
        assert store.versions.all() == []
        assert store.subjects() == ["stays"]


def test_a_sealed_value_of_one_subject_does_not_open_with_anothers_key(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.add([make_sample(0, "a"), make_sample(0, "b")])
        first, second = store._context.keys.find("a"), store._context.keys.find("b")
        sql = "SELECT sample_id, content, facts FROM samples ORDER BY number"
        sample_id, content, facts = store._context.database.one(sql)
        assert first is not None
        assert second is not None
        assert SECRET_WORD.encode() not in facts
        assert first.cipher.open(facts, "samples.facts", sample_id, content)
        with pytest.raises(BrokenSealError):
            second.cipher.open(facts, "samples.facts", sample_id, content)


def test_a_sample_to_remove_is_named_by_eight_digits_of_its_id_or_more(tmp_path: Path) -> None:
    """A shorter beginning could be another pupil's sample by chance."""
    with open_store(tmp_path) as store:
        first, _ = store.add([make_sample(0, "a"), make_sample(1, "b")])
        for wrong in (first[:7], "", first[:8] + "x", "%" * 8):
            with pytest.raises(InputError, match="is no id of a sample"):
                store.remove([wrong])
        with pytest.raises(InputError, match="no such sample"):
            store.remove(["0" * 64])
        assert store.remove([first[:8]]).samples == 1
        assert numbers(store) == [1]


@pytest.mark.parametrize("left", [b"", b"SQLite format 3\0"])
def test_an_emptied_database_is_put_back_from_its_copy_and_never_begun_anew(left: bytes, tmp_path: Path) -> None:
    fill(tmp_path)
    with open_store(tmp_path) as store:
        store.back_up()
    (tmp_path / "device" / "device.db").write_bytes(left)
    with open_store(tmp_path) as store:
        assert store.subjects() == ["gone", "stays"]
        assert store.damage() != [], "and it is said"
