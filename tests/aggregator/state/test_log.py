"""The log over the years: older layouts, checkpoints, retention, backups, and one server at a time."""

from __future__ import annotations

import datetime
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.institution import School, make_folder
from homeroom.errors import DiskFullError, InputError, StoreError, UpdateError
from homeroom.system.sqlite import Database
from homeroom_aggregator.admin import backup
from homeroom_aggregator.admin.folder import open_rounds
from homeroom_aggregator.merge import checkpoint, rounds, withdrawals
from homeroom_aggregator.merge.replay import replay
from homeroom_aggregator.merge.rounds import Rounds
from homeroom_aggregator.state import schema

SCHOOLS = [School() for _ in range(3)]


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint after every second entry."""
    monkeypatch.setattr(rounds, "CHECKPOINT_ENTRIES", 2)


def free(opened: Rounds, school: School, base: int) -> tuple[School, int]:
    """A device and a base on which it has sent nothing yet: those given, else the newest version, else a new device."""
    for one, version in ((school, base), (school, opened.state.version)):
        if opened.log.sent_on(one.name, version) is None:
            return one, version
    return School(), base


def send(opened: Rounds, count: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    ids = []
    for number in range(count):
        late = max(opened.log.last_restored(), opened.state.version - int(rng.integers(2)))
        school, base = free(opened, SCHOOLS[number % 3], late)
        data = school.update(opened.configuration, float(rng.normal()), base)
        ids.append(opened.update(data, school.name)[0])
    return ids


@pytest.fixture
def opened(tmp_path: Path, often: None) -> Iterator[Rounds]:
    with closing(open_rounds(make_folder(tmp_path))) as found:
        yield found


LAYOUT_1 = """
CREATE TABLE log_old (
    number INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL CHECK (kind IN ('update', 'withdraw', 'release')),
    update_id TEXT, device TEXT, version INTEGER NOT NULL, body BLOB NOT NULL
);
INSERT INTO log_old SELECT number, kind, update_id, device, version, COALESCE(body, x'')
    FROM log LEFT JOIN bodies USING (number);
