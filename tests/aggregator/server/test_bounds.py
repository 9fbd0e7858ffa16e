"""Adversaries without a key, or with one, against the server as a process: it stays small, and honest requests go on.

Each attack goes on while an honest device asks for the round. The server's memory is that of its process.
"""

from __future__ import annotations

import contextlib
import resource
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from conftest import Attack

from aggregator.institution import START, School, make_folder, running
from aggregator.server.test_kill import kill, start
from aggregator.server.test_server import head_of, self_signed
from homeroom.contract import http_signatures
from homeroom.contract.update_checks import read_update
from homeroom.errors import NetworkError, UpdateError
from homeroom.federation.network.client import Client, join
from homeroom_aggregator.admin.configuration import DeviceLimits, DistrictConfiguration, RequestLimits
from homeroom_aggregator.admin.configuration_file import write_file
from homeroom_aggregator.admin.folder import invite_devices, read_facts
from homeroom_aggregator.merge.replay import Replayed
from homeroom_aggregator.server.auth import Nonces
from homeroom_aggregator.server.rate_limits import Holder, MemoryBudget, RateMeter
from homeroom_aggregator.server.service import Service, open_service
from homeroom_aggregator.state import audit
from homeroom_aggregator.state.log import Log

MOST_GROWTH_MB = 40
SLOWEST_S = 5.0  # an honest request on a busy machine


@dataclass
class Server:
    """The process, its address, and an honest device that asks for the round."""

    process: subprocess.Popen[str]
    address: str
    device: Client

    def connect(self) -> socket.socket:
        host, port = self.address.removeprefix("http://").split(":")
        return socket.create_connection((host, int(port)), timeout=10)

    def memory_mb(self) -> float:
        return float(psutil.Process(self.process.pid).memory_info().rss) / 1e6

    def honest_s(self) -> float:
        """Seconds that the honest device's request takes."""
        start_s = time.monotonic()
        self.device.round()
        return time.monotonic() - start_s


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = make_folder(tmp_path_factory.mktemp("bounds"))
    limits = RequestLimits(headers_s=2.0, keep_alive_s=2, body_s=2.0, connections=300)
    devices, rounds = DeviceLimits(requests_a_minute=0), read_facts(folder).configuration
    write_file(
        folder,
        DistrictConfiguration(institution="District 7", round=rounds, request_limits=limits, device_limits=devices),
    )
    process, address = start(folder)
    (invitation,) = invite_devices(folder, address, 1)
    key = School().key
    try:
        yield Server(process, address, Client(join(invitation, key), key))
    finally:
        kill(process)


def under(server: Server, attack: Attack, hostile: Callable[[], int]) -> None:
    """Run an attack; afterwards and meanwhile the honest device is answered, and the server has not grown."""
    server.honest_s()
    before_mb, times, over = server.memory_mb(), list[float](), threading.Event()

    def honest() -> None:
        while not over.is_set():
            times.append(server.honest_s())
            time.sleep(0.05)

    watching = threading.Thread(target=honest)
    watching.start()
    got = hostile()
    over.set()
    watching.join(30)
    times.append(server.honest_s())
    grown_mb = server.memory_mb() - before_mb
    attack.got += got
    attack.noticed = f"server +{max(0.0, grown_mb):.0f} MB, slowest honest request {max(times):.2f} s"
    assert grown_mb < MOST_GROWTH_MB
    assert max(times) < SLOWEST_S


def sent(line: socket.socket, data: bytes, most: int, seconds: float = 5.0) -> int:
    """Bytes that a server took before it hung up."""
    total, end_s = 0, time.monotonic() + seconds
    with contextlib.suppress(OSError):
        while total < most and time.monotonic() < end_s:
            total += line.send(data)
    return total


CHUNKED = b"POST /v1/updates HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
ENDLESS = {
    "trailers": (CHUNKED + b"1\r\nx\r\n0\r\n", b"x-a: " + b"y" * 1000 + b"\r\n"),
    "one-byte chunks": (CHUNKED, b"1\r\nx\r\n" * 1000),
    "chunk extensions": (CHUNKED + b"1", b";a=" + b"y" * 1000),
    "chunk length": (CHUNKED, b"0" * 1000),
    "headers": (b"GET /v1/health HTTP/1.1\r\nhost: x\r\n", b"x-a: " + b"y" * 1000 + b"\r\n"),
    "short headers": (b"GET /v1/health HTTP/1.1\r\nhost: x\r\n", b"a:\r\n" * 1000),
    "one header": (b"GET /v1/health HTTP/1.1\r\nx-a: ", b"y" * 4000),
    "request line": (b"GET /", b"y" * 4000),
    "body of nobody": (b"POST /v1/join HTTP/1.1\r\nhost: x\r\ncontent-length: 999999999\r\n\r\n", b"y" * 4000),
    "empty lines": (b"", b"\r\n" * 2000),
}


@pytest.mark.parametrize(
    "state",
    [
        pytest.param(state, marks=pytest.mark.attack("bounds", f"a request without an end: {state}"))
        for state in ENDLESS
    ],
)
def test_no_state_of_the_parser_takes_bytes_for_ever(server: Server, attack: Attack, state: str) -> None:
    head, more = ENDLESS[state]
    most = 50_000_000

    def hostile() -> int:
        with server.connect() as line:
            line.sendall(head)
            return int(sent(line, more, most) >= most)

    under(server, attack, hostile)


