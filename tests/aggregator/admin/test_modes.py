"""An aggregator's folder and its backups are its user's alone, from the first byte on."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from conftest import Attack

from aggregator.institution import School, make_folder, write_bundle
from aggregator.server.test_kill import kill, start
from homeroom.federation.network.client import Client, join
from homeroom_aggregator.admin.backup import backup, restore
from homeroom_aggregator.admin.bundle_upgrade import upgrade_bundle
from homeroom_aggregator.admin.folder import invite_devices, open_log, open_rounds

pytestmark = pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")


@pytest.fixture(autouse=True)
def open_umask(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A user whose new files everybody may read and write, and no second chance to close them."""
    before = os.umask(0)
    monkeypatch.setattr(Path, "chmod", lambda *_, **__: None)
    monkeypatch.setattr(os, "chmod", lambda *_, **__: None)
    monkeypatch.setattr(os, "fchmod", lambda *_, **__: None)
    yield
    os.umask(before)


def readable(folder: Path) -> list[str]:
    """What other users can open, of a folder and of all in it."""
    return [str(path) for path in (folder, *folder.rglob("*")) if path.lstat().st_mode & 0o077]


def update(folder: Path, address: str) -> None:
    (invitation,) = invite_devices(folder, address, 1)
    key = School().key
    with closing(Client(join(invitation, key), key)) as client:
        assert client.update(School(key).update(client.round())) == "accepted"


@pytest.mark.attack("machine", "another user of the machine reads the log, its write-ahead log, a backup")
def test_every_file_is_closed_before_a_byte_is_in_it(tmp_path: Path, attack: Attack) -> None:
    folder = make_folder(tmp_path, buffer_size=3, min_devices=2)
    process, address = start(folder)
    try:
        update(folder, address)
        assert {path.name for path in folder.glob("log.*")} >= {"log.db", "log.db-wal", "log.lock"}
        assert readable(folder) == []
        backup(folder, tmp_path / "monday")
    finally:
        kill(process)
    restore(tmp_path / "monday", tmp_path / "restored")
    upgrade_bundle(tmp_path / "newer", folder, write_bundle(tmp_path / "bundle-2", version=2))
    for made in ("monday", "restored", "newer"):
        assert readable(tmp_path / made) == []
    attack.noticed = "nothing"


@pytest.mark.parametrize("opened", [open_rounds, open_log], ids=["rounds", "log"])
def test_a_folder_that_is_open_to_others_is_closed_at_the_next_start(
    opened: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.undo()
    folder = make_folder(tmp_path)
    open_rounds(folder).close()
    shutil.copyfile(folder / "log.db", folder / "log.layout-2.db")
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)
    opened(folder).close()  # type: ignore[operator]
    assert readable(folder) == []
    assert "other users could open" in caplog.text


def test_a_folder_that_was_there_is_closed_before_a_key_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    (tmp_path / "district").mkdir(mode=0o777)
    assert readable(make_folder(tmp_path)) == []