DROP TABLE log; DROP TABLE bodies; DROP TABLE checkpoints;
CREATE TABLE devices_old (device TEXT PRIMARY KEY, code TEXT NOT NULL UNIQUE, revoked INTEGER NOT NULL DEFAULT 0);
INSERT INTO devices_old SELECT device, code, revoked FROM devices;
DROP TABLE devices; ALTER TABLE devices_old RENAME TO devices;
DROP TABLE invitations; DROP TABLE consents; DROP TABLE instances; DROP TABLE audit;
ALTER TABLE log_old RENAME TO log;
CREATE UNIQUE INDEX log_updates ON log (kind, update_id) WHERE kind != 'release';
PRAGMA user_version = 0;
"""


def test_a_log_of_the_first_layout_is_brought_up_to_date_after_a_copy(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    with closing(open_rounds(folder)) as first:
        gone = send(first, 5)[0]
        first.withdraw(gone, SCHOOLS[0].name)
        before = checkpoint.pack(first.state)
    with closing(sqlite3.connect(folder / "log.db", isolation_level=None)) as raw:
        raw.executescript(LAYOUT_1)
    with closing(open_rounds(folder)) as again:
        assert checkpoint.pack(again.state) == before
        assert again.verify() == []
        assert schema.layout_version(again.log.database) == schema.LAYOUT_VERSION
    with closing(sqlite3.connect(folder / "log.layout-1.db")) as copy:
        assert copy.execute("SELECT count(*) FROM log WHERE kind = 'update' AND length(body) > 0").fetchone() == (5,)


def test_a_migration_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_folder(tmp_path)
    open_rounds(folder).close()
    with closing(sqlite3.connect(folder / "log.db", isolation_level=None)) as raw:
        raw.executescript(LAYOUT_1)

    def broken(database: object) -> None:
        schema._to_2(database)  # type: ignore[arg-type]
        raise DiskFullError("no space left")

    with monkeypatch.context() as patched:
        patched.setitem(schema.MIGRATIONS, 1, broken)
        with pytest.raises(DiskFullError):
            open_rounds(folder)
    with closing(sqlite3.connect(folder / "log.db")) as raw:
        assert raw.execute("PRAGMA user_version").fetchone() == (0,)
    open_rounds(folder).close()


def test_a_log_of_a_newer_homeroom_is_left_alone(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    open_rounds(folder).close()
    with closing(sqlite3.connect(folder / "log.db", isolation_level=None)) as raw:
        raw.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreError, match="layout 99"):
        open_rounds(folder)


@settings(max_examples=25)
@given(st.lists(st.tuples(st.sampled_from("uuuuw"), st.integers(0, 99)), max_size=24), st.integers(1, 4), st.booleans())
def test_from_any_checkpoint_on_the_state_is_the_same_bit_for_bit(
    steps: list[tuple[str, int]], every: int, outside: bool
) -> None:
    """Whatever was sent and withdrawn: the log without any checkpoint gives the same, also by replays outside."""
    import tempfile

    with tempfile.TemporaryDirectory() as scratch, pytest.MonkeyPatch.context() as patched:
        patched.setattr(rounds, "CHECKPOINT_ENTRIES", every)
        patched.setattr(withdrawals, "REPLAYED_AT_ONCE", 0)
        with closing(open_rounds(make_folder(Path(scratch)))) as opened:
            sent: list[tuple[str, School]] = []
            opened.replays_outside = outside
            for kind, drawn in steps:
                if opened.stale and drawn % 4 == 0:
                    assert opened.adopt_replayed(opened.replayed(opened.log))
                if kind == "u" or not sent:
                    school, base = free(opened, SCHOOLS[drawn % 3], opened.state.version)
                    data = school.update(opened.configuration, drawn / 50 - 1, base)
                    sent.append((opened.update(data, school.name)[0], school))
                else:
                    update_id, school = sent[drawn % len(sent)]
                    opened.withdraw(update_id, school.name)
            gone = opened.log.all_withdrawn()
            plain = replay(opened.log.entries, opened.rules, without=gone)
            if opened.stale:
                assert opened.adopt_replayed(opened.replayed(opened.log))
            again = opened.replayed(opened.log).state
            if not outside:  # else the adopted state may have brought a release, after `plain`
                assert checkpoint.pack(again) == checkpoint.pack(plain)
            assert checkpoint.pack(again) == checkpoint.pack(opened.state)
            assert opened.verify() == []


def test_old_updates_go_and_what_is_kept_is_still_proved(tmp_path: Path, often: None) -> None:
    folder = make_folder(tmp_path)
    with closing(open_rounds(folder, retain=3)) as opened:
        ids = send(opened, 60)
        assert opened.log.base > 0
        kept = opened.log.database.one("SELECT count(*) FROM bodies")[0]
        assert kept < 40
        assert opened.version(opened.state.version - 3) is not None
        assert opened.version(1) is None
        assert opened.verify() == []
        assert not opened.withdraw(ids[0], SCHOOLS[0].name), "its bytes are gone"
        assert opened.log.withdrawn(ids[0])
        assert opened.withdraw(ids[-1], SCHOOLS[(len(ids) - 1) % 3].name)
        before = checkpoint.pack(opened.state)
        assert opened.update(SCHOOLS[0].update(opened.configuration, base=opened.state.version), SCHOOLS[0].name)
    with closing(open_rounds(folder, retain=3)) as again:
        assert again.log.sender(ids[0]) == SCHOOLS[0].name, "an id counts once, for ever"
        assert again.verify() == []
        assert checkpoint.pack(again.state) != before


def test_a_damaged_checkpoint_is_noticed(opened: Rounds, tmp_path: Path) -> None:
    send(opened, 6)
    newest = opened.log.checkpoints()[-1]
    body = bytearray(opened.log.checkpoint(newest))
    body[-1] ^= 1
    opened.log.put_checkpoint(newest, bytes(body))
    opened.close()
    with pytest.raises(StoreError, match="checkpoint"):
        open_rounds(tmp_path / "district")


def test_a_second_server_on_the_same_folder_is_refused(opened: Rounds, tmp_path: Path) -> None:
    send(opened, 1)
    with pytest.raises(StoreError, match="in use"):
        open_rounds(tmp_path / "district")
    send(opened, 2)
    assert opened.verify() == []


def test_a_backup_while_it_serves_is_the_aggregator_again(opened: Rounds, tmp_path: Path) -> None:
    send(opened, 7)
    saved = backup.backup(tmp_path / "district", tmp_path / "saved")
    assert saved.version == opened.state.version
    theta, waits = opened.state.theta.tobytes(), opened.state.pending
    send(opened, 4)
    backup.restore(tmp_path / "saved", tmp_path / "again")
    with closing(open_rounds(tmp_path / "again")) as restored:
        assert (restored.state.theta.tobytes(), restored.state.pending) == (theta, waits)
        assert restored.verify() == []
    with pytest.raises(InputError, match="already"):
        backup.restore(tmp_path / "saved", tmp_path / "again")


def test_after_a_restore_no_number_means_two_versions(
    opened: Rounds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(opened, 7)
    backup.backup(tmp_path / "district", tmp_path / "saved")
    send(opened, 4)
    lost, numbers = opened.state.version, list[int]()
    for second, name in enumerate(("first", "again")):
        moment = datetime.datetime(2026, 11, 25, 2, 54, second, tzinfo=datetime.UTC)
        monkeypatch.setattr(backup, "now", lambda moment=moment: moment)
        backup.restore(tmp_path / "saved", tmp_path / name)
        with closing(open_rounds(tmp_path / name, retain=2)) as restored:
            number = restored.state.version
            for base in (lost, 3):  # of a future that is lost, and of the past
                with pytest.raises(UpdateError, match="behind"):
                    restored.update(SCHOOLS[0].update(restored.configuration, base=base), SCHOOLS[0].name)
            send(restored, 9)
            assert restored.log.version(number) is not None or restored.log.base
            assert restored.verify() == []
            numbers += [number, restored.state.version]
        with closing(open_rounds(tmp_path / name)) as replayed:
            assert replayed.state.version == numbers[-1]
            assert replayed.verify() == []
    assert numbers[0] == 2026112502540000
    assert numbers == sorted(set(numbers)), "also where one backup is put back twice"


def test_a_restore_by_a_clock_that_went_back_is_refused(
    opened: Rounds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup.backup(tmp_path / "district", tmp_path / "saved")
    backup.restore(tmp_path / "saved", tmp_path / "again")
    backup.backup(tmp_path / "again", tmp_path / "later")
    monkeypatch.setattr(backup, "now", lambda: datetime.datetime(1970, 1, 2, tzinfo=datetime.UTC))
    with pytest.raises(StoreError, match="clock"):
        backup.restore(tmp_path / "later", tmp_path / "third")
    assert not (tmp_path / "third").exists()


def test_a_backup_does_not_go_into_what_it_copies(opened: Rounds) -> None:
    folder = opened.log.database.path.parent
    with pytest.raises(InputError, match="lies in the folder"):
        backup.backup(folder, folder / "saved")
    assert not (folder / "saved").exists()


def test_a_backup_is_not_served(opened: Rounds, tmp_path: Path) -> None:
    backup.backup(tmp_path / "district", tmp_path / "saved")
    with pytest.raises(InputError, match="is a backup"):
        open_rounds(tmp_path / "saved")


def test_a_backup_that_was_altered_is_not_restored(opened: Rounds, tmp_path: Path) -> None:
    send(opened, 3)
    backup.backup(tmp_path / "district", tmp_path / "saved")
    path = tmp_path / "saved" / "log.db"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreError, match=r"log\.db is not as it was saved"):
        backup.restore(tmp_path / "saved", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def interrupted(opened: Rounds, count: int) -> None:
    with opened.change():
        send(opened, count)
        raise ZeroDivisionError


def test_updates_that_share_a_step_share_its_end(opened: Rounds, monkeypatch: pytest.MonkeyPatch) -> None:
    send(opened, 1)
    before, entries = checkpoint.pack(opened.state), opened.log.last()
    with pytest.raises(ZeroDivisionError):
        interrupted(opened, 5)
    assert checkpoint.pack(opened.state) == before
    assert opened.log.last() == entries
    with opened.change():
        send(opened, 2)
        with pytest.raises(ZeroDivisionError):
            interrupted(opened, 1)
        send(opened, 1)
    assert opened.log.count("update") == 4
    assert opened.verify() == []


def test_two_processes_may_make_a_new_log_at_once(tmp_path: Path) -> None:
    def make(path: Path, database: Database, together: threading.Barrier) -> int:
        together.wait()
        schema.prepare(database, path)
        return schema.layout_version(database)

    for number in range(20):
        path, together = tmp_path / f"{number}.db", threading.Barrier(2)
        with (
            closing(Database(path, shared=True)) as one,
            closing(Database(path, shared=True)) as other,
            ThreadPoolExecutor(2) as both,
        ):
            found = [both.submit(make, path, database, together) for database in (one, other)]
            assert [made.result() for made in found] == [schema.LAYOUT_VERSION] * 2
