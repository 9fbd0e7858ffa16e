"""A member's request goes before those of strangers, however many wait; and a connection leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import socket
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest
from conftest import Attack
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from aggregator.institution import School, enrol, make_folder, running
from aggregator.server.test_server import head_of
from homeroom.contract import http_signatures
from homeroom.federation.network.client import Client
from homeroom_aggregator.server import requests
from homeroom_aggregator.server.connections import ClientConnection
from homeroom_aggregator.server.eviction import EvictionOrder
from homeroom_aggregator.server.lanes import StrangersLane
from homeroom_aggregator.server.service import Service, open_service

NONCE = http_signatures.NONCE_HEADER
ASK = b"GET /v1/health HTTP/1.1\r\nhost: x\r\n\r\n"


def connect(address: str) -> socket.socket:
    host, port = address.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=60)


@pytest.mark.attack("bounds", "strangers that keep the server busy with requests")
def test_members_are_answered_before_strangers_that_wait(
    tmp_path: Path, attack: Attack, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = open_service(make_folder(tmp_path))
    answered, newest = Counter[str](), service.reader.newest

    def slow() -> int:
        answered["strangers"] += 1
        time.sleep(0.01)
        return newest()

    with running(service) as address, contextlib.ExitStack() as stack:
        client = enrol(service, address)
        client.round()
        monkeypatch.setattr(service.reader, "newest", slow)
        for _ in range(200):
            stack.enter_context(connect(address)).sendall(ASK * 4)
        for _ in range(10):
            client.round()
        before_new = answered["strangers"]
        Client(client.enrolment, client.key).round()  # on a connection that is nobody's yet
        assert 0 < before_new < 400
        assert answered["strangers"] < 500, "800 wait"
        attack.got += answered["strangers"] >= 500
        attack.noticed = f"eleven answers, while {answered['strangers']} of 800 strangers' were given"
    service.close()


def signed(key: Ed25519PrivateKey, address: str, method: str, nonce: str) -> bytes:
    """A signed request without a body."""
    path = {"GET": "/v1/versions/latest", "POST": "/v1/nothing"}[method]
    request = http_signatures.Request(method, address + path, {"Host": address.removeprefix("http://")})
    http_signatures.sign_request(request, b"", key, nonce)
    lines = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    return f"{method} {path} HTTP/1.1\r\n{lines}content-length: 0\r\n\r\n".encode()


def test_a_poll_does_not_wait_for_all_who_send(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service, begun, senders = open_service(make_folder(tmp_path)), list[str](), 20
    proceed = ClientConnection.proceed

    def slow(self: ClientConnection) -> None:
        begun.append("POST" if self._come.startswith(b"POST") else "GET")
        time.sleep(0.01)
        proceed(self)

    with running(service) as address, contextlib.ExitStack() as stack:
        lines, posts = [], list[bytes]()
        for key in [enrol(service, address).key for _ in range(senders + 1)]:
            line = stack.enter_context(connect(address))
            line.sendall(signed(key, address, "GET", httpx.get(f"{address}/v1/keys").headers[NONCE]))
            answer = line.recv(4096).decode("latin-1")
            lines.append(line)
            posts.append(
                signed(
                    key, address, "GET" if len(lines) > senders else "POST", answer.split(f"{NONCE}: ")[1].split()[0]
                )
            )
        monkeypatch.setattr(ClientConnection, "proceed", slow)
        for line, request in zip(lines, posts, strict=True):
            line.sendall(request)
        lines[-1].recv(4096)
        assert begun.index("GET") < senders / 2, "twenty members sent before it"
        for line in lines[:-1]:
            assert line.recv(4096), "nobody is forgotten"
    service.close()


def test_a_stranger_has_one_turn_of_the_loop() -> None:
    proceeded, turns = list[tuple[str, int]](), [0]

    class Waiting:
        def __init__(self, name: str) -> None:
            self.name = name

        def proceed(self) -> None:
            proceeded.append((self.name, turns[0]))

    async def run(under_way: bool) -> None:
        proceeded.clear()
        lane, gone = StrangersLane(lambda: under_way), Waiting("gone")
        for name, rank in (("late", 9), ("first", 1), ("second", 2), ("newest", 1), ("member's", 0)):
            lane.add(Waiting(name), rank)
        lane.add(gone, 0)
        lane.discard(gone)
        while len(proceeded) < 5:
            turns[0] += 1
            await asyncio.sleep(0)
        lane.add(Waiting("again"), 0)
        while len(proceeded) < 6:
            await asyncio.sleep(0)

    for under_way in (False, True):
        asyncio.run(run(under_way))
        assert [name for name, _ in proceeded] == ["member's", "newest", "first", "second", "late", "again"]
        assert len({turn for _, turn in proceeded[:5]}) == 5


def test_a_head_that_names_a_member_and_its_nonce_goes_first(service: Service, address: str) -> None:
    client = enrol(service, address)
    head = head_of(client.key, address, "content-length: 0\r\n")
    assert requests.names_member(service, head)
    assert not requests.names_member(service, head_of(School().key, address)), "nobody's key"
    assert not requests.names_member(service, head.replace(b';nonce="', b';nonce="A')), "no nonce of ours"
    assert not requests.names_member(service, ASK)
    with connect(address) as line:
        line.sendall(head)
        line.recv(4096)
    assert not requests.names_member(service, head), "a nonce that was used"


def test_requests_may_be_cut_anywhere_and_follow_each_other_at_once(service: Service, address: str) -> None:
    body = b'{"code": "\n\n"}'
    post = b"POST /v1/join HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
    whole = ASK + post + body + ASK
    cuts = random.Random(1).sample(range(1, len(whole)), 12)
    cuts += [len(ASK) - 1, len(ASK), len(ASK + post) - 1, len(ASK + post), len(ASK + post + body)]
    for cut in [0, *cuts]:
        with connect(address) as line:
            if cut:
                line.sendall(whole[:cut])
                time.sleep(0.02)
            line.sendall(whole[cut:])
            answers = b""
            while answers.count(b"HTTP/1.1 ") < 3 or not answers.endswith(b"}"):
                answers += line.recv(4096)
            assert [part[:3] for part in answers.split(b"HTTP/1.1 ")[1:]] == [b"200", b"401", b"200"], cut


def test_the_next_request_is_answered_though_the_file_before_is_still_being_closed(
    service: Service, address: str
) -> None:
    client, bundle = enrol(service, address), service.downloads.bundle
    with httpx.Client() as line:
        for _ in range(20):
            nonce = line.get(f"{address}/v1/keys").headers[http_signatures.NONCE_HEADER]
            request = http_signatures.Request(
                "GET", f"{address}{bundle['path']}", {"Host": address.removeprefix("http://")}
            )
            http_signatures.sign_request(request, b"", client.key, nonce)
            assert len(line.get(f"{address}{bundle['path']}", headers=dict(request.headers)).content) == bundle["size"]


def test_connections_leave_nothing_to_the_garbage_collector(service: Service, address: str) -> None:
    refused = b"GET /v1/round HTTP/1.1\r\nhost: x\r\n\r\n"
    gc.collect()
    gc.disable()
    try:
        for said in (b"", ASK[:10], ASK, refused, ASK * 10, b"\x16\x03\x01"):
            with contextlib.ExitStack() as stack:
                for _ in range(5):
                    line = stack.enter_context(connect(address))
                    line.sendall(said)
                    if len(said) > 10:
                        line.recv(100)
        end_s = time.monotonic() + 60
        while left() and time.monotonic() < end_s:
            time.sleep(0.1)
        assert left() == 0
    finally:
        gc.enable()


def left() -> int:
    """How many connections are in memory."""
    return sum(type(one) is ClientConnection for one in gc.get_objects())


def test_the_idlest_of_who_has_most_makes_room() -> None:
    working = set[int]()
    order = EvictionOrder[int](lambda item: item not in working)
    for item, holder in enumerate("aabbbcb"):
        order.add(item, holder)
    assert order.first() == 2, "b has most"
    order.add(2, "b")
    assert order.first() == 3, "2 was heard of"
    working.add(3)
    assert order.first() == 4
    assert 3 not in order, "it comes back once it waits"
    for item in (4, 6, 2):
        order.discard(item)
    assert order.first() == 0, "a has most"
    for item in (0, 0, 1, 5):
        order.discard(item)
    assert order.first() is None
