"""Adversaries with a key: their shares of memory, connections, the log and the writer; what strangers leave behind."""

from __future__ import annotations

import contextlib
import resource
import socket
import ssl
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from conftest import Attack

from aggregator.institution import START, School, enrol, make_folder, running
from aggregator.server.test_server import head_of, self_signed
from homeroom.contract import http_signatures
from homeroom.contract.update_checks import read_update
from homeroom.errors import NetworkError, UpdateError
from homeroom.federation.network.client import Client
from homeroom_aggregator.admin.configuration import DeviceLimits, DistrictConfiguration, RequestLimits
from homeroom_aggregator.merge.replay import Replayed
from homeroom_aggregator.server.auth import Nonces
from homeroom_aggregator.server.rate_limits import MemoryBudget, MemoryHolder, RateMeter
from homeroom_aggregator.server.service import Service, open_service
from homeroom_aggregator.state import audit
from homeroom_aggregator.state.log import Log


def unread_bytes(service: Service) -> int:
    """Bytes of answers that wait for their clients to read."""
    return sum(connection.unread() for connection in service.connections._open)


def test_an_answer_must_be_read_as_fast_as_a_body_must_come(tmp_path: Path) -> None:
    service = open_service(make_folder(tmp_path))
    limits = RequestLimits(headers_s=0.5, least_kib_s=1000)
    service.configuration = DistrictConfiguration(request_limits=limits)
    service.rounds.log.put_version(7, 1, b"v" * 20_000_000)
    with running(service) as address:
        client = enrol(service, address)
        with get_version(client, address, "7"):
            end_s = time.monotonic() + 60
            while unread_bytes(service) == 0 and time.monotonic() < end_s:
                time.sleep(0.05)
            assert unread_bytes(service) > 0
            while unread_bytes(service) and time.monotonic() < end_s:
                time.sleep(0.05)
            assert unread_bytes(service) == 0, "it was hung up on"
    service.close()


def get_version(client: Client, address: str, number: str) -> socket.socket:
    """A line on which a version was asked for, with little room for the answer."""
    nonce = httpx.get(f"{address}/v1/health").headers[http_signatures.NONCE_HEADER]
    host, port = address.removeprefix("http://").split(":")
    path = f"/v1/versions/{number}"
    request = http_signatures.Request("GET", f"{address}{path}", {"Host": f"{host}:{port}"})
    http_signatures.sign_request(request, b"", client.key, nonce)
    lines = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    line = socket.create_connection((host, int(port)), timeout=60)
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    line.sendall(f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode())
    return line


@pytest.mark.attack("bounds", "one nonce for many bodies")
def test_a_nonce_opens_one_body(service: Service, address: str, attack: Attack) -> None:
    head = head_of(enrol(service, address).key, address, "content-length: 300000\r\n")
    host, port = address.removeprefix("http://").split(":")
    with contextlib.ExitStack() as stack:
        lines = [stack.enter_context(socket.create_connection((host, int(port)), timeout=60)) for _ in range(8)]
        for line in lines:
            line.sendall(head + bytes(300_000))
        refused = 0
        for line in lines:
            answer = b""
            while not answer.endswith(b"}") and (part := line.recv(4000)):
                answer += part
            refused += b'"code":"nonce"' in answer
        attack.got += len(lines) - 1 - refused
    end_s = time.monotonic() + 60
    while service.room.used_bytes and time.monotonic() < end_s:
        time.sleep(0.05)
    assert service.room.used_bytes == 0


@pytest.mark.attack("bounds", "a device that fills the bodies' memory")
def test_a_device_and_a_school_have_a_share_of_the_memory(attack: Attack) -> None:
    room = MemoryBudget(1000)
    device, neighbour, other = MemoryHolder("a", "Hill"), MemoryHolder("b", "Hill"), MemoryHolder("c", "Dale")
    assert room.take(600, device), "a single body may be as long as it may be"
    assert room.take(100, device, 600), "and goes on"
    assert not room.take(100, device)
    assert not room.take(10, neighbour)
    assert room.take(100, other)
    room.give_back(700, device)
    assert room.take(100, device)
    assert room.take(150, device)
    assert not room.take(1, device)
    attack.got += max(0, room.used_bytes - 350)
    room.give_back(250, device)
    room.give_back(100, other)
    assert (room.used_bytes, len(room._held)) == (0, 0)


