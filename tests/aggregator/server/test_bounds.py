"""Adversaries without a key, or with one, against the server as a process: it stays small, and honest requests go on.

Each attack goes on while an honest device asks for the round. The server's memory is that of its process.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import httpx
import psutil
import pytest
from conftest import Attack

from aggregator.institution import School, make_folder
from aggregator.server.test_kill import kill, start
from homeroom.federation.network.client import Client, join
from homeroom_aggregator.admin.configuration import DeviceLimits, DistrictConfiguration, RequestLimits
from homeroom_aggregator.admin.configuration_file import write_file
from homeroom_aggregator.admin.folder import invite_devices, read_facts

MOST_GROWTH_MB = 40
SLOWEST_S = 30.0  # an honest request on a busy machine


@dataclass
class Server:
    """The process, its address, and an honest device that asks for the round."""

    process: subprocess.Popen[str]
    address: str
    device: Client

    def connect(self) -> socket.socket:
        host, port = self.address.removeprefix("http://").split(":")
        return socket.create_connection((host, int(port)), timeout=60)

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
    watching.join(60)
    times.append(server.honest_s())
    grown_mb = server.memory_mb() - before_mb
    attack.got += got
    attack.noticed = f"server +{max(0.0, grown_mb):.0f} MB, slowest honest request {max(times):.2f} s"
    assert grown_mb < MOST_GROWTH_MB
    assert max(times) < SLOWEST_S


def sent(line: socket.socket, data: bytes, most: int, seconds: float = 3.0) -> int:
    """Bytes that a server took before it hung up."""
    total, end_s = 0, time.monotonic() + seconds
    line.settimeout(seconds)
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


def test_a_body_in_chunks_and_too_many_lines_are_refused(server: Server) -> None:
    with server.connect() as line:
        line.sendall(CHUNKED + b"1\r\nx\r\n0\r\n\r\n")
        answer = b"".join(iter(lambda: line.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 411 ")
    assert b'"length_required"' in answer
    with server.connect() as line:
        line.sendall(b"GET /v1/health HTTP/1.1\r\nhost: x\r\n" + b"a:\r\n" * 150)
        answer = b"".join(iter(lambda: line.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 431 ")


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
            statuses = [httpx.get(f"{server.address}/v1/health", timeout=60).status_code for _ in range(5)]
        return sum(status != 200 for status in statuses)

    under(server, attack, hostile)


@pytest.mark.attack("bounds", "a long Signature-Input")
def test_a_long_signature_is_refused_before_it_is_parsed(server: Server, attack: Attack) -> None:
    inputs = "b=(" + ' "x"' * 3000 + ");created=0"
    head = f"GET /v1/round HTTP/1.1\r\nhost: x\r\nsignature: b=:AA==:\r\nsignature-input: {inputs}\r\n\r\n".encode()

    def hostile() -> int:
        parsed = 0
        with server.connect() as line:
            for _ in range(3):
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
            return int(sent(line, ask, 20_000_000) >= 20_000_000)

    under(server, attack, hostile)


def test_whoever_asks_a_plain_server_for_tls_is_told_at_once(server: Server) -> None:
    host, _, port = server.address.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), 60) as raw:
        raw.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64))
        assert raw.recv(1 << 16).startswith(b"HTTP/1.1 400")
        assert raw.recv(1) == b""
