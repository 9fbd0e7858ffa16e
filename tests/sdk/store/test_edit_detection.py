"""Edit detection: whoever has the disk but not the key ring removes, replaces and puts back nothing unnoticed."""

from __future__ import annotations

import contextlib
import random
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Attack
from faults.devices import forget_digests, make_sample, numbers, open_store, sums, theta

from homeroom.errors import EditedError, HomeroomError
from homeroom.store import Store
from homeroom.store.edit_detection import OLDER_STORE
from homeroom.store.profiles import put_profile
from homeroom.store.row_digests import ROWS

UPDATE = "u" * 32
EDITED = pytest.mark.attack("files and bundles", "a thief of the disk edits rows of the store without its key")
RESTORED = pytest.mark.attack("files and bundles", "a thief of the disk puts an older store back")


def fill(home: Path) -> None:
    """A store with a row in every table but damage, whose update waits."""
    with open_store(home) as store:
        store.add([make_sample(number, f"p-{number % 2}") for number in range(4)])
        store.put_secret("policy", b"strict")
        store.put_secret("privacy.ledger", b"[]")
        store.versions.set_current(store.versions.put(theta(0), "local", 0, {}, ["p-0"]))
        store.outbox.queue(UPDATE, b"signed", 1, ["p-0", "p-1"])
        store.outbox.queue("s" * 32, b"signed", 0, ["p-0"])
        store.outbox.mark_sending("s" * 32)
        store.outbox.mark_sent("s" * 32)
        store.add([make_sample(9, "gone")])
        put_profile(store._context, "p-1", {}, {"a" * 64: theta(1)}, ["p-1"])
        store.put_sums("s", [("p-0", sums(0)), ("p-1", sums(1))])


@contextlib.contextmanager
def raw(home: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(home / "device" / "device.db", isolation_level=None)) as connection:
        yield connection


def sends(home: Path) -> bool:
    """Whether the update that waits leaves, as `sync` sends it."""
    with open_store(home) as store:
        try:
            store.outbox.mark_sending(UPDATE)
        except EditedError:
            return False
        return True


EDITS = {
    "a policy is removed": "DELETE FROM secrets WHERE name = 'policy'",
    "a policy takes another's place": "UPDATE secrets SET body = zeroblob(40) WHERE name = 'policy'",
    "a ledger is removed": "DELETE FROM secrets WHERE name = 'privacy.ledger'",
    "a policy is removed with the digests": "DELETE FROM secrets WHERE name IN ('digests', 'policy')",
    "a subject's lineage is removed": "DELETE FROM lineage WHERE kind = 'update' AND subject_id = 1",
    "a lineage is given to somebody else": "UPDATE OR REPLACE lineage SET subject_id = 1 WHERE subject_id = 2",
    "a version is removed": "DELETE FROM versions",
    "a version gets another base": "UPDATE versions SET base = 7",
    "an update that was sent waits again": f"UPDATE updates SET state = 'pending' WHERE update_id = '{'s' * 32}'",
    "an update gets another base": f"UPDATE updates SET base = 5 WHERE update_id = '{UPDATE}'",
    "an unlearning request is made up": f"INSERT INTO unlearning VALUES ('{'s' * 32}', 'sent')",
}


@EDITED
@pytest.mark.parametrize("sql", EDITS.values(), ids=list(EDITS))
def test_an_edit_of_what_decides_over_sending_stops_it(tmp_path: Path, attack: Attack, sql: str) -> None:
    fill(tmp_path)
    copy = tmp_path / "device" / "backup" / "device.db"
    with raw(tmp_path) as database:
        database.execute(sql)
    with contextlib.closing(sqlite3.connect(copy, isolation_level=None)) as database:
        database.execute(sql)  # else what is only damaged is put back from there
    attack.got = sends(tmp_path)
    with open_store(tmp_path) as store:
        attack.noticed = store.edited
        assert store.edited, "until it is accepted"
        assert ("damaged" in store.edited) == ("zeroblob" in sql), "damage of store and copy is not told from an edit"
        with pytest.raises(EditedError, match="accept-restored"):
            store.check_unedited()
        assert store.accept_edits() == attack.noticed
        assert store.audit()[-1]["event"] == "accepted as it is"
    with open_store(tmp_path) as store:
        assert store.edited == ""
        store.check_unedited()


@EDITED
def test_rows_are_not_swapped_between_names_either(tmp_path: Path, attack: Attack) -> None:
    """An older value of a record, which opens under the device's key: the policy of last year."""
    with open_store(tmp_path) as store:
        store.put_secret("policy", b"lax")
    with raw(tmp_path) as database:
        (old,) = database.execute("SELECT body FROM secrets WHERE name = 'policy'").fetchone()
    fill(tmp_path)
    with raw(tmp_path) as database:
        database.execute("UPDATE secrets SET body = ? WHERE name = 'policy'", (old,))
    with open_store(tmp_path) as store:
        assert store.get_secret("policy") == b"lax", "it opens: the seal alone does not tell"
        attack.noticed = store.edited
    attack.got = sends(tmp_path)


