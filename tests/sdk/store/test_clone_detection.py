"""Clone detection: cloned cards, replaced disks, older copies put back; nothing that was sent counts again."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from faults.devices import make_sample, open_store, theta

from homeroom.contract.privacy import Privacy
from homeroom.errors import EditedError, StoreError, UpdateError
from homeroom.federation import privacy_ledger
from homeroom.store import Store
from homeroom.system.identity import disk_identity

BUNDLE = "b" * 64


def queue(store: Store, number: int, base: int) -> str:
    update_id = f"{number:032x}"
    store.versions.put(theta(number), "local", base, {"bundle_id": BUNDLE}, ["p-17"])
    return update_id if store.outbox.queue(update_id, b"signed", base, ["p-17"], BUNDLE, b"rest") else ""


def send(store: Store) -> list[str]:
    """As `sync` does: noted as begun, then sent, then noted as sent."""
    sent = []
    for update in store.outbox.pending():
        store.outbox.mark_sending(update.update_id)
        store.outbox.mark_sent(update.update_id)
        sent.append(update.update_id)
    return sent


def used(home: Path, base: int = 3) -> Path:
    """A device with samples and one update that waits; returns a copy of its directory."""
    with open_store(home) as store:
        store.add([make_sample(1), make_sample(2, "p-18")])
        store.put_secret("identity.key", b"key")
        queue(store, 1, base)
    copy = home / "copy"
    shutil.copytree(home / "device", copy)
    return copy


def put_back(home: Path, copy: Path) -> None:
    shutil.rmtree(home / "device")
    shutil.copytree(copy, home / "device")


@pytest.mark.attack("files and bundles", "a cloned or older device counts twice or spends its budget again")
def test_an_older_copy_sends_nothing_for_what_was_answered_since(tmp_path: Path) -> None:
    copy = used(tmp_path)
    with open_store(tmp_path) as store:
        store.outbox.drop(f"{1:032x}")
        queue(store, 2, 3)  # trained again before it was sent
        assert send(store) == [f"{2:032x}"]
    put_back(tmp_path, copy)
    with open_store(tmp_path) as store:
        assert store.outbox.pending() == []
        assert queue(store, 3, 3) == "", "a new training on the same base stays local"
        assert any("older copy" in line for line in store.damage())
        assert store.get_secret("identity.key") == b"key", "it is still the same device"
        assert len(store.samples()) == 2
        assert queue(store, 4, 4), "the next global version is answered again"
        with pytest.raises(EditedError):
            send(store)
        assert store.accept_edits()
        assert send(store) == [f"{4:032x}"]
    with open_store(tmp_path) as store:
        assert len(store.damage()) == 1, "noticed once"


def test_a_copy_of_the_moment_before_sends_the_same_update_again(tmp_path: Path) -> None:
    copy = used(tmp_path)
    with open_store(tmp_path) as store:
        send(store)
    put_back(tmp_path, copy)
    with open_store(tmp_path) as store:
        assert queue(store, 2, 3) == "", "it cannot be replaced any more"
        assert [update.update_id for update in store.outbox.pending()] == [f"{1:032x}"], "the aggregator knows its id"
        assert store.damage() == []


def test_who_is_forgotten_in_an_older_copy_has_the_unknown_update_unlearned(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.add([make_sample(1), make_sample(2, "p-18")])
    shutil.copytree(tmp_path / "device", tmp_path / "copy")
    with open_store(tmp_path) as store:
        queue(store, 1, 0)
        send(store)
    put_back(tmp_path, tmp_path / "copy")
    with open_store(tmp_path) as store:
        assert store.forget("p-18").unlearning == (f"{1:032x}",)
        assert store.outbox.unlearning() == [f"{1:032x}"]


def test_an_update_that_went_into_a_secure_sum_is_answered_in_an_older_copy_too(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.add([make_sample(1)])
    shutil.copytree(tmp_path / "device", tmp_path / "copy")
    with open_store(tmp_path) as store:
        store.outbox.mark_sent(queue(store, 1, 3))  # masked: it was never sent by itself
    put_back(tmp_path, tmp_path / "copy")
    with open_store(tmp_path) as store:
        assert queue(store, 2, 3) == ""
        assert queue(store, 3, 4)


@pytest.mark.attack("files and bundles", "a cloned or older device counts twice or spends its budget again")
def test_two_copies_on_one_machine_do_not_both_answer_a_base(tmp_path: Path) -> None:
    copy = used(tmp_path)
    twin = tmp_path / "twin"
    (twin / "device").parent.mkdir()
    shutil.copytree(copy, twin / "device")
    (twin / "keys").symlink_to(tmp_path / "keys")
    sent: dict[str, int] = {}
    for base in (4, 5, 6):
        for number, home in enumerate((tmp_path, twin)):
            with open_store(home) as store:
                queue(store, 10 * base + number, base)
                sent |= {update.update_id: update.base for update in store.outbox.pending()}
                assert bool(store.accept_edits()) == ((base, number) != (4, 0)), "each finds itself older"
                send(store)
    assert sorted(sent.values()) == [3, 4, 5, 6], "each base by one of them"
    with open_store(tmp_path) as one, open_store(twin) as other:
        assert one.accept_edits()
        assert other.accept_edits()
        queue(one, 70, 7)
        queue(other, 71, 7)
        assert send(one)
        with pytest.raises(StoreError, match="has answered global version 7"):
            send(other)


def test_a_damaged_store_that_is_restored_from_its_own_backup_answers_no_base_again(tmp_path: Path) -> None:
    used(tmp_path)
    backup = (tmp_path / "device" / "backup" / "device.db").read_bytes()
    with open_store(tmp_path) as store:
        store.outbox.drop(f"{1:032x}")
        queue(store, 2, 3)
        send(store)
    (tmp_path / "device" / "backup" / "device.db").write_bytes(backup)
    (tmp_path / "device" / "device.db").write_bytes(b"rubbish" * 1000)
    with open_store(tmp_path) as store:
        assert store.outbox.pending() == []
        assert queue(store, 3, 3) == ""


def test_the_power_may_go_between_the_note_and_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used(tmp_path)
    with open_store(tmp_path) as store:
        database = type(store._context.database)
        with monkeypatch.context() as patch:
            patch.setattr(database, "write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                store.outbox.mark_sending(f"{1:032x}")
    with open_store(tmp_path) as store:
        assert queue(store, 2, 3) == "", "what may be on its way is not replaced"
        assert [update.update_id for update in store.outbox.pending()] == [f"{1:032x}"]
        assert store.damage() == []


@pytest.mark.attack("files and bundles", "a cloned or older device counts twice or spends its budget again")
def test_an_older_copy_does_not_spend_its_privacy_budget_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    privacy = Privacy(clip_norm=1.0, noise_multiplier=2.0, epsilon=8.0, delta=1e-6)
    monkeypatch.setattr(privacy_ledger, "read_update", lambda *_: None)  # that it is clipped is tested elsewhere
    monkeypatch.setattr(privacy_ledger, "_noise_multiplier", lambda *_: 2.0)
    asked: Any = SimpleNamespace(privacy=privacy)
    layout: Any = None

    def spend(store: Store) -> int:
        for number in range(1, 1000):
            try:
                privacy_ledger.charge_update(store, b"", f"{number:032x}", asked, layout)
            except UpdateError:
                break
        return len(privacy_ledger.read_ledger(store))

    copy = used(tmp_path)
    with open_store(tmp_path) as store:
        privacy_ledger.charge_update(store, b"", "first", asked, layout)
        privacy_ledger.charge_update(store, b"", "first", asked, layout)
        assert len(privacy_ledger.read_ledger(store)) == 1, "sent again, it counts once"
        whole = spend(store)
        assert whole > 1
    put_back(tmp_path, copy)
    with open_store(tmp_path) as store:
        assert not privacy_ledger.LEDGER.exists(store)
        assert len(privacy_ledger.read_ledger(store)) == whole
        with pytest.raises(UpdateError, match="would pass epsilon"):
            privacy_ledger.charge_update(store, b"", "another", asked, layout)


@pytest.mark.attack("files and bundles", "a cloned or older device counts twice or spends its budget again")
@pytest.mark.parametrize("changed", ["machine", "disk"])
def test_another_machine_or_another_disk_is_another_device(
    changed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homeroom.store.master_keys.disk_identity", lambda _: "card 1")
    used(tmp_path)
    with open_store(tmp_path) as store:
        assert not store.moved
        assert store.get_secret("identity.key")
        store.outbox.mark_sending(f"{1:032x}")
    if changed == "machine":
        monkeypatch.setattr("homeroom.store.master_keys.machine_identity", lambda: "another machine")
    else:
        monkeypatch.setattr("homeroom.store.master_keys.disk_identity", lambda _: "card 2")
    with open_store(tmp_path) as store:
        assert store.moved
        assert store.get_secret("identity.key") is None
        assert store.outbox.pending() == []
        assert queue(store, 5, 3) == "", "the upload that was begun may have arrived"
        assert queue(store, 6, 4)
    monkeypatch.setattr("homeroom.store.master_keys.disk_identity", lambda _: "")
    with open_store(tmp_path) as store:
        assert not store.moved, "a system that does not tell is no other disk"
        assert len(store.outbox.pending()) == 1


def test_a_ring_of_before_is_still_read(tmp_path: Path) -> None:
    used(tmp_path)
    (path,) = (tmp_path / "keys").glob("*.json")
    path.write_text(path.read_text().replace(',"begun":{},"charged":{}', ""))
    assert "begun" not in path.read_text()
    with open_store(tmp_path) as store:
        assert len(send(store)) == 1


@pytest.mark.skipif(not hasattr(os, "major"), reason="devices of Linux")
def test_a_disk_is_known_by_the_number_of_its_maker(tmp_path: Path) -> None:
    place = tmp_path.stat().st_dev
    disk, devices = tmp_path / "mmcblk0", tmp_path / "devices"
    (disk / "mmcblk0p2").mkdir(parents=True)
    (disk / "device").mkdir()
    (disk / "mmcblk0p2" / "partition").write_text("2\n")
    devices.mkdir()
    link = devices / f"{os.major(place)}:{os.minor(place)}"
    link.symlink_to(disk / "mmcblk0p2")
    assert disk_identity(tmp_path, devices) == ""
    (disk / "device" / "cid").write_text("035344534c3136478077a8e1c6010800\n")
    assert disk_identity(tmp_path, devices) == "035344534c3136478077a8e1c6010800"
    mapped = tmp_path / "dm-0"
    (mapped / "slaves").mkdir(parents=True)
    (mapped / "slaves" / "mmcblk0p2").symlink_to(disk / "mmcblk0p2")
    link.unlink()
    link.symlink_to(mapped)
    assert disk_identity(tmp_path, devices) == "035344534c3136478077a8e1c6010800"
