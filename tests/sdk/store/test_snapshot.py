"""A store that is read while another connection owns it: one state, quickly, nothing written, nothing erased kept."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Attack
from faults.devices import SECRET_WORD, make_sample, open_store, theta

from homeroom.errors import Code, StoreError
from homeroom.store import Store, clone_detection, schema
from homeroom.store.device_state import text_record
from homeroom.store.master_keys import FolderKeys

IDENTITY = text_record("identity.key")
BESIDE = pytest.mark.attack("files and bundles", "bytes of a forgotten pupil in the log while somebody reads the store")


@contextlib.contextmanager
def snapshot(home: Path) -> Iterator[Store]:
    with Store.snapshot(home / "device", FolderKeys(home / "keys")) as store:
        yield store


def sealed_bodies(store: Store, subject: str) -> list[bytes]:
    """The ends of a subject's sealed inputs, as they stand in the file."""
    known = store._context.keys.find(subject)
    assert known is not None
    sql = "SELECT body FROM inputs JOIN samples USING (content) WHERE subject_id = ?"
    return [row[0][-64:] for row in store._context.database.rows(sql, (known.subject_id,))]


def on_disk(home: Path, needles: list[bytes]) -> int:
    texts = [path.read_bytes() for path in (home / "device").rglob("*") if path.is_file()]
    return sum(needle in text for needle in needles for text in texts)


