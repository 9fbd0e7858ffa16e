"""A school without a network: letters out on a stick, answers back, and everything that may happen to a stick."""

from __future__ import annotations

import errno
import os
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from conftest import Attack
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from aggregator.institution import START, School, learn, make_folder
from homeroom import Device
from homeroom.cli.main import homeroom
from homeroom.contract.offline_message import write_message
from homeroom.contract.privacy import Privacy
from homeroom.contract.round import UnlearningRules
from homeroom.contract.sealed_box import public_hex, seal, unseal
from homeroom.contract.secagg import SecureRules
from homeroom.contract.signing import certify, new_key
from homeroom.errors import DiskFullError, InputError, NetworkError, TrustError
from homeroom.federation import agreement, offline, privacy_ledger, versions
from homeroom.federation.enrolment import device_key
from homeroom.federation.unlearning import unlearning_lines
from homeroom_aggregator.admin import backup
from homeroom_aggregator.admin import offline as letters
from homeroom_aggregator.admin.folder import invite_devices, open_rounds, read_facts


@pytest.fixture(autouse=True)
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keys").mkdir()
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    monkeypatch.setattr(
        "homeroom.inference.golden.choose_precision", lambda *_, **__: {}
    )  # these bundles hold no graphs


@pytest.fixture
def stick(tmp_path: Path) -> Path:
    (tmp_path / "stick").mkdir()
    return tmp_path / "stick"


@pytest.fixture
def district(tmp_path: Path, stick: Path) -> Path:
    """An aggregator's folder; the stick has been there."""
    folder = make_folder(tmp_path)
    deliver(folder, stick)
    return folder


def deliver(folder: Path, stick: Path) -> letters.OfflineReport:
    return letters.take_in_messages(folder, stick, lambda _: None)


def test_a_stick_brings_the_rewind_whose_day_has_come(tmp_path: Path, stick: Path) -> None:
    folder = make_folder(tmp_path, unlearning=UnlearningRules(rule="rewind", within_days=0))
    one, two = School(), School()
    with closing(open_rounds(folder)) as rounds:
        for each in (one, two):
            gone, _ = rounds.update(each.update(rounds.configuration, 0.5), each.name)
        rounds.withdraw(gone, two.name)
    assert version_of(folder) == 1
    deliver(folder, stick)
    assert version_of(folder) == 2


def version_of(folder: Path) -> int:
    rounds = open_rounds(folder)
    try:
        assert rounds.verify() == []
        return rounds.state.version
    finally:
        rounds.close()


def school(tmp_path: Path, district: Path, name: str = "classroom") -> Device:
    """A device that would join by hand."""
    (invitation,) = invite_devices(district, "http://nowhere.example", 1)
    (tmp_path / f"{name}.json").write_bytes(msgspec.json.encode(invitation))
    device = Device.open(tmp_path / name, tmp_path / "bundle")
    device.join_by_hand(tmp_path / f"{name}.json")
    return device


def joined(tmp_path: Path, district: Path, stick: Path, *names: str) -> list[Device]:
    devices = [school(tmp_path, district, name) for name in names]
    for device in devices:
        device.carry_out(stick)
    deliver(district, stick)
    assert all(device.carry_in(stick).joined for device in devices)
    return devices


def test_two_schools_that_never_had_a_network_make_a_version_together(
    tmp_path: Path, district: Path, stick: Path
) -> None:
    devices = joined(tmp_path, district, stick, "one", "two")
    for device, step in zip(devices, (0.25, 0.75), strict=True):
        learn(device, step)
        assert device.carry_out(stick).updates == 1
        assert device.status()["updates_waiting"] == 1  # until its receipt is here
    taken = deliver(district, stick)
    assert (taken.messages, taken.accepted, taken.unreadable) == (2, 2, {})
    for device in devices:
        found = device.carry_in(stick)
        assert len(found.sent) == 1
        assert found.fetched.in_use == "global"
        assert device.status()["updates_waiting"] == 0
        newest = versions.newest_global(device.store, device.bundle)
        theta = versions.theta_of(device.store, device.bundle, newest)
        np.testing.assert_array_equal(theta[:7], START[:7] + np.float32(0.5))
        device.close()
    assert not [path for path in stick.rglob("*") if path.suffix in (".letter", ".answer")]
    assert version_of(district) == 1