@pytest.mark.attack("bounds", "a device that asks for many versions and reads none")
def test_answers_that_wait_to_be_read_have_a_share(service: Service, address: str, attack: Attack) -> None:
    service.sending.limit_bytes, service.room.limit_bytes = 24_000_000, 24_000_000
    service.rounds.log.put_version(7, 1, b"v" * 12_000_000)  # more than the system's own buffers take
    client = enrol(service, address)
    with contextlib.ExitStack() as stack:
        lines_open = [stack.enter_context(get_version(client, address, "7")) for _ in range(4)]
        sent_whole = sum(b" 200 " in line.recv(100)[:20] for line in lines_open)
        attack.got += max(0, sent_whole - 1)
    assert client.send("GET", "/v1/health", signed=False)


def test_a_devices_connections_and_requests_at_once_are_bounded(service: Service) -> None:
    limits = DeviceLimits(connections=4, at_once=2)
    service.configuration = DistrictConfiguration(device_limits=limits)
    with running(service) as address:
        first = enrol(service, address)
        clients = [Client(first.enrolment, first.key) for _ in range(9)]
        for client in clients:
            client.round()
        assert sum(one.member != "" for one in service.connections._open) <= 4
        service.at_once[School(first.key).name] = 2
        with pytest.raises(NetworkError, match="being answered"):
            first.round()
        service.at_once.clear()
        first.round()
        for client in [*clients, first]:
            client.close()


@pytest.mark.attack("bounds", "a log full of one device's entries")
def test_machines_and_withdrawals_have_a_days_share(service: Service, address: str, attack: Attack) -> None:
    limits = DeviceLimits(audit_entries_a_day=3, withdrawals_a_day=3)
    service.meter = RateMeter(limits)
    client = enrol(service, address)
    for number in range(12):
        client.instance = f"machine {number}"
        client.round()
    database = service.rounds.log.database
    moved = sum(entry.event == "moved" for entry in audit.records(database))
    attack.got += max(0, moved - 3)
    for number in range(3):
        client.unlearn(f"{number:032x}")
    with pytest.raises((NetworkError, UpdateError), match="withdrawals"):
        client.unlearn("f" * 32)
    meter = RateMeter(DeviceLimits(withdrawals_a_day=1))
    taken = [meter.share("withdrawals", f"device {number}", "Hill") == 0 for number in range(30)]
    assert taken == [True] * 20 + [False] * 10, "a school's devices share twenty"