def test_a_snapshot_is_of_one_moment_and_the_next_of_the_next(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.add([make_sample(0)])
        with snapshot(tmp_path) as seen:
            store.add([make_sample(1)])
            assert (seen.count(), seen.subjects()) == (1, ["p-17"])
        with snapshot(tmp_path) as seen:
            assert seen.count() == 2
            assert [sample.inputs["text"] for sample in seen.samples()] == [[f"{SECRET_WORD} {n}"] for n in (0, 1)]
    with snapshot(tmp_path) as seen:
        assert seen.count() == 2, "of a closed store too"


def test_a_snapshot_writes_nothing(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.add([make_sample(0)])
        files = (tmp_path / "device" / "device.db", *(tmp_path / "keys").glob("*.json"))
        before = [path.read_bytes() for path in files]
        with snapshot(tmp_path) as seen:
            with pytest.raises(StoreError):
                seen.add([make_sample(1)])
            with pytest.raises(StoreError):
                IDENTITY.write(seen, "x")
            with pytest.raises(StoreError, match="is only read here"):
                seen.forget("p-17")
        assert [path.read_bytes() for path in files] == before
        assert store.count() == 1


@BESIDE
def test_a_forget_leaves_nothing_in_the_log_while_others_read(tmp_path: Path, attack: Attack) -> None:
    ended, problems = threading.Event(), list[BaseException]()

    def read() -> None:
        try:
            while not ended.is_set():
                with snapshot(tmp_path) as seen:
                    assert seen.versions.current() is None or seen.versions.current() is not None
                    seen.subjects()
        except BaseException as problem:
            problems.append(problem)

    with open_store(tmp_path) as store:
        readers = [threading.Thread(target=read) for _ in range(2)]
        for reader in readers:
            reader.start()
        try:
            for number in range(3):
                store.add([make_sample(number, "gone"), make_sample(number, "stays")])
                bodies = sealed_bodies(store, "gone")
                assert on_disk(tmp_path, bodies) > 0
                store.forget("gone")
                attack.got += on_disk(tmp_path, bodies)
        finally:
            ended.set()
            for reader in readers:
                reader.join()
    assert problems == [], "no reader meets a key that was replaced meanwhile"
    attack.noticed = "nothing"


@BESIDE
def test_a_reader_that_was_stopped_keeps_sealed_bytes_whose_key_is_destroyed_until_it_ends(
    tmp_path: Path, attack: Attack
) -> None:
    with open_store(tmp_path) as store:
        store.add([make_sample(0, "gone"), make_sample(1, "stays")])
        bodies = sealed_bodies(store, "gone")
        shutil.copytree(tmp_path / "device", tmp_path / "copy")
        store._context.database.connection.execute("PRAGMA busy_timeout = 50")
        with contextlib.closing(sqlite3.connect(tmp_path / "device" / "device.db")) as stopped:
            stopped.execute("BEGIN")
            stopped.execute("SELECT count(*) FROM samples").fetchone()
            store.forget("gone")
            assert len(store._context.key_ring.keys) == 1, "the key of before is destroyed"
    attack.got = on_disk(tmp_path, bodies)
    with open_store(tmp_path) as store:
        assert store.subjects() == ["stays"]
    shutil.rmtree(tmp_path / "device")
    (tmp_path / "copy").rename(tmp_path / "device")
    with pytest.raises(StoreError, match="has been destroyed"), snapshot(tmp_path):
        pass


def test_reading_on_another_machine_takes_no_identity_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clone is detected by whoever opens it, and a reader sends nothing."""
    with open_store(tmp_path) as store:
        IDENTITY.write(store, "signing key")
    with monkeypatch.context() as patch:
        patch.setattr("homeroom.store.master_keys.machine_identity", lambda: "another machine")
        with snapshot(tmp_path) as seen:
            assert IDENTITY.read(seen) == "signing key"
    with open_store(tmp_path) as store:
        assert IDENTITY.read(store) == "signing key"
        assert not store.moved
    assert clone_detection.MACHINE.name == "machine"


def test_an_edit_without_the_key_is_seen_by_a_reader_and_still_by_the_next_opening(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.versions.set_current(store.versions.put(theta(0), "local", 0, {}))
        IDENTITY.write(store, "pinned")
    with contextlib.closing(sqlite3.connect(tmp_path / "device" / "device.db")) as raw:
        raw.execute("DELETE FROM secrets WHERE name = 'identity.key'")
        raw.commit()
    with snapshot(tmp_path) as seen:
        told = seen.edited
    assert "rows of secrets were removed or replaced" in told
    with open_store(tmp_path) as store:
        assert store.edited == told
        with snapshot(tmp_path) as seen:
            assert seen.edited == told


def test_an_older_copy_of_the_store_is_seen_by_a_reader(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        IDENTITY.write(store, "first")
    older = (tmp_path / "device" / "device.db").read_bytes()
    with open_store(tmp_path) as store:
        IDENTITY.write(store, "second")
    (tmp_path / "device" / "device.db").write_bytes(older)
    with snapshot(tmp_path) as seen:
        assert "an older copy" in seen.edited


def test_writing_meanwhile_is_no_edit(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        for number in range(5):
            with snapshot(tmp_path) as seen:
                assert seen.edited == ""
            store.add([make_sample(number)])
            with snapshot(tmp_path) as seen:
                store.add([make_sample(100 + number)])
                assert seen.edited == ""
    with snapshot(tmp_path) as seen:
        assert seen.edited == ""


def test_a_store_of_another_version_is_not_read(tmp_path: Path) -> None:
    open_store(tmp_path).close()
    for version, told in ((schema.SCHEMA_VERSION - 1, "open it: it is then migrated"), (99, "update homeroom")):
        with contextlib.closing(sqlite3.connect(tmp_path / "device" / "device.db")) as raw:
            raw.execute(f"PRAGMA user_version = {version}")
        with pytest.raises(StoreError, match=told), snapshot(tmp_path):
            pass


def test_without_shared_memory_a_store_works_and_is_not_read_meanwhile(tmp_path: Path) -> None:
    open_store(tmp_path).close()
    (tmp_path / "device" / "device.db-shm").mkdir()  # in place of a disk that has none
    with open_store(tmp_path) as store:
        store.add([make_sample(0)])
        (tmp_path / "device" / "device.db-shm").rmdir()
        with pytest.raises(StoreError, match="in use by this process") as refused, snapshot(tmp_path):
            pass
        assert refused.value.code == Code.IN_USE
    with snapshot(tmp_path) as seen:
        assert seen.count() == 1


def test_a_missing_key_is_said(tmp_path: Path) -> None:
    open_store(tmp_path).close()
    shutil.rmtree(tmp_path / "keys")
    with pytest.raises(StoreError, match="master key is not on this machine"), snapshot(tmp_path):
        pass