@pytest.mark.attack("bounds", "an entry that kills its reader")
def test_an_answer_that_ends_its_reader_is_set_apart_after_one_try(
    tmp_path: Path, district: Path, stick: Path, attack: Attack, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = school(tmp_path, district)
    device.carry_out(stick)
    deliver(district, stick)
    (answer,) = stick.rglob("*.answer")

    class EndOfProcessError(BaseException):
        pass

    def end(*_: object, **__: object) -> None:
        raise EndOfProcessError

    with monkeypatch.context() as patch:
        patch.setattr(offline.offline_message, "read_answer", end)
        patch.setattr(Path, "unlink", lambda *_, **__: None)  # a process that is killed removes no mark
        with pytest.raises(EndOfProcessError):
            device.carry_in(stick)
    with pytest.raises(InputError, match="ended without a word") as refused:
        device.carry_in(stick)
    attack.noticed = str(refused.value)
    attack.got = answer.exists()
    answer.with_name(f"{answer.name}.refused").rename(answer)
    assert device.carry_in(stick).joined, "given back, it is tried again"
    device.close()


def test_a_letter_counts_once_however_often_it_is_delivered(tmp_path: Path, district: Path, stick: Path) -> None:
    (device,) = joined(tmp_path, district, stick, "one")
    learn(device, 0.5)
    written = device.carry_out(stick)
    kept = written.path.read_bytes()
    assert deliver(district, stick).accepted == 1
    written.path.write_bytes(kept)  # somebody put the old letter back
    again = deliver(district, stick)
    assert (again.accepted, again.already) == (0, 1)
    device.carry_out(stick)  # the school did not know yet
    assert deliver(district, stick).already == 1
    assert len(device.carry_in(stick).sent) == 1
    device.close()


def test_an_update_of_an_old_version_stays_and_the_answer_says_so(
    tmp_path: Path, district: Path, stick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homeroom_aggregator.merge.rounds.CHECKPOINT_ENTRIES", 1)
    (device,) = joined(tmp_path, district, stick, "one")
    learn(device, 0.5, ["p-17"])
    device.carry_out(stick)
    deliver(district, stick)
    (sent,) = device.carry_in(stick).sent
    one, two = School(), School()
    with closing(open_rounds(district, retain=1)) as rounds:
        for _ in range(4):
            for each in (one, two):
                rounds.update(each.update(rounds.configuration, 0.5, rounds.state.version), each.name)
        assert (rounds.log.number(sent) or 0) <= rounds.log.base
    device.forget("p-17")
    device.carry_out(stick)
    deliver(district, stick)
    answer = device.carry_in(stick)
    assert (answer.unlearned, answer.kept) == ((), (sent,))
    assert device.status()["unlearning_waiting"] == 0
    (said,) = unlearning_lines(answer.unlearning)
    assert "1 update of old versions: it stays in the shared model" in said
    device.close()


def test_an_unlearning_request_goes_by_hand_too(tmp_path: Path, district: Path, stick: Path) -> None:
    (device,) = joined(tmp_path, district, stick, "one")
    learn(device, 0.5, ["p-17"])
    device.carry_out(stick)
    deliver(district, stick)
    (sent,) = device.carry_in(stick).sent
    assert device.forget("p-17").unlearning == (sent,)
    assert device.carry_out(stick).unlearning == 1
    assert deliver(district, stick).unlearned == 1
    assert device.status()["unlearning_waiting"] == 1
    assert device.carry_in(stick).unlearned == (sent,)
    assert device.status()["unlearning_waiting"] == 0
    device.close()
    rounds = open_rounds(district)
    assert rounds.log.withdrawn(sent)
    rounds.close()


def test_by_hand_a_private_round_is_charged_once_and_its_promise_is_held(tmp_path: Path, stick: Path) -> None:
    promise = Privacy(clip_norm=1.0, noise_multiplier=2.0, epsilon=6.0, delta=1e-5)
    district = make_folder(tmp_path, privacy=promise)
    deliver(district, stick)
    (device,) = joined(tmp_path, district, stick, "one")
    learn(device, 0.1)
    for _ in range(3):  # written again and again, it is one update
        assert device.carry_out(stick).updates == 1
    assert len(privacy_ledger.read_ledger(device.store)) == 1
    deliver(district, stick)
    agreement.PROMISE.write(device.store, msgspec.structs.replace(promise, epsilon=1.0))
    with pytest.raises(TrustError, match="promises epsilon 6 now"):
        device.carry_in(stick)
    agreement.PROMISE.write(device.store, promise)
    assert len(device.carry_in(stick).sent) == 1
    device.close()


def test_where_rounds_are_secure_no_update_is_carried_by_itself(tmp_path: Path, stick: Path) -> None:
    district = make_folder(tmp_path, secure=SecureRules(minimum=3, cohort=4), min_devices=3)
    deliver(district, stick)
    (device,) = joined(tmp_path, district, stick, "one")
    learn(device, 0.5)
    assert device.carry_out(stick).updates == 0
    assert deliver(district, stick).accepted == 0
    assert device.carry_in(stick).sent == ()
    device.close()


def test_a_torn_letter_is_left_alone_and_the_next_one_brings_everything(
    tmp_path: Path, district: Path, stick: Path
) -> None:
    one, two = joined(tmp_path, district, stick, "one", "two")
    for device in (one, two):
        learn(device, 0.5)
    torn = one.carry_out(stick).path
    torn.write_bytes(torn.read_bytes()[:-100])
    two.carry_out(stick)
    taken = deliver(district, stick)
    assert taken.accepted == 1
    assert list(taken.unreadable) == [torn.name]
    one.carry_out(stick)
    assert deliver(district, stick).accepted == 1
    for device in (one, two):
        assert len(device.carry_in(stick).sent) == 1
        device.close()


@pytest.mark.parametrize("moment", ["answer", "letter"])
def test_a_stick_pulled_out_at_the_district_loses_nothing(
    tmp_path: Path, district: Path, stick: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    (device,) = joined(tmp_path, district, stick, "one")
    learn(device, 0.5)
    device.carry_out(stick)

    def gone(path: Path, *_: object) -> None:
        if path.suffix == f".{moment}":
            raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as pulled:
        pulled.setattr(letters, "write_durable" if moment == "answer" else "remove", gone)
        with pytest.raises(OSError, match="Input/output"):
            deliver(district, stick)
    taken = deliver(district, stick)
    assert (taken.accepted, taken.already) == (0, 1)
    assert len(device.carry_in(stick).sent) == 1
    device.close()


def test_a_full_stick_is_said_and_the_update_waits(
    tmp_path: Path, district: Path, stick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (device,) = joined(tmp_path, district, stick, "one")
    learn(device, 0.5)
    write = offline.write_durable

    def no_space(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def onto_a_full_stick(path: Path, data: bytes) -> None:
        with monkeypatch.context() as full:
            full.setattr(os, "fsync", no_space)
            write(path, data)

    monkeypatch.setattr(offline, "write_durable", onto_a_full_stick)
    with pytest.raises(DiskFullError):
        device.carry_out(stick)
    monkeypatch.setattr(offline, "write_durable", write)
    assert device.status()["updates_waiting"] == 1
    assert not [path for path in stick.rglob("*") if path.suffix in (".letter", ".new")]
    assert device.carry_out(stick).updates == 1
    device.close()


def test_strangers_files_are_neither_taken_nor_touched(tmp_path: Path, district: Path, stick: Path) -> None:
    (device,) = joined(tmp_path, district, stick, "one")
    folder = next((stick / "homeroom").iterdir())
    foreign = {
        folder / "holiday.jpg": b"\xff\xd8",
        folder / ("0" * 16 + ".letter"): b"not a letter at all",
        folder / ("1" * 16 + ".letter"): seal(b"HRLETTR1", public_hex(X25519PrivateKey.generate()), "letter"),
        folder / "A.LETTER": b"x",
        stick / "autorun.inf": b"[autorun]",
    }
    for path, content in foreign.items():
        path.write_bytes(content)
    (folder / ("2" * 16 + ".letter")).symlink_to(stick / "autorun.inf")
    taken = deliver(district, stick)
    assert taken.messages == 0
    assert sorted(taken.unreadable) == ["0" * 16 + ".letter", "1" * 16 + ".letter"]
    assert all(path.read_bytes() == content for path, content in foreign.items())
    device.close()


def test_a_receiver_or_an_answer_of_another_root_is_refused(tmp_path: Path, district: Path, stick: Path) -> None:
    (device,) = joined(tmp_path, district, stick, "one")
    learn(device, 0.5)
    device.carry_out(stick)
    deliver(district, stick)
    folder = next((stick / "homeroom").iterdir())
    root, false = new_key(), new_key()
    ours = read_facts(district).certificate
    (receiver, answer) = (folder / "receiver.json", next(folder.glob("*.answer")))
    kept = receiver.read_bytes()
    receiver.write_bytes(
        kept.replace(ours.signature.encode(), certify(root, "aggregator", false, "x").signature.encode())
    )
    with pytest.raises(TrustError):
        device.carry_out(stick)
    receiver.write_bytes(kept)
    answer.write_bytes(answer.read_bytes()[:-1] + b"!")
    with pytest.raises(TrustError, match="torn, altered"):
        device.carry_in(stick)
    assert device.status()["updates_waiting"] == 1
    device.close()


def test_a_letter_of_somebody_who_was_not_invited_is_answered_with_the_reason(
    tmp_path: Path, district: Path, stick: Path
) -> None:
    device = school(tmp_path, district)
    key = device_key(device.store)
    assert key is not None
    device.store.put_secret(
        "identity.joining",
        (device.store.get_secret("identity.joining") or b"").replace(b'"code":"', b'"code":"AAAA'),
    )
    device.carry_out(stick)
    assert deliver(district, stick).joined == 0
    with pytest.raises(NetworkError, match="not one of ours"):
        device.carry_in(stick)
    assert not device.status()["joined"]
    device.close()


def test_a_letter_signed_by_one_device_cannot_bring_anothers_update(
    tmp_path: Path, district: Path, stick: Path
) -> None:
    one, two = joined(tmp_path, district, stick, "one", "two")
    learn(one, 0.5)
    path = one.carry_out(stick).path
    (update,) = one.store.outbox.pending()
    thief = device_key(two.store)
    assert thief is not None
    from homeroom.contract.offline_folder import OfflineFolder

    receiver = OfflineFolder(stick, read_facts(district).root).receiver().key
    bundle_id = one.bundle.bundle_id
    path.write_bytes(
        write_message(thief, X25519PrivateKey.generate(), receiver, bundle_id=bundle_id, after=0, updates=[update.data])
    )
    taken = deliver(district, stick)
    assert (taken.accepted, taken.refused) == (0, 1)
    one.close()
    two.close()


def test_a_letter_on_its_way_opens_after_a_backup_was_put_in_place(tmp_path: Path, district: Path, stick: Path) -> None:
    (device,) = joined(tmp_path, district, stick, "one")
    learn(device, 0.5)
    device.carry_out(stick)
    backup.backup(district, tmp_path / "copy")
    backup.restore(tmp_path / "copy", tmp_path / "again")
    taken = deliver(tmp_path / "again", stick)
    assert (taken.messages, taken.refused, taken.unreadable) == (1, 1, {}), "it opens; its update is too old"
    found = device.carry_in(stick)
    assert found.fetched.in_use in ("global", "local")
    assert version_of(tmp_path / "again") == device.status()["global_version"], "and the next training is on this one"
    device.close()


def test_what_is_missing_is_said_with_what_to_do(tmp_path: Path, stick: Path) -> None:
    folder = make_folder(tmp_path)
    device = school(tmp_path, folder)
    with pytest.raises(InputError, match="has not been at the aggregator"):
        device.carry_out(stick)
    with pytest.raises(InputError, match="no answer"):
        device.carry_in(stick)
    with pytest.raises(InputError, match="no such folder"):
        device.carry_out(tmp_path / "unplugged")
    device.close()


def test_the_command_line_carries_both_ways(tmp_path: Path, district: Path, stick: Path) -> None:
    def run(*words: object) -> str:
        done = CliRunner().invoke(homeroom, [str(word) for word in words], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    (invitation,) = invite_devices(district, "http://nowhere.example", 1)
    (tmp_path / "i.json").write_bytes(msgspec.json.encode(invitation))
    run("device", "init", tmp_path / "c", "--bundle", tmp_path / "bundle")
    run("device", "offline", "join", tmp_path / "c", tmp_path / "i.json")
    assert "a request to join" in run("device", "offline", "out", tmp_path / "c", stick)
    assert "1 message, 1 to join" in run("district", "offline", "in", district, stick)
    assert "joined" in run("device", "offline", "in", tmp_path / "c", stick)


@given(st.binary(max_size=300), st.integers(0, 400), st.integers(0, 255))
def test_a_sealed_parcel_opens_whole_for_its_receiver_and_purpose_or_not_at_all(
    plain: bytes, place_: int, change: int
) -> None:
    key, other = X25519PrivateKey.generate(), X25519PrivateKey.generate()
    sealed = seal(plain, public_hex(key), "letter")
    assert unseal(sealed, key, "letter", where="test") == plain
    altered = bytearray(sealed)
    altered[place_ % len(sealed)] ^= change or 1
    for data, with_key, purpose in (
        (bytes(altered), key, "letter"),
        (sealed[:-1], key, "letter"),
        (sealed, other, "letter"),
        (sealed, key, "answer"),
    ):
        with pytest.raises(TrustError):
            unseal(data, with_key, purpose, where="test")