@EDITED
@pytest.mark.parametrize("table", ["samples", "profiles", "segments", "statistics", "audit"])
def test_an_edit_of_another_row_is_listed(tmp_path: Path, attack: Attack, table: str) -> None:
    fill(tmp_path)
    with raw(tmp_path) as database:
        database.execute(f"DELETE FROM {table} WHERE rowid = (SELECT max(rowid) FROM {table})")
    with open_store(tmp_path) as store:
        attack.noticed = store.damage()[-1]
        attack.got = table not in attack.noticed
        assert store.edited == ""
    assert sends(tmp_path)
    with open_store(tmp_path) as store:
        assert len(store.damage()) == 1, "once"


@RESTORED
@pytest.mark.parametrize("when", ["closed", "open"])
def test_an_older_store_is_noticed_whatever_is_put_back(tmp_path: Path, attack: Attack, when: str) -> None:
    """The whole directory, or device.db alone, of the session before the last."""
    fill(tmp_path)
    shutil.copytree(tmp_path / "device", tmp_path / "old")
    store = open_store(tmp_path)
    store.put_secret("policy", b"stricter")
    if when == "closed":
        store.close()
    else:
        kill(store)
    for whole in (False, True):
        home = tmp_path / f"{whole}"
        shutil.copytree(tmp_path / "keys", home / "keys")
        shutil.copytree(tmp_path / ("old" if whole else "device"), home / "device")
        for name in ("device.db-wal", "device.db-shm"):
            (home / "device" / name).unlink(missing_ok=True)
        shutil.copyfile(tmp_path / "old" / "device.db", home / "device" / "device.db")
        if when == "open" and not whole:
            continue  # the state from before the session is one that a power cut leaves
        with open_store(home) as store:
            attack.noticed = store.edited
        attack.got += when == "closed" and sends(home)


def kill(store: Store) -> None:
    """Ends a store as a power cut does: nothing more is written."""
    store._context.cache.close()
    store._context.database.close()
    store._context.lock.close()


