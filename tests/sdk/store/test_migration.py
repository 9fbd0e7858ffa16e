"""A store of an older version is brought to this one, its copy first, and goes back by that copy."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from faults.devices import make_older, make_sample, numbers, open_store, theta

from homeroom.cli.migrate import migrate
from homeroom.data.consent import Consent
from homeroom.errors import DiskFullError, InputError, StoreError
from homeroom.store import edit_detection, migrations, schema
from homeroom.store.master_keys import FolderKeys
from homeroom.store.migration import go_back, plan_migration, plan_return
from homeroom.system import clock

WHEEL = next(Path(__file__).parents[2].joinpath("data", "0.1.0").glob("*.whl"))
# With the code of 0.1.0: what it finds, and one sample more, as pupil-new.
OPEN_WITH_0_1_0 = """
import json, sys
from pathlib import Path
from homeroom.store import Store
from homeroom.vault import FolderKeys
import msgspec
with Store.open(Path(sys.argv[1]) / "device", FolderKeys(Path(sys.argv[1]) / "keys")) as store:
    samples = store.samples()
    store.add([msgspec.structs.replace(samples[0], subject="pupil-new", sample_id="")])
    print(json.dumps({"ids": [s.sample_id for s in samples], "texts": [s.inputs["text"][0] for s in samples],
        "pictures": [len(s.inputs["picture"][0]) for s in samples], "damage": store.damage()}))
