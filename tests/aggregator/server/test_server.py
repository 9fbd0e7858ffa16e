"""The server as a process on a network: slow, huge and strange requests, TLS, a full disk, a polite end."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import itertools
import json
import logging
import socket
import ssl
import threading
import time
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID

from aggregator.institution import School, enrol, latest, make_folder, running
from homeroom.contract import http_signatures
from homeroom.errors import DiskFullError, InputError, NetworkError, UpdateError
from homeroom.federation.network.client import Client
from homeroom_aggregator.admin.configuration import DistrictConfiguration, RequestLimits
from homeroom_aggregator.admin.folder import open_rounds
from homeroom_aggregator.merge import checkpoint
from homeroom_aggregator.server import metrics, serve
from homeroom_aggregator.server.service import Service, open_service


def connect(address: str) -> socket.socket:
    host, port = address.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=60)


def test_who_sends_no_headers_is_hung_up_on(tmp_path: Path) -> None:
    service = open_service(make_folder(tmp_path))
    service.configuration = DistrictConfiguration(request_limits=RequestLimits(headers_s=0.2))
    with running(service) as address, connect(address) as line:
        line.sendall(b"GET /v1/health HTTP/1.1\r\nhost: x\r\n")
        assert line.recv(100) == b""
    service.close()


def for_ever(line: socket.socket) -> None:
    for number in range(20_000):
        line.sendall(b"x-%d: %s\r\n" % (number, b"y" * 1000))


def test_who_sends_no_end_of_headers_or_slow_ones_later_is_hung_up_on(tmp_path: Path) -> None:
    service = open_service(make_folder(tmp_path))
    good = b"GET /v1/health HTTP/1.1\r\nhost: x\r\n\r\n"
    with running(service) as address:
        with connect(address) as line:
            line.sendall(good)
            answer = line.recv(1000)
            while not answer.endswith(b"}"):  # head and body may come apart
                answer += line.recv(1000)
            assert b" 200 " in answer
            service.connections.limits = RequestLimits(headers_s=0.2)  # not before: a busy machine sends late
            line.sendall(good[:20])  # the second request of the same connection
            assert line.recv(100) == b""
        with connect(address) as line:
            line.sendall(b"GET /v1/health HTTP/1.1\r\nhost: x\r\n")
            with pytest.raises((BrokenPipeError, ConnectionResetError)):
                for_ever(line)
        assert httpx.get(f"{address}/v1/health").status_code == 200
    service.close()


@pytest.mark.parametrize(
    "said",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /\xff HTTP/1.1\r\nhost: x\r\n\r\n",
        b"POST /v1/join HTTP/1.1\r\nhost: x\r\ncontent-length: -5\r\n\r\n",
        b"POST /v1/join HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
        b"\r\nGET /v1/health HTTP/1.1\r\nhost: x\r\n\r\n",
        b"NONSENSE\r\n\r\n",
    ],
    ids=["tls", "not ascii", "negative length", "two lengths", "empty line", "no request"],
)
def test_what_is_no_http_is_refused_in_the_same_words(service: Service, address: str, said: bytes) -> None:
    with connect(address) as line:
        line.sendall(said)
        answer = b"".join(iter(lambda: line.recv(4096), b""))
        assert answer.startswith(b"HTTP/1.1 400")
        assert json.loads(answer.split(b"\r\n\r\n")[1])["code"] == "malformed"
    assert httpx.get(f"{address}/v1/health").status_code == 200


def test_after_a_refused_body_the_connection_ends(service: Service, address: str) -> None:
    with connect(address) as line:
        line.sendall(b"POST /v1/join HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n" + bytes(1000))
        assert b"connection: close" in line.recv(4096).lower()


def test_who_trickles_a_body_is_refused_while_others_are_served(service: Service) -> None:
    with running(service) as address, connect(address) as line:
        member = enrol(service, address)
        service.configuration = DistrictConfiguration(request_limits=RequestLimits(body_s=0.3))
        line.sendall(head_of(member.key, address, "content-length: 1000\r\n") + b"x")
        assert httpx.get(f"{address}/v1/health").status_code == 200
        assert b" 408 " in line.recv(1000)


LONG = "content-length: 50000000\r\n"


def head_of(key: Ed25519PrivateKey, address: str, length: str = LONG) -> bytes:
    """The head of a signed update, of which no byte ever follows."""
    host = address.removeprefix("http://")
    nonce = httpx.get(f"{address}/v1/health").headers[http_signatures.NONCE_HEADER]
    request = http_signatures.Request("POST", f"{address}/v1/updates", {"Host": host})
    http_signatures.sign_request(request, b"never sent", key, nonce)
    lines = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    return f"POST /v1/updates HTTP/1.1\r\n{lines}{length}\r\n".encode()


def said(address: str, head: bytes) -> str:
    """The code of the refusal that comes although the body does not."""
    with connect(address) as line:
        line.sendall(head)
        answer = b"".join(iter(lambda: line.recv(4096), b""))
        return str(json.loads(answer.split(b"\r\n\r\n")[1])["code"])


def test_no_body_of_a_stranger_is_read(service: Service, address: str) -> None:
    member, length = enrol(service, address).key, LONG
    assert said(address, f"POST /v1/updates HTTP/1.1\r\nhost: x\r\n{length}\r\n".encode()) == "bad_signature"
    assert said(address, head_of(School().key, address, length)) == "unknown_device"
    stranger, mine = School(), School(member)
    forged = head_of(stranger.key, address, length).replace(stranger.name.encode(), mine.name.encode())
    assert said(address, forged) == "bad_signature", "it names a member's key, and has not got it"
    with connect(address) as line:
        line.sendall(head_of(member, address, length))
        line.settimeout(0.3)
        with pytest.raises(TimeoutError):  # the member's is waited for
            line.recv(1)
    assert service.room.used_bytes == 0


def test_bodies_that_fill_the_memory_are_told_to_come_back(service: Service, address: str) -> None:
    client = enrol(service, address)
    data = School(client.key).update(client.round(), 0.5)
    service.room.limit_bytes = len(data) - 1
    with pytest.raises(NetworkError, match="too many are sending"):
        client.update(data)
    assert service.room.used_bytes == 0
    service.room.limit_bytes = len(data)
    assert client.update(data) == "accepted"
    assert service.room.used_bytes == 0


def test_a_compressed_body_and_a_false_length_are_refused(service: Service, address: str) -> None:
    squeezed = httpx.post(f"{address}/v1/updates", content=b"x", headers={"content-encoding": "gzip"})
    assert (squeezed.status_code, squeezed.json()["code"]) == (415, "malformed")
    with connect(address) as line:
        line.sendall(b"POST /v1/unlearn HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n")
        assert b" 413 " in line.recv(1000)
    member = enrol(service, address).key
    assert said(address, head_of(member, address, LONG.replace("5", "999"))) == "too_long"
    assert httpx.post(f"{address}/v1/join", content=bytes(1 << 17)).status_code == 413


def test_updates_that_come_together_share_a_step_and_fail_alone(service: Service) -> None:
    rounds, schools = service.rounds, [School() for _ in range(6)]
    updates = [s.update(rounds.configuration, 0.5) for s in schools]
    updates[2] = b"no update"

    async def all_at_once() -> list[object]:
        jobs = (
            service.writer.do(lambda u=u, s=s: rounds.update(u, s.name)[1])  # type: ignore[misc]
            for u, s in zip(updates, schools, strict=True)
        )
        return await asyncio.gather(*jobs, return_exceptions=True)

    found = asyncio.run(all_at_once())
    assert [f for f in found if f == "accepted"] == ["accepted"] * 5
    assert isinstance(found[2], UpdateError)
    assert rounds.log.count("update") == 5
    assert rounds.verify() == []


def test_jobs_that_shared_a_step_come_back_one_in_a_turn_of_the_event_loop(service: Service) -> None:
    turns: list[int] = []

    async def watched() -> None:
        now, over = 0, False

        async def count() -> None:
            nonlocal now
            while not over:
                now += 1
                await asyncio.sleep(0)

        async def job() -> None:
            await service.writer.do(lambda: None)
            turns.append(now)

        counting = asyncio.create_task(count())
        hold = asyncio.create_task(service.writer.do(lambda: time.sleep(0.1)))  # so that the others gather behind it
        await asyncio.gather(hold, *(job() for _ in range(6)))
        over = True
        await counting

    asyncio.run(watched())
    assert len(set(turns)) == 6, "a poll would have waited for all of them"


def test_an_answer_in_two_parts_does_not_wait_for_an_acknowledgement() -> None:
    at_once: list[int] = []

    async def accepted() -> None:
        done = asyncio.Event()

        async def look(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            line = writer.get_extra_info("socket")
            at_once.append(line.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()
            done.set()

        with serve.listen("127.0.0.1", 0) as listening:
            async with await asyncio.start_server(look, sock=listening):
                _, writer = await asyncio.open_connection(*listening.getsockname())
                await done.wait()
                writer.close()

    asyncio.run(accepted())
    assert at_once
    assert all(at_once)


def send_for_ever(clients: list[Client]) -> None:
    """Two of them, each on version after version."""
    configuration = clients[0].round()
    for version in itertools.count():
        for client in clients:
            client.update(School(client.key).update(configuration, 0.5, version))


def test_a_full_disk_refuses_all_that_shared_the_step_and_loses_nothing(service: Service, address: str) -> None:
    clients = [enrol(service, address) for _ in range(3)]
    updates = [School(c.key).update(c.round(), 0.5) for c in clients]
    database = service.rounds.log.database
    before = checkpoint.pack(service.rounds.state)
    pages = database.one("PRAGMA page_count")[0]
    database.write(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(NetworkError, match="disk is full"):
        send_for_ever([clients[0], clients[2]])
    told = service.rounds.log.count("update"), checkpoint.pack(service.rounds.state)
    assert service.rounds.verify() == []
    assert httpx.get(f"{address}/v1/health").status_code == 200
    database.write(f"PRAGMA max_page_count = {1 << 30}")
    assert clients[1].update(updates[1]) == "accepted"
    assert service.rounds.log.count("update") == told[0] + 1
    assert before != checkpoint.pack(service.rounds.state)
    assert service.rounds.verify() == []


def test_a_step_that_cannot_be_ended_is_told_to_everyone_in_it(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds, school = service.rounds, School()
    before = checkpoint.pack(rounds.state)

    def full() -> None:
        rounds.log.database.connection.execute("ROLLBACK")  # as SQLite does by itself
        raise DiskFullError("no space left")

    async def both() -> list[object]:
        data = school.update(rounds.configuration, 0.5)
        jobs = (service.writer.do(lambda: rounds.update(data, school.name)), service.writer.do(full))
        return await asyncio.gather(*jobs, return_exceptions=True)

    assert all(isinstance(found, DiskFullError) for found in asyncio.run(both()))
    assert checkpoint.pack(rounds.state) == before
    assert rounds.log.count("update") == 0


def test_a_polite_end_leaves_nothing_to_compute(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    service = open_service(folder)
    with running(service) as address:
        client = enrol(service, address)
        client.update(School(client.key).update(client.round(), 0.5))
    service.close()
    again = open_rounds(folder)
    assert again.log.checkpoints()[-1] == again.log.last()
    assert again.state.pending == 1
    assert again.verify() == []
    again.close()


def test_a_line_for_each_request_tells_nothing_about_people(
    service: Service, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = enrol(service, address)
    with caplog.at_level(logging.INFO, logger=metrics.LOGGER.name):
        client.round()
        with pytest.raises(UpdateError):
            client.update(b"no update")
    lines = [json.loads(record.message) for record in caplog.records if record.name == metrics.LOGGER.name]
    assert [line["route"] for line in lines] == ["/keys", "/round", "/updates"]
    assert lines[-1]["code"] == "malformed"
    assert set(lines[-1]) == {"at", "method", "route", "status", "ms", "bytes", "device", "code"}
    assert lines[-1]["device"] == client.key.public_key().public_bytes_raw().hex()[:8]
    assert 'homeroom_refused{code="malformed"} 1.0' in httpx.get(f"{address}/v1/metrics").text


@pytest.mark.parametrize(
    ("path", "method", "status", "code"),
    [
        ("/v1/nothing", "GET", 404, "no_route"),
        ("/", "GET", 404, "no_route"),
        ("/v1/round", "DELETE", 405, "no_method"),
        ("/v1/versions/" + "9" * 5000, "GET", 404, "no_route"),
        ("/v1/versions/" + "9" * 18, "GET", 401, "bad_signature"),
        ("/v1/versions/-1", "GET", 404, "no_route"),
    ],
)
def test_what_no_route_answers_has_a_code_and_a_line_in_the_log(
    address: str, caplog: pytest.LogCaptureFixture, path: str, method: str, status: int, code: str
) -> None:
    with caplog.at_level(logging.INFO, logger=metrics.LOGGER.name):
        answer = httpx.request(method, address + path)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    lines = [json.loads(record.message) for record in caplog.records if record.name == metrics.LOGGER.name]
    assert [line["code"] for line in lines] == [code]


def test_a_fault_of_the_servers_own_is_told_without_a_traceback(
    service: Service, address: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(service.reader, "newest", lambda: 1 // 0)
    answer = httpx.get(f"{address}/v1/health")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert "division" not in answer.text
    assert any(record.exc_info for record in caplog.records), "the operator sees what it was"


def self_signed(folder: Path) -> tuple[Path, Path]:
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    today = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(today - datetime.timedelta(days=1))
        .not_valid_after(today + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "tls.crt").write_bytes(certificate.public_bytes(pem))
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "tls.key").write_bytes(private)
    return folder / "tls.crt", folder / "tls.key"


def test_tls_by_two_files(service: Service, tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path)
    with running(service, certificate, key) as address:
        trusting = ssl.create_default_context(cafile=certificate)
        secure = address.replace("http://", "https://")
        assert httpx.get(f"{secure}/v1/health", verify=trusting).json()["status"] == "ok"
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{secure}/v1/health")
    with pytest.raises(InputError, match="no TLS"):
        serve.tls_context(key, certificate)


def test_polls_are_answered_while_the_writer_is_busy(service: Service, address: str) -> None:
    client, begun, goes_on = enrol(service, address), threading.Event(), threading.Event()
    client.round()

    def hold() -> None:
        begun.set()
        goes_on.wait(60)

    async def busy() -> None:
        await service.writer.do(hold)

    working = threading.Thread(target=lambda: asyncio.run(busy()))
    working.start()
    assert begun.wait(60)
    client.round()
    latest(client, 0)
    assert working.is_alive(), "the polls waited for the writer"
    goes_on.set()
    working.join()


def test_a_look_at_the_log_that_fails_does_not_end_the_writer(
    service: Service, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed, data_version = threading.Event(), service.rounds.log.data_version

    def fail_once() -> int:
        if failed.is_set():
            return data_version()
        failed.set()
        raise DiskFullError("no space left")

    monkeypatch.setattr("homeroom_aggregator.server.write_thread.LOOK_ELSEWHERE_S", 0.01)
    client = enrol(service, address)
    monkeypatch.setattr(service.rounds.log, "data_version", fail_once)
    assert failed.wait(60)
    assert client.update(School(client.key).update(client.round(), 0.5)) == "accepted"
