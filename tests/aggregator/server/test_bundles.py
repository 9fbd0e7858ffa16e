"""A device gets its bundle from the aggregator: the first one by an invitation, a newer one when the server goes on."""

from __future__ import annotations

from pathlib import Path

import httpx
import msgspec
import pytest
from click.testing import CliRunner

from aggregator.institution import ROOT, make_folder, running, write_bundle
from homeroom import Device
from homeroom.cli.main import homeroom
from homeroom.contract.http_signatures import INVITATION_HEADER
from homeroom.contract.invitation import enrolment_of
from homeroom.contract.secagg import SecureRules
from homeroom.contract.signing import fingerprint, new_key, public_hex
from homeroom.errors import AnswerError, BundleError, NetworkError, TrustError
from homeroom.federation.network.client import Client
from homeroom.federation.network.transport import read_bounded
from homeroom_aggregator.admin.bundle_upgrade import upgrade_bundle
from homeroom_aggregator.admin.folder import invite_devices
from homeroom_aggregator.server.service import open_service


@pytest.fixture(autouse=True)
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keys").mkdir()
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    monkeypatch.setattr(
        "homeroom.inference.golden.choose_precision", lambda *_, **__: {}
    )  # these bundles hold no graphs


def invite(folder: Path, address: str, out: Path) -> Path:
    (invitation,) = invite_devices(folder, address, 1)
    out.write_bytes(msgspec.json.encode(invitation))
    return out


def run(*words: object) -> str:
    done = CliRunner().invoke(homeroom, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_who_joins_secure_rounds_reads_how_many_devices_of_a_school_are_in_a_sum(tmp_path: Path) -> None:
    rules = SecureRules(minimum=3, cohort=4, drop_rate=0.25)
    service = open_service(make_folder(tmp_path, min_devices=3, secure=rules, school_devices=2))  # type: ignore[arg-type]
    with running(service) as address:
        invitation = invite(tmp_path / "district", address, tmp_path / "invitation.json")
        told = run("device", "join", tmp_path / "classroom", invitation)
    service.close()
    assert "a sum has at most 2 devices of one school" in told


def test_an_invitation_is_all_that_a_new_device_needs_and_a_newer_bundle_follows(tmp_path: Path) -> None:
    old, classroom = make_folder(tmp_path, k_of="schools", min_devices=2), tmp_path / "classroom"
    service = open_service(old)
    with running(service) as address:
        invitation = invite(old, address, tmp_path / "invitation.json")
        assert "lesson version 1" in run("device", "fetch", classroom, invitation)
        assert not list((classroom / "downloads").iterdir())
        told = run("device", "join", classroom, invitation)
        assert " ".join(told.split()) == "joined: a version here is made of what 2 schools learned, or more"
        assert "is the newest" in run("device", "upgrade", classroom)
    service.close()

    write_bundle(tmp_path / "bundle-2", version=2)
    run("district", "upgrade-bundle", tmp_path / "new", old, "--bundle", tmp_path / "bundle-2")
    later = open_service(tmp_path / "new")
    with running(later) as moved:
        run("device", "network", classroom, "--address", moved)
        with Device.open(classroom) as device, pytest.raises(TrustError, match="another bundle") as caught:
            device.sync()
        assert "device upgrade" in caught.value.remedy
        assert "lesson version 2 is now in use" in run("device", "upgrade", classroom)
        with Device.open(classroom) as device:
            assert device.sync().version is None  # enrolled still, with the key it had
    later.close()


def test_letters_on_their_way_open_in_the_folder_that_takes_over(tmp_path: Path) -> None:
    old, stick = make_folder(tmp_path), tmp_path / "stick"
    stick.mkdir()
    run("district", "offline", "in", old, stick)
    (prepared,) = stick.rglob("receiver.json")
    before = prepared.read_bytes()
    write_bundle(tmp_path / "bundle-2", version=2)
    run("district", "upgrade-bundle", tmp_path / "new", old, "--bundle", tmp_path / "bundle-2")
    run("district", "offline", "in", tmp_path / "new", stick)
    assert prepared.read_bytes() == before


def test_an_older_bundle_or_one_of_another_name_is_not_taken(tmp_path: Path) -> None:
    folder, classroom = make_folder(tmp_path), tmp_path / "classroom"
    write_bundle(tmp_path / "bundle-3", version=3)
    write_bundle(tmp_path / "maths", name="maths", version=9)
    service = open_service(folder)
    with running(service) as address:
        run("device", "fetch", classroom, invitation := invite(folder, address, tmp_path / "invitation.json"))
        run("device", "join", classroom, invitation)
        run("device", "init", classroom, "--bundle", tmp_path / "bundle-3")
        with Device.open(classroom) as device, pytest.raises(BundleError, match="not newer"):
            device.update_bundle()
    service.close()
    upgrade_bundle(tmp_path / "new", folder, tmp_path / "maths")
    other = open_service(tmp_path / "new")
    with running(other) as address:
        run("device", "network", classroom, "--address", address)
        with Device.open(classroom) as device:
            with pytest.raises(BundleError, match="not newer"):
                device.update_bundle()
            assert device.status()["bundle"]["version"] == 3
    other.close()


def test_a_bundle_is_for_members_and_for_who_holds_an_invitation(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    service = open_service(folder)
    with running(service) as address:
        path = f"/v1/bundles/{service.rounds.bundle.bundle_id}"
        assert httpx.get(f"{address}{path}").json()["code"] == "bad_signature"
        (invitation,) = invite_devices(folder, address, 1)
        stranger = Client(enrolment_of(invitation), new_key())

        def status(code: str) -> int:
            read = read_bounded(1 << 30, "test")
            return stranger.ask("GET", path, headers=lambda: {INVITATION_HEADER: code}, read_file=read).status

        assert [status(code) for code in ("", "A" * 48, invitation.code)] == [403, 403, 200]
        service.rounds.log.database.write("UPDATE invitations SET revoked = 1")
        assert status(invitation.code) == 403
        answer = stranger.ask("GET", path, headers=lambda: {INVITATION_HEADER: invitation.code})
        assert b"it was used, has ended or was taken back; ask for a new one" in answer.body
    service.close()


def test_a_bundle_of_another_root_is_not_even_fetched(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    service = open_service(folder)
    with running(service) as address:
        path = invite(folder, address, tmp_path / "invitation.json")
        ours, theirs = (fingerprint(public_hex(key)).encode() for key in (ROOT, new_key()))
        path.write_bytes(path.read_bytes().replace(ours, theirs))
        done = CliRunner().invoke(homeroom, ["device", "fetch", str(tmp_path / "c"), str(path)])
        assert isinstance(done.exception, AnswerError)
        assert not (tmp_path / "c").exists()
    service.close()


def test_a_server_that_hands_out_another_file_is_found_out(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    service = open_service(folder)
    with running(service) as address:
        path = invite(folder, address, tmp_path / "invitation.json")
        archive = service.downloads.archive
        archive.write_bytes(archive.read_bytes()[:-1] + b"!")
        done = CliRunner().invoke(homeroom, ["device", "fetch", str(tmp_path / "c"), str(path)])
        assert isinstance(done.exception, NetworkError)
        assert not list((tmp_path / "c" / "downloads").iterdir())
    service.close()
