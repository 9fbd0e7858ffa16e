"""Who comes between a device that joined by TLS and its aggregator gets no code, no update and no signature."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import httpx
import msgspec
import pytest
import stamina
from conftest import Attack
from test_old_release import Old, old
from test_upgrade import LESSON, ROOT_KEY

from aggregator.institution import ROOT, learn, make_folder, staying_port, write_bundle
from aggregator.server.thief import other_key, thief
from homeroom import Device
from homeroom.contract.address import pin_of
from homeroom.contract.invitation import Invitation
from homeroom.contract.signing import new_key, write_key
from homeroom.errors import Code, HomeroomError, NetworkError, TrustError
from homeroom.federation import enrolment
from homeroom.federation.enrolment import set_network
from homeroom.federation.make_update import queue_newest_update
from homeroom.federation.network import discovery, transport
from homeroom.federation.network.client import Client
from homeroom.federation.network.settings import NetworkSettings
from homeroom.federation.network.tls import tls_context
from homeroom.federation.network.transport import Connection, read_bounded
from homeroom_aggregator.admin import backup
from homeroom_aggregator.admin.bundle_upgrade import upgrade_bundle
from homeroom_aggregator.admin.folder import make_invitations
from homeroom_aggregator.admin.reach import invited, local_address

__all__ = ["old"]  # a fixture
SECTION = "who is speaking"


@dataclass
class District:
    """A district served by the true command, on a port that stays."""

    folder: Path
    port: int
    process: subprocess.Popen[str] | None = None

    def serve(self, *words: str) -> str:
        """Start it; what it says until it listens."""
        command = [sys.executable, "-m", "homeroom", "district", "serve", str(self.folder), "--port", str(self.port)]
        output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        self.process = subprocess.Popen([*command, *words], env=os.environ | {"PYTHONUNBUFFERED": "1"}, **output)
        assert self.process.stdout
        said = ""
        for line in self.process.stdout:
            said += line
            if line.startswith("listening on "):
                return said
        raise AssertionError(said)

    def stop(self) -> None:
        if self.process:
            self.process.terminate()
            self.process.wait(60)
            self.process = None

    def invitation(self, address: str) -> Invitation:
        return make_invitations(self.folder, address, [("", "device")], pin=invited(self.folder, address))[0]


@pytest.fixture
def district(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[District]:
    """A new district, not served yet; its devices have no graphs, and find each other on this machine alone."""
    (tmp_path / "keys").mkdir()
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    monkeypatch.setattr("homeroom.inference.golden.choose_precision", lambda *_, **__: {})
    monkeypatch.setattr(discovery, "INTERFACES", ["127.0.0.1"])
    stamina.set_testing(True, attempts=1)
    write_key(tmp_path / "root.pem", ROOT)
    write_bundle(tmp_path / "bundle")
    made = District(tmp_path / "district", staying_port())
    yield made
    made.stop()
    stamina.set_testing(False)


def first_start(district: District) -> str:
    files = ["--bundle", f"{district.folder.parent}/bundle", "--root-key", f"{district.folder.parent}/root.pem"]
    return district.serve("--host", "0.0.0.0", *files, "--buffer", "1", "--min-devices", "1")


def wait_less(monkeypatch: pytest.MonkeyPatch) -> None:
    """For an answer by TLS, which one who speaks in the clear never gives; a sync asks for it five times."""
    for module in (transport, discovery):
        monkeypatch.setattr(module, "CONNECT_TIMEOUT_S", 2.0)


@contextlib.contextmanager
def joined(district: District, tmp_path: Path) -> Iterator[Device]:
    """A device that joined by TLS, with an update that waits; the server is stopped."""
    first_start(district)
    invitation = district.invitation(f"https://127.0.0.1:{district.port}")
    (tmp_path / "invitation.json").write_bytes(msgspec.json.encode(invitation))
    with Device.open(tmp_path / "c", tmp_path / "bundle") as device:
        device.join(tmp_path / "invitation.json")
        district.stop()
        learn(device, 0.5)
        yield device


def still_sends(district: District, device: Device) -> None:
    """Nothing is lost: with the true server back, what waits arrives."""
    district.serve("--host", "0.0.0.0")
    assert len(device.sync().sent) == 1


@contextlib.contextmanager
def announced(port: int, device: Device, scheme: str) -> Iterator[None]:
    known = enrolment.ENROLMENT.read(device.store)
    assert known
    with discovery.announce("0.0.0.0", port, known.root, scheme):
        yield


@pytest.mark.attack(SECTION, "a forged multicast DNS record leads a device down to http, or to another TLS key")
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_forged_announcement_gets_nothing(scheme: str, district: District, tmp_path: Path, attack: Attack) -> None:
    pytest.importorskip("zeroconf")
    with joined(district, tmp_path) as device:
        tls = other_key(tmp_path / "thief") if scheme == "https" else None
        with thief(tls=tls) as liar, announced(liar.port, device, scheme), pytest.raises(NetworkError):
            device.sync()
        assert liar.connections == 0 or scheme == "https"
        attack.got, attack.noticed = liar.got, "the address does not answer; nothing is lost"
        still_sends(district, device)


@pytest.mark.attack(SECTION, "a forged multicast DNS record, whose server passes every question on to the true one")
def test_a_relay_with_a_tls_key_of_its_own_is_not_believed(district: District, tmp_path: Path, attack: Attack) -> None:
    pytest.importorskip("zeroconf")
    with joined(district, tmp_path) as device:
        moved, known = District(district.folder, staying_port()), district.port
        relay, tls = relayed(moved.port), other_key(tmp_path / "thief")
        try:
            with thief(relay, tls) as liar, announced(liar.port, device, "https"):
                moved.serve("--host", "0.0.0.0", "--address", f"https://127.0.0.1:{liar.port}")  # so it answers too
                with pytest.raises(NetworkError):
                    device.sync()
            assert b"/v1/keys" in liar.heard, "it was asked for its keys, and showed the true ones"
            attack.got, attack.noticed = liar.got, "the address does not answer; nothing is lost"
        finally:
            moved.stop()
        assert known == district.port
        still_sends(district, device)


def relayed(port: int) -> object:
    def reply(request: bytes) -> bytes:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with context.wrap_socket(socket.create_connection(("127.0.0.1", port), 5)) as true:
            true.sendall(re.sub(rb"(?i)connection: keep-alive", b"connection: close", request))
            return b"".join(iter(lambda: true.recv(1 << 16), b""))

    return reply


@pytest.mark.attack(SECTION, "another TLS key at the address of a device's server")
def test_another_key_at_the_same_address_gets_no_request(district: District, tmp_path: Path, attack: Attack) -> None:
    with joined(district, tmp_path) as device:
        tls = other_key(tmp_path / "thief")
        with thief(tls=tls, port=district.port) as liar, pytest.raises(NetworkError) as refused:
            device.sync()
        assert refused.value.code == Code.OTHER_TLS_KEY
        attack.got, attack.noticed = liar.got, str(refused.value)
        still_sends(district, device)


@pytest.mark.attack(SECTION, "a proxy in the way takes TLS off")
def test_a_stripped_connection_gets_nothing(
    district: District, tmp_path: Path, attack: Attack, monkeypatch: pytest.MonkeyPatch
) -> None:
    with joined(district, tmp_path) as device:
        wait_less(monkeypatch)
        with thief(port=district.port) as liar, pytest.raises(NetworkError) as refused:
            device.sync()
        attack.got, attack.noticed = liar.got, str(refused.value)
        assert b"HTTP" not in liar.heard
        still_sends(district, device)


@pytest.mark.attack(SECTION, "a redirect leads a device from TLS down to http")
def test_a_redirect_is_never_followed(district: District, tmp_path: Path, attack: Attack) -> None:
    with joined(district, tmp_path) as device:
        with thief() as plain:
            to = f"HTTP/1.1 307 Moved\r\nlocation: http://127.0.0.1:{plain.port}/\r\ncontent-length: 0\r\n\r\n"
            true_key = other_key(district.folder)
            with thief(lambda _: to.encode(), true_key, district.port), pytest.raises(TrustError) as refused:
                device.sync()
        assert refused.value.code == Code.TLS_ONLY
        attack.got, attack.noticed = plain.got + plain.connections, str(refused.value)
        still_sends(district, device)


@pytest.mark.attack(SECTION, "settings, or a second invitation, that lead a device from TLS down to http")
def test_no_setting_and_no_invitation_leads_down(district: District, tmp_path: Path, attack: Attack) -> None:
    with joined(district, tmp_path) as device, thief() as liar:
        plain = f"http://127.0.0.1:{liar.port}"
        before = enrolment.network_settings(device.store)
        with pytest.raises(TrustError) as refused:
            set_network(device.store, address=plain)
        assert refused.value.code == Code.TLS_ONLY
        assert enrolment.network_settings(device.store) == before
        invitation = msgspec.structs.replace(district.invitation(f"https://127.0.0.1:{district.port}"), address=plain)
        (tmp_path / "second.json").write_bytes(msgspec.json.encode(invitation))
        for take in (device.join, device.join_by_hand):
            with pytest.raises(TrustError) as refused:
                take(tmp_path / "second.json")
            assert refused.value.code == Code.TLS_ONLY
        stored = msgspec.structs.replace(before, address=plain)
        enrolment.NETWORK.write(device.store, stored)  # as 0.1.0 allowed it
        with pytest.raises(TrustError) as refused:
            device.sync()
        assert "homeroom device network" in refused.value.remedy
        attack.got, attack.noticed = liar.got + liar.connections, str(refused.value)
        set_network(device.store, address="")
        still_sends(district, device)


# Requests for another authority


@pytest.mark.attack(SECTION, "signed requests and dashboard pages by a name that is not the server's (DNS rebinding)")
def test_another_authority_is_answered_421(district: District, tmp_path: Path, attack: Attack) -> None:
    with joined(district, tmp_path) as device:
        district.serve("--host", "0.0.0.0")
        known = enrolment.ENROLMENT.read(device.store)
        assert known
        evil = msgspec.structs.replace(known, address=f"https://evil.example:{district.port}")
        here = httpx.HTTPTransport(verify=tls_context(known.pin))

        class Elsewhere(httpx.BaseTransport):
            def handle_request(self, request: httpx.Request) -> httpx.Response:
                request.url = request.url.copy_with(host="127.0.0.1")  # as the attacker's name server says
                return here.handle_request(request)

        queue_newest_update(device.store, device.bundle)
        (waiting,) = device.store.outbox.pending()
        rebound = Client(evil, enrolment.device_key(device.store) or new_key(), transport=Elsewhere())
        with contextlib.closing(rebound), pytest.raises(HomeroomError) as refused:
            rebound.update(waiting.data)
        assert "evil.example" in str(refused.value)
        hosts = {"host": "evil.example"}
        with httpx.Client(base_url=f"https://127.0.0.1:{district.port}", verify=False) as browser:
            answers = [browser.get(path, headers=hosts) for path in ("/dashboard", "/dashboard/enter", "/v1/keys")]
            assert browser.get("/v1/health", headers=hosts).status_code == 200
            assert browser.get("/dashboard").status_code == 401
            named = {"host": f"homeroom.lan:{district.port}"}
            assert browser.get("/v1/keys", headers=named).status_code == 421
            assert district.invitation(f"https://{named['host']}").pin == known.pin
            assert browser.get("/v1/keys", headers=named).status_code == 200, "an invitation that names it makes it one"
        assert {answer.status_code for answer in answers} == {421}
        assert answers[-1].json()["code"] == "other_authority"
        report = device.sync()
        assert len(report.sent) == 1, "nothing of it had arrived before"
        attack.noticed = str(refused.value)


def test_a_proxy_counts_where_it_is_stated_and_under_its_path(district: District, tmp_path: Path) -> None:
    first_start(district)
    district.stop()
    where = "https://homeroom.district.example/homeroom"
    district.serve("--host", "127.0.0.1", "--address", where, "--trusted-proxy", "127.0.0.1/32")
    forwarded = {"forwarded": 'for=192.0.2.7, for=192.0.2.60;proto=https;host="homeroom.district.example"'}
    with httpx.Client(base_url=f"http://127.0.0.1:{district.port}") as proxy:
        for path in ("/homeroom/v1/keys", "/v1/keys"):  # the path kept, or taken off
            assert proxy.get(path, headers=forwarded).status_code == 200
            assert proxy.get(path, headers={"x-forwarded-host": "homeroom.district.example"}).status_code == 200
            assert proxy.get(path, headers={"host": "homeroom.district.example"}).status_code == 200
        assert proxy.get("/v1/keys", headers={"x-forwarded-host": "evil.example"}).status_code == 421
        assert proxy.get("/v1/metrics").status_code == 200
        assert proxy.get("/v1/metrics", headers={"x-forwarded-for": "127.0.0.1"}).status_code == 403
    district.stop()
    district.serve("--host", "127.0.0.1", "--address", where)
    with httpx.Client(base_url=f"http://127.0.0.1:{district.port}") as stranger:
        headers = {"host": "evil.example", "x-forwarded-host": "homeroom.district.example"}
        assert stranger.get("/v1/keys", headers=headers).status_code == 421
        assert stranger.get("/v1/metrics", headers={"x-forwarded-for": "127.0.0.1"}).status_code == 403


# Up to TLS


def test_a_district_of_plain_http_says_what_to_do_and_its_devices_go_on_or_up(
    district: District, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_folder(tmp_path, buffer_size=1, min_devices=1)
    said = district.serve("--host", "0.0.0.0", "--insecure")
    assert "whoever is on the network can read every update" in said
    assert "`addresses` of [server]" in said, "as a folder of before knows none"
    invitation = district.invitation(f"http://127.0.0.1:{district.port}")
    assert invitation.pin == ""
    (tmp_path / "invitation.json").write_bytes(msgspec.json.encode(invitation))
    with Device.open(tmp_path / "c", tmp_path / "bundle") as device:
        device.join(tmp_path / "invitation.json")
        district.stop()
        with pytest.raises(AssertionError, match="--insecure goes on as before"):
            district.serve("--host", "0.0.0.0")
        assert not (district.folder / "tls-key.pem").exists()
        district.stop()
        district.serve("--host", "0.0.0.0", "--insecure")
        learn(device, 0.5)
        assert len(device.sync().sent) == 1
        district.stop()
        district.serve("--host", "0.0.0.0", "--no-insecure")
        learn(device, 0.5)
        assert len(device.sync().sent) == 1
        known = enrolment.ENROLMENT.read(device.store)
        assert known
        assert known.address == f"https://127.0.0.1:{district.port}"
        assert known.pin == district.invitation(known.address).pin != ""
        district.stop()
        wait_less(monkeypatch)
        with thief(port=district.port) as liar, pytest.raises(NetworkError):
            device.sync()
        assert liar.got == 0, "and never down again"


def test_a_renewed_certificate_keeps_its_pin_and_a_new_key_is_vouched_for(district: District, tmp_path: Path) -> None:
    with joined(district, tmp_path) as device:
        certificate, key = (district.folder / name for name in ("tls-cert.pem", "tls-key.pem"))
        before, pin = certificate.read_bytes(), invited(district.folder, f"https://127.0.0.1:{district.port}")
        assert key.stat().st_mode & 0o777 == 0o600
        certificate.unlink()
        district.serve("--host", "0.0.0.0")
        assert certificate.read_bytes() != before
        assert invited(district.folder, f"https://127.0.0.1:{district.port}") == pin
        assert len(device.sync().sent) == 1
        district.stop()
        key.unlink()
        district.serve("--host", "0.0.0.0", "--no-insecure")
        assert device.sync().version is not None
        known = enrolment.ENROLMENT.read(device.store)
        assert known
        assert known.pin == invited(district.folder, known.address) != pin


def test_invitations_name_the_address_that_was_served(district: District, tmp_path: Path) -> None:
    first_start(district)
    address = local_address(district.folder, leaves=True)
    assert address.startswith("https://")
    assert address.endswith(f":{district.port}")
    assert not address.startswith("https://0.0.0.0")
    assert len(district.invitation(address).pin) == 64
    assert local_address(district.folder, leaves=False) == f"https://127.0.0.1:{district.port}"
    district.stop()
    backup.backup(district.folder, tmp_path / "monday")
    backup.restore(tmp_path / "monday", tmp_path / "restored")
    upgrade_bundle(tmp_path / "newer", district.folder, write_bundle(tmp_path / "second", version=2))
    for folder in (tmp_path / "restored", tmp_path / "newer"):
        assert local_address(folder, leaves=True) == address
        assert invited(folder, address) == invited(district.folder, address)


def test_a_pinned_connection_takes_one_key_and_no_other(tmp_path: Path) -> None:
    fine = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok"
    with thief(lambda _: fine, other_key(tmp_path / "a")) as one:
        address = f"https://localhost:{one.port}"
        pin = discovery.shown_pin(address)
        assert pin == pin_of(ssl.PEM_cert_to_DER_cert((tmp_path / "a" / "tls-cert.pem").read_text()))
        for known, answers in ((pin, True), ("0" * 64, False), ("", False)):
            line = Connection(address, NetworkSettings(clock="ignore"), pin=known)
            with contextlib.closing(line), contextlib.ExitStack() as raised:
                refused = None if answers else raised.enter_context(pytest.raises(NetworkError))
                answer = line.exchange(lambda line=line: line.request("GET", "/v1/secret"), read_bounded(99, ""))
                assert (answer.body, refused) == (b"ok", None)
    assert one.heard.count(b"/v1/secret") == 1


def test_a_device_of_0_1_0_goes_on_by_tls_and_by_insecure_http(old: Old, district: District, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("word,reference\nthe cat,a cat\n")

    def joins(name: str, address: str) -> None:
        invitation = district.invitation(address)
        (tmp_path / f"{name}.json").write_bytes(msgspec.json.encode(invitation))
        for words in (
            ["add", tmp_path / "rows.csv", "--bundle", LESSON],
            ["join", tmp_path / f"{name}.json"],
            ["sync"],
        ):
            finished = old.run("device", words[0], tmp_path / name, *words[1:])
            assert finished.returncode == 0, finished.stderr

    district.serve("--host", "0.0.0.0", "--bundle", str(LESSON), "--root-key", str(ROOT_KEY))
    certificate = str(district.folder / "tls-cert.pem")
    with mock.patch.dict(os.environ, {"SSL_CERT_FILE": certificate}):  # docs/network.md
        joins("one", f"https://127.0.0.1:{district.port}")
    district.stop()
    district.serve("--host", "0.0.0.0", "--insecure")
    joins("two", f"http://127.0.0.1:{district.port}")