@pytest.mark.attack("bounds", "silent connections")
@pytest.mark.parametrize(
    "said", [b"", b"GET /v1/heal", b"POST /v1/join HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{"]
)
def test_silent_connections_make_room_for_those_that_ask(server: Server, attack: Attack, said: bytes) -> None:
    def hostile() -> int:
        lines = []
        with contextlib.ExitStack() as stack:
            for _ in range(600):  # twice as many as there are places
                line = stack.enter_context(server.connect())
                with contextlib.suppress(OSError):
                    line.sendall(said)
                lines.append(line)
            statuses = [httpx.get(f"{server.address}/v1/health", timeout=10).status_code for _ in range(5)]
        return sum(status != 200 for status in statuses)

    under(server, attack, hostile)


@pytest.mark.attack("bounds", "a long Signature-Input")
def test_a_long_signature_is_refused_before_it_is_parsed(server: Server, attack: Attack) -> None:
    inputs = "b=(" + ' "x"' * 3000 + ");created=0"
    head = f"GET /v1/round HTTP/1.1\r\nhost: x\r\nsignature: b=:AA==:\r\nsignature-input: {inputs}\r\n\r\n".encode()

    def hostile() -> int:
        parsed = 0
        with server.connect() as line:
            for _ in range(20):
                line.sendall(head)
                answer = line.recv(1000)
                while not answer.endswith(b"}"):
                    answer += line.recv(1000)
                parsed += b"is longer than" not in answer
        return parsed

    under(server, attack, hostile)


@pytest.mark.attack("bounds", "answers that nobody reads")
def test_who_does_not_read_its_answers_is_hung_up_on(server: Server, attack: Attack) -> None:
    ask = b"GET /v1/keys HTTP/1.1\r\nhost: x\r\n\r\n" * 100

    def hostile() -> int:
        with server.connect() as line:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            return int(sent(line, ask, 20_000_000, 8.0) >= 20_000_000)

    under(server, attack, hostile)


# With a key


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    opened = open_service(make_folder(tmp_path))
    yield opened
    opened.close()


@pytest.fixture
def address(service: Service) -> Iterator[str]:
    with running(service) as where:
        yield where


def enrol(service: Service, address: str, school: str = "") -> Client:
    (invitation,) = invite_devices(service.rounds.log.database.path.parent, address, 1)
    key = School().key
    return Client(join(invitation, key), key)


@pytest.mark.attack("bounds", "one nonce for many bodies")
def test_a_nonce_opens_one_body(service: Service, address: str, attack: Attack) -> None:
    head = head_of(enrol(service, address).key, address, "content-length: 300000\r\n")
    host, port = address.removeprefix("http://").split(":")
    with contextlib.ExitStack() as stack:
        lines = [stack.enter_context(socket.create_connection((host, int(port)), timeout=5)) for _ in range(8)]
        for line in lines:
            line.sendall(head + bytes(300_000))
        time.sleep(0.5)
        refused = 0
        for line in lines[:]:
            refused += b'"code":"nonce"' in line.recv(4000)
        attack.got += len(lines) - 1 - refused
        assert service.room.used_bytes == 0


@pytest.mark.attack("bounds", "a device that fills the bodies' memory")
def test_a_device_and_a_school_have_a_share_of_the_memory(attack: Attack) -> None:
    room = MemoryBudget(1000)
    device, neighbour, other = Holder("a", "Hill"), Holder("b", "Hill"), Holder("c", "Dale")
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
    service.sending.limit_bytes, service.room.limit_bytes = 8_000_000, 8_000_000
    service.rounds.log.put_version(7, 1, b"v" * 1_500_000)
    client = enrol(service, address)
    host, port = address.removeprefix("http://").split(":")
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            nonce = (
                client.send("GET", "/v1/health", signed=False)
                and httpx.get(f"{address}/v1/health").headers[http_signatures.NONCE_HEADER]
            )
            request = http_signatures.Request("GET", f"{address}/v1/versions/7", {"Host": f"{host}:{port}"})
            http_signatures.sign_request(request, b"", client.key, nonce)
            lines = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
            line = stack.enter_context(socket.create_connection((host, int(port)), timeout=5))
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            line.sendall(f"GET /v1/versions/7 HTTP/1.1\r\n{lines}\r\n".encode())
        time.sleep(1)
        attack.got += max(0, service.sending.used_bytes - 2_000_000)
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
        waits.wait(20)
        return result

    monkeypatch.setattr(rounds, "replayed", slow)
    data = School(clients[0].key).update(configuration, 0.25)
    assert clients[0].update(data) == "accepted"
    update_id = read_update(data, configuration, rounds.rules.layout).header.update_id
    assert clients[0].unlearn(update_id) == "accepted"
    for client in clients[1:3]:
        assert client.update(School(client.key).update(configuration, 0.5)) == "accepted"
    assert (rounds.stale, rounds.state.version) == (True, 0), "updates are let in, nothing is released"
    second = School(clients[3].key).update(configuration, 0.75)
    assert clients[3].update(second) == "accepted"
    other = read_update(second, configuration, rounds.rules.layout).header.update_id
    assert clients[3].unlearn(other) == "accepted"
    attack.got += rounds.state.version
    waits.set()
    end_s = time.monotonic() + 20
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
def test_a_strangers_connection_has_few_answers_at_once(service: Service, address: str, attack: Attack) -> None:
    client = enrol(service, address)
    with httpx.Client() as stranger:
        start_s = time.monotonic()
        for _ in range(6):
            assert stranger.get(f"{address}/v1/health").status_code == 200
        took_s = time.monotonic() - start_s
    attack.got += took_s < 1.5
    start_s = time.monotonic()
    for _ in range(20):
        client.round()
    assert time.monotonic() - start_s < 6, "a member's waits for nothing"
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
            stack.enter_context(socket.create_connection((host, int(port)), timeout=5))
        trusting = ssl.create_default_context(cafile=certificate)
        secure = address.replace("http://", "https://")
        attack.got += httpx.get(f"{secure}/v1/health", verify=trusting, timeout=20).status_code != 200
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