"""


def filled(home: Path, count: int = 5) -> list[str]:
    """The ids of the samples of a store of version 3."""
    with open_store(home) as store:
        ids = store.add(
            [
                *(make_sample(n, f"p-{n % 2}") for n in range(count)),
                msgspec.structs.replace(make_sample(90), aside="too dark"),
                msgspec.structs.replace(make_sample(91), aside="blurred", weighed={"picture": [0]}),
            ]
        )
        store.versions.set_current(store.versions.put(theta(0), "local", 0, {}, ["p-0"]))
    make_older(home, 3)
    return ids


def version_of(path: Path) -> int:
    raw = sqlite3.connect(path)
    (version,) = raw.execute("PRAGMA user_version").fetchone()
    raw.close()
    return int(version)


def files(folder: Path) -> dict[str, str]:
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def with_release(home: Path) -> Any:
    environment = {**os.environ, "PYTHONPATH": str(WHEEL)}
    command = [sys.executable, "-c", OPEN_WITH_0_1_0, str(home)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_what_was_stored_is_there_with_its_ids_and_known_when_it_is_added_again(tmp_path: Path) -> None:
    ids = filled(tmp_path)
    with open_store(tmp_path) as store:
        assert [sample.sample_id for sample in store.samples()] == ids
        assert numbers(store) == [0, 1, 2, 3, 4, 90, 91]
        assert store.add([make_sample(number, f"p-{number % 2}") for number in range(5)]) == ids[:5]
        assert (store.count(), store.damage()) == (7, [])
        assert {(one.aside, str(one.weighed)) for one in store.quarantined()} == {
            ("too dark", "{}"),
            ("blurred", "{'picture': [0]}"),
        }
        assert store.relabel(ids[0], {"category": "plants"}) not in ids
        assert store.forget("p-1").samples == 2
    with open_store(tmp_path) as store:
        assert numbers(store) == [2, 4, 90, 91, 0]
    device = tmp_path / "device"
    assert [version_of(device / name) for name in ("device.db", "backup/device.db")] == [schema.SCHEMA_VERSION] * 2
    assert list((device / "backup").iterdir()) == [device / "backup" / "device.db"], "forgetting destroys old copies"


def test_rows_that_were_damaged_are_mended_before_the_copy_is_made(tmp_path: Path) -> None:
    filled(tmp_path)
    with sqlite3.connect(tmp_path / "device" / "device.db") as raw:
        raw.execute("UPDATE samples SET inputs = zeroblob(50) WHERE number = 2")
    raw.close()
    with open_store(tmp_path) as store:
        assert numbers(store) == [0, 1, 2, 3, 4, 90, 91]
        assert "put back from the copy" in store.damage()[-1]


def test_a_migration_that_is_cut_short_never_happened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path)
    done = 0

    def cut(*parts: Any) -> None:
        nonlocal done
        done += 1
        if done == 4:
            raise DiskFullError("no space left")
        insert(*parts)

    insert = migrations.insert_inputs
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "insert_inputs", cut)
        with pytest.raises(DiskFullError):
            open_store(tmp_path)
    assert version_of(tmp_path / "device" / "device.db") == version_of(tmp_path / "device/backup/device.db") == 3
    with open_store(tmp_path) as store:
        assert numbers(store) == [0, 1, 2, 3, 4, 90, 91]


def test_the_power_goes_right_after_it_and_the_way_back_stays(tmp_path: Path) -> None:
    filled(tmp_path)
    shutil.copy(tmp_path / "device/backup/device.db", tmp_path / "old.db")
    open_store(tmp_path).close()
    (tmp_path / "device/backup/version-3.db").unlink()
    shutil.copy(tmp_path / "old.db", tmp_path / "device/backup/device.db")
    open_store(tmp_path).close()
    assert version_of(tmp_path / "device/backup/version-3.db") == 3
    assert version_of(tmp_path / "device/backup/device.db") == schema.SCHEMA_VERSION


def test_the_file_hardly_grows_and_no_input_is_in_it_twice(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        rng = bytes(range(256)) * 800
        store.add([msgspec.structs.replace(make_sample(n), inputs={"picture": [bytes([n]) + rng]}) for n in range(20)])
    make_older(tmp_path, 3)
    before = (tmp_path / "device" / "device.db").stat().st_size
    open_store(tmp_path).close()
    assert (tmp_path / "device" / "device.db").stat().st_size < 1.15 * before
    assert sum(path.stat().st_size for path in (tmp_path / "device").rglob("*")) < 3.4 * before


def test_a_dry_run_says_what_it_would_do_and_changes_nothing(tmp_path: Path) -> None:
    filled(tmp_path)
    before = files(tmp_path)
    plan = plan_migration(tmp_path / "device", FolderKeys(tmp_path / "keys"))
    assert (plan.present, plan.target, plan.samples) == (3, schema.SCHEMA_VERSION, 7)
    assert plan.store_bytes == (tmp_path / "device" / "device.db").stat().st_size <= plan.needed_bytes
    assert files(tmp_path) == before
    killed = tmp_path / "killed"
    shutil.copytree(tmp_path / "device", killed)
    raw = sqlite3.connect(tmp_path / "device" / "device.db", isolation_level=None)
    raw.execute("PRAGMA journal_mode = WAL")
    raw.execute("DELETE FROM samples WHERE number = 1")
    for name in ("device.db", "device.db-wal"):
        shutil.copy(tmp_path / "device" / name, killed)
    raw.close()
    before = files(killed)
    assert plan_migration(killed, FolderKeys(tmp_path / "keys")).samples == 6, "the log counts"
    assert files(killed) == before
    open_store(tmp_path).close()
    assert plan.copy.exists()
    assert plan_migration(tmp_path / "device", FolderKeys(tmp_path / "keys")).needed_bytes == 0


def test_it_goes_back_to_the_release_before_which_goes_on(tmp_path: Path) -> None:
    ids = filled(tmp_path)
    with open_store(tmp_path) as store:
        store.add([make_sample(number, "late") for number in (50, 51)])
        store.versions.put(theta(1), "local", 0, {}, ["late"])
    found = plan_return(tmp_path / "device", FolderKeys(tmp_path / "keys"))
    assert (found.version, found.lost) == (3, {"samples": 2, "versions of theta": 1, "updates": 0, "subjects": 1})
    with open_store(tmp_path) as store:
        assert store.count() == 9, "nothing was changed yet"
    go_back(tmp_path / "device", FolderKeys(tmp_path / "keys"))
    assert not (tmp_path / "device/backup/device.db").exists(), "a newer copy would be put back by mistake"
    assert json.loads((tmp_path / "device/device.json").read_bytes())["format"] == 3
    told = with_release(tmp_path)
    assert told["ids"] == ids
    assert told["texts"] == [f"wolframite {number}" for number in (0, 1, 2, 3, 4, 90, 91)]
    assert set(told["pictures"]) == {3010}
    assert told["damage"] == []
    with pytest.raises(InputError, match="no copy"):
        plan_return(tmp_path / "device", FolderKeys(tmp_path / "keys"))
    with open_store(tmp_path) as store:  # and forward again, with what the release added
        assert (store.count(), store.subjects()[-1], store.damage()) == (8, "pupil-new", [])


def test_after_a_forget_there_is_no_way_back(tmp_path: Path) -> None:
    filled(tmp_path)
    open_store(tmp_path).close()
    older = tmp_path / "device/backup/version-3.db"
    shutil.copy(older, tmp_path / "kept.db")
    with open_store(tmp_path) as store:
        store.forget("p-0")
    assert not older.exists()
    shutil.copy(tmp_path / "kept.db", older)
    before = files(tmp_path)
    with pytest.raises(StoreError, match="cannot be opened any more"):
        go_back(tmp_path / "device", FolderKeys(tmp_path / "keys"))
    assert files(tmp_path) == before


def test_the_copy_from_before_is_kept_for_thirty_days(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path)
    open_store(tmp_path).close()
    now = clock.now()
    for days, is_there in ((29, True), (32, False)):
        monkeypatch.setattr(clock, "now", lambda days=days: now + datetime.timedelta(days=days))
        open_store(tmp_path).close()
        assert (tmp_path / "device/backup/version-3.db").exists() == is_there


def test_the_command_says_does_and_takes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    filled(tmp_path)
    device = str(tmp_path / "device")

    def run(*words: str, typed: str = "", code: int = 0) -> str:
        result = CliRunner().invoke(migrate, [device, *words], input=typed)
        assert result.exit_code == code, result.output
        return result.output

    assert f"would go from version 3 to {schema.SCHEMA_VERSION}: 7 samples" in run("--dry-run")
    assert json.loads(run("--dry-run", "--json"))["present"] == 3
    assert f"went from version 3 to {schema.SCHEMA_VERSION}" in run()
    assert "nothing to do" in run()
    with open_store(tmp_path) as store:
        store.add([make_sample(50)])
    assert "back to version 3; of what came since is lost: samples (1)" in run("--back", "--dry-run")
    run("--back", typed="n\n", code=1)
    assert version_of(tmp_path / "device/device.db") == schema.SCHEMA_VERSION
    run("--back", "--yes")
    assert version_of(tmp_path / "device/device.db") == 3


def test_a_dry_run_refuses_what_opening_would_refuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    filled(tmp_path)
    device = tmp_path / "device"
    (tmp_path / "keys").rename(tmp_path / "unmounted")
    for words in (("--dry-run",), ()):
        result = CliRunner().invoke(migrate, [str(device), *words])
        assert isinstance(result.exception, StoreError)
        assert "is not on this machine" in result.exception.what
    (tmp_path / "unmounted").rename(tmp_path / "keys")
    for name in ("device.db", "backup/device.db"):
        raw = sqlite3.connect(device / name)
        raw.execute("PRAGMA user_version = 9")
        raw.close()
    before = files(tmp_path)
    for words in (("--dry-run",), ()):
        result = CliRunner().invoke(migrate, [str(device), *words])
        assert isinstance(result.exception, StoreError)
        assert (result.exception.exit_code, result.exception.remedy) == (7, "update homeroom")
    assert files(tmp_path) == before


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_damaged_store_of_an_older_version_is_restored_from_its_copy(tmp_path: Path, version: int) -> None:
    with open_store(tmp_path) as store:
        store.add([make_sample(n, f"p-{n % 2}") for n in range(5)])
    make_older(tmp_path, version)
    path = tmp_path / "device" / "device.db"
    path.write_bytes(path.read_bytes()[:5000])
    with open_store(tmp_path) as store:
        assert numbers(store) == [0, 1, 2, 3, 4]
        assert "restored from the last copy" in store.damage()[0]


def test_a_key_that_is_away_is_told_from_one_that_was_destroyed(tmp_path: Path) -> None:
    filled(tmp_path)
    open_store(tmp_path).close()
    with pytest.raises(StoreError, match="not mounted"):
        plan_return(tmp_path / "device", FolderKeys(tmp_path / "unmounted"))


def test_a_store_of_version_4_goes_on_and_its_consents_in_words_wait_for_a_person(tmp_path: Path) -> None:
    with tarfile.open(Path(__file__).parents[2] / "data/schema-4/store.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    with open_store(tmp_path) as store:
        assert (numbers(store), store.damage(), store.edited) == ([0, 1, 2, 3, 4, 90, 91], [], "")
        texts = [one.consent.text if one.consent else None for one in store.samples()]
        assert texts == [None, "given", "refused by the mother", "letter of 3 May", "letter of 3 May", None, None]
        assert all(one.consent_state == "unstated" for one in store.samples())
        ids = [one.sample_id for one in store.samples()]
        assert store.add([make_sample(0, "p-0"), make_sample(3, "p-2")]) == [ids[0], ids[3]]
        assert store.set_consent(Consent("given", "Ms Ray"), lambda one: one.subject == "p-2").samples == 1
        assert store.sample(ids[3]).consent == Consent("given", "Ms Ray", text="letter of 3 May")  # type: ignore[union-attr]
    with open_store(tmp_path) as store:
        assert (store.count(), store.damage(), store.edited) == (7, [], "")
    assert version_of(tmp_path / "device/backup/version-4.db") == 4


def test_an_edit_of_before_is_found_after_the_migration(tmp_path: Path) -> None:
    with tarfile.open(Path(__file__).parents[2] / "data/schema-4/store.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    with contextlib.closing(sqlite3.connect(tmp_path / "device/device.db", isolation_level=None)) as raw:
        raw.execute("DELETE FROM samples WHERE number = 1")
    with open_store(tmp_path) as store:
        assert "rows of samples were removed" in store.damage()[-1]


def test_the_power_goes_after_the_migration_and_no_edit_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tarfile.open(Path(__file__).parents[2] / "data/schema-4/store.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")

    def cut(*_: Any, **__: Any) -> None:
        raise DiskFullError("the power goes")

    with monkeypatch.context() as patch:
        patch.setattr(edit_detection, "detect_edits", cut)
        with pytest.raises(DiskFullError):
            open_store(tmp_path)
    assert version_of(tmp_path / "device/device.db") == schema.SCHEMA_VERSION
    with open_store(tmp_path) as store:
        assert (store.count(), store.damage(), store.edited) == (7, [], "")