def test_a_power_cut_at_any_write_is_no_alarm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key ring and the database are written in turns: each write may be the last one."""
    fill(tmp_path)
    steps = count = 0

    class PowerCutError(BaseException):
        pass

    from homeroom.system import files

    replace = files.replace_durable

    def cut(*paths: Path) -> None:
        nonlocal count
        count += 1
        if count == steps:
            raise PowerCutError
        replace(*paths)
        if count == steps + 0.5:
            raise PowerCutError

    monkeypatch.setattr(files, "replace_durable", cut)
    for half in range(2, 20):
        steps, count = half / 2 if half % 2 == 0 else (half - 1) / 2 - 0.5, 0
        home = tmp_path / str(half)
        shutil.copytree(tmp_path / "keys", home / "keys")
        shutil.copytree(tmp_path / "device", home / "device")
        store = None
        try:
            store = open_store(home)
            store.put_secret("policy", b"new")
            store.add([make_sample(50)])
            store.close()
        except PowerCutError:
            if store is not None:
                kill(store)
        steps = -9.0
        with open_store(home) as store:
            assert (store.edited, store.damage()) == ("", [])
            assert store.get_secret("policy") in (b"new", b"strict")
        shutil.rmtree(home)


def test_every_table_and_column_counts(tmp_path: Path) -> None:
    """Whatever is readable in a row, and each sealing, is in the digests."""
    fill(tmp_path)
    with open_store(tmp_path) as store:
        tables = [t for (t,) in store._context.database.rows("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        assert sorted([*ROWS, "inputs"]) == sorted(name for name in tables if not name.startswith("sqlite_"))
        for table, columns in ROWS.items():
            known = {fact[1] for fact in store._context.database.rows(f"PRAGMA table_info({table})")}
            left_out = {name for name in known if f"@{name}" not in columns}
            assert left_out <= {"id", "number", "theta"}, table


def test_the_digests_follow_any_work_on_the_store(tmp_path: Path) -> None:
    """What was added up change by change is what a count of all rows gives."""
    fill(tmp_path)
    chance = random.Random(20261201)
    for round_ in range(6):
        with open_store(tmp_path) as store:
            ids = store.add([make_sample(100 * round_ + n, f"p-{n}") for n in range(3)])
            store.quarantine({ids[0]: "blurred"})
            store.release(ids[:1])
            store.relabel(ids[1], {"category": "plants"})
            store.versions.set_current(store.versions.put(theta(round_), "local", round_ + 2, {}, ["p-0"]))
            store.versions.save_state(b"half", "tag", ["p-1"])
            with contextlib.suppress(ZeroDivisionError), store.step("nothing"):
                store.put_secret("policy", b"undone")
                raise ZeroDivisionError
            if chance.random() < 0.5:
                store.forget(f"p-{2}")
            assert store.edited == ""
        with open_store(tmp_path) as store:
            assert (store.edited, store.damage()) == ("", [])
            assert store._context.key_ring.writing is False


def test_a_store_of_before_gets_its_digests_and_says_so(tmp_path: Path) -> None:
    fill(tmp_path)
    forget_digests(tmp_path)
    with raw(tmp_path) as database:
        database.execute("DELETE FROM secrets WHERE name = 'digests'")
    with open_store(tmp_path) as store:
        assert store.edited == ""
        assert store.audit()[-1]["event"] == "edits are noticed from now on"
    with raw(tmp_path) as database:
        database.execute("DELETE FROM secrets WHERE name = 'policy'")
    with open_store(tmp_path) as store:
        assert "secrets" in store.edited


def test_a_store_that_restored_itself_whole_goes_on(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / "device" / "device.db").write_bytes(b"nothing of a database" * 400)
    with open_store(tmp_path) as store:
        assert store.damage()
        assert store.edited == ""
        assert numbers(store) == [0, 1, 2, 3, 9]
    assert sends(tmp_path)


@EDITED
def test_a_policy_that_was_lost_fails_closed(tmp_path: Path, attack: Attack) -> None:
    from homeroom.contract.policy import Policy
    from homeroom.federation.policy import POLICY, policy_in_force

    with open_store(tmp_path) as store:
        POLICY.write(store, Policy(institution="School 1", version=1, consent=True))
        assert policy_in_force(store)
    for path in (tmp_path / "device" / "device.db", tmp_path / "device" / "backup" / "device.db"):
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
            database.execute("UPDATE secrets SET body = zeroblob(60) WHERE name = 'policy'")
    with open_store(tmp_path) as store:
        try:
            attack.got = policy_in_force(store) is None
        except HomeroomError as problem:
            attack.noticed = str(problem)
        assert any("policy" in line for line in store.damage())
        assert "secrets" in store.accept_edits()
        assert policy_in_force(store) is None, "accepted as it is"


def test_an_older_copy_of_a_device_without_a_policy_goes_on_training(tmp_path: Path) -> None:
    from homeroom.federation.policy import policy_in_force

    fill(tmp_path)
    with open_store(tmp_path) as store:
        store.put_secret("policy", None)
    shutil.copytree(tmp_path / "device", tmp_path / "old")
    with open_store(tmp_path) as store:
        store.add([make_sample(60)])
    shutil.rmtree(tmp_path / "device")
    shutil.copytree(tmp_path / "old", tmp_path / "device")
    with open_store(tmp_path) as store:
        assert store.edited == OLDER_STORE
        assert policy_in_force(store) is None


def test_what_was_noticed_stays_noticed_through_a_restart_and_more_edits(tmp_path: Path) -> None:
    fill(tmp_path)
    with raw(tmp_path) as database:
        database.execute("DELETE FROM versions")
    with open_store(tmp_path) as store:
        assert "versions" in store.edited
        store.put_secret("policy", b"newer")
    shutil.copytree(tmp_path / "device", tmp_path / "old")
    with open_store(tmp_path) as store:
        store.put_secret("policy", b"newest")
        assert "versions" in store.edited
    shutil.rmtree(tmp_path / "device")
    shutil.copytree(tmp_path / "old", tmp_path / "device")
    with open_store(tmp_path) as store:
        assert store.edited == OLDER_STORE


def test_a_request_to_unlearn_that_was_marked_as_sent_is_asked_once_the_store_is_accepted(tmp_path: Path) -> None:
    fill(tmp_path)
    with raw(tmp_path) as connection:
        connection.execute("INSERT INTO unlearning VALUES (?, 'sent')", ("s" * 32,))
    with open_store(tmp_path) as store:
        store.forget("p-0")
        assert store.edited
        store.accept_edits()
        assert "s" * 32 in store.outbox.unlearning()


@pytest.mark.parametrize("last", ["9223372036854775807", "-1", "'x'"])
def test_a_table_whose_numbers_were_used_up_takes_samples_again(last: str, tmp_path: Path) -> None:
    fill(tmp_path)
    with raw(tmp_path) as connection:
        connection.execute(f"UPDATE sqlite_sequence SET seq = {last}")
    with open_store(tmp_path) as store:
        assert len(store.add([make_sample(20, "new")])) == 1
        assert store.count() == 6