@pytest.mark.attack("bounds", "withdrawals that hold the writer with replays")
def test_a_withdrawal_is_replayed_beside_the_writer(
    service: Service, address: str, attack: Attack, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds, clients = service.rounds, [enrol(service, address) for _ in range(4)]
    configuration, waits, replayed = clients[0].round(), threading.Event(), rounds.replayed

    def slow(log: Log) -> Replayed:
        result = replayed(log)
        waits.wait(60)
        return result

    monkeypatch.setattr(rounds, "replayed", slow)
    monkeypatch.setattr("homeroom_aggregator.merge.withdrawals.REPLAYED_AT_ONCE", 0)
    data = School(clients[0].key).update(configuration, 0.25)
    assert clients[0].update(data) == "accepted"
    update_id = read_update(data, configuration, rounds.rules.layout).header.update_id
    assert clients[0].unlearn(update_id).status == "accepted"
    for client in clients[1:3]:
        assert client.update(School(client.key).update(configuration, 0.5)) == "accepted"
    assert (rounds.stale, rounds.state.version) == (True, 0), "updates are let in, nothing is released"
    second = School(clients[3].key).update(configuration, 0.75)
    assert clients[3].update(second) == "accepted"
    other = read_update(second, configuration, rounds.rules.layout).header.update_id
    assert clients[3].unlearn(other).status == "accepted"
    attack.got += rounds.state.version
    waits.set()
    end_s = time.monotonic() + 60
    while rounds.stale and time.monotonic() < end_s:
        time.sleep(0.05)
    assert rounds.state.version == 1
    assert rounds.verify() == []
    np.testing.assert_array_equal(rounds.state.theta[:7], START[:7] + np.float32(0.5))
    attack.noticed = "updates accepted while the replay went on"


def test_used_nonces_cost_a_bit() -> None:
    clock = [0.0]
    nonces = Nonces(lambda: clock[0])
    given = [nonces.new("a") for _ in range(2000)]
    assert all(nonces.use(nonce, "a") for nonce in given)
    assert not any(nonces.use(nonce, "a") for nonce in given)
    assert len(nonces._used._bits) <= 251
    clock[0] = 601.0
    late = nonces.new("a")
    assert nonces.use(late, "a")
    assert not nonces.use(late, "a")
    assert not any(nonces.use(nonce, "a") for nonce in given)
    clock[0] = 1300.0
    assert nonces.use(nonces.new("a"), "a")
    assert not nonces.use(late, "a")


@pytest.mark.attack("bounds", "a stranger's connection that asks for answers without a pause")
def test_a_strangers_connection_has_few_answers_at_once(
    service: Service, address: str, attack: Attack, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = enrol(service, address)
    with httpx.Client() as stranger:
        start_s = time.monotonic()
        for _ in range(6):
            assert stranger.get(f"{address}/v1/health").status_code == 200
        took_s = time.monotonic() - start_s
    attack.got += took_s < 1.5
    client.round()
    monkeypatch.setattr("homeroom_aggregator.server.connections.STRANGERS_PAUSE_S", 1000.0)
    for _ in range(5):
        client.round()  # a member's waits for nothing
    attack.noticed = f"six answers in {took_s:.1f} s"


def test_a_stranger_leaves_nothing(service: Service, address: str) -> None:
    enrol(service, address)
    stranger = School()
    for _ in range(3):
        nonce = httpx.get(f"{address}/v1/health").headers[http_signatures.NONCE_HEADER]
        request = http_signatures.Request("GET", f"{address}/v1/round", {"Host": address.removeprefix("http://")})
        http_signatures.sign_request(request, b"", stranger.key, nonce)
        assert httpx.get(f"{address}/v1/round", headers=dict(request.headers)).status_code == 403
        assert service.nonces.unused(nonce, stranger.name), "no trace of a nonce"
    assert stranger.name not in str(service.meter._uses)
    assert service.rounds.log.database.rows("SELECT * FROM contacts WHERE device = ?", (stranger.name,)) == []


@pytest.mark.attack("bounds", "silent connections before TLS")
def test_silent_connections_before_tls_make_room(service: Service, tmp_path: Path, attack: Attack) -> None:
    certificate, key = self_signed(tmp_path)
    service.configuration = DistrictConfiguration(request_limits=RequestLimits(connections=40, headers_s=20.0))
    with running(service, certificate, key) as address, contextlib.ExitStack() as stack:
        host, port = address.removeprefix("http://").split(":")
        for _ in range(100):
            stack.enter_context(socket.create_connection((host, int(port)), timeout=60))
        trusting = ssl.create_default_context(cafile=certificate)
        secure = address.replace("http://", "https://")
        attack.got += httpx.get(f"{secure}/v1/health", verify=trusting, timeout=60).status_code != 200
        assert service.connections.evicted >= 60


def test_as_many_connections_as_there_are_descriptors(tmp_path: Path) -> None:
    from homeroom_aggregator.server.connections import OTHER_FILES, Connections, raise_file_limit

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
        assert raise_file_limit(600) >= 600, "the soft limit is raised"
        assert Connections(RequestLimits(connections=100)).most == 100
        assert Connections(RequestLimits(connections=10**9)).most <= 10**9 - OTHER_FILES
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
