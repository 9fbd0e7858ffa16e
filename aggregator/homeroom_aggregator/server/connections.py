"""Connections: their number, their time and their bytes bounded in every state, in front of uvicorn's parser.

A connection waits for its client (TLS, a head, a body, the client's reading of an answer) or works (a request is being
answered). Waiting has deadlines; where all places are taken, those that wait make room, the idlest of the greediest
address first, and never one that works. The parser (h11) bounds its own buffer, whatever is in it; it is given few
bytes at a time, so that no single read holds the event loop. A body has a declared length: chunks, their extensions
and their trailers are refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import json
import ssl
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from homeroom_aggregator.admin.configuration import RequestLimits

try:
    import resource
except ImportError:  # Windows, which has no such limit
    resource = None  # type: ignore[assignment]

HEAD_READ_BYTES, BODY_READ_BYTES = 2 << 10, 64 << 10  # at once, so that no connection keeps the parser long
HEAD_LINES = 100
STRANGERS_AT_ONCE, STRANGERS_PAUSE_S = 4, 1.0  # requests on one connection before it is known as a member's
SWEEP_S = 1.0
OTHER_FILES = 128  # descriptors kept for the database, the bundle, the downloads
EVICTED_SHARE = 32  # where all places are taken, one of so many is freed at once
SCOPE_KEY = "homeroom.connection"
TLS_HANDSHAKE = b"\x16\x03"  # how a record of TLS begins (RFC 8446, section 5.1)
Application = Callable[..., Any]


def _refusal(status: str, code: str, message: str, remedy: str) -> bytes:
    body = json.dumps({"code": code, "message": message, "remedy": remedy})
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n{body}".encode()


TOO_LONG = _refusal(
    "431 Request Header Fields Too Large", "too_long", "the head is too long", "send fewer and shorter fields"
)
NO_HTTP = _refusal("400 Bad Request", "malformed", "this is no HTTP request", "speak HTTP/1.1")
FULL = _refusal("503 Service Unavailable", "busy", "too many connections are being answered", "try again in a while")
LENGTH_REQUIRED = json.dumps(
    {"code": "length_required", "message": "a body in chunks is not read", "remedy": "send it with a Content-Length"}
).encode()


class ClientConnection(asyncio.BufferedProtocol):
    """One connection: bounds what uvicorn's protocol, made with its first byte, gets to see.

    since_s: when it began to wait. deadline_s: until when it may; None while a request is answered.
    member: whose signed request came over it. group: its address, or that member's school.
    """

    def __init__(self, all_connections: Connections, make_parser: Callable[[], asyncio.Protocol]) -> None:
        self._all, self._make_parser = all_connections, make_parser
        self._parser: asyncio.Protocol | None = None
        self._raw: asyncio.Transport | None = None
        self._transport: asyncio.Transport | None = None
        self.client, self.group, self.member = ("", 0), "", ""
        self._answers, self.reads_body, self._written, self._drained = 0, False, 0, 0
        self.paused = False  # by the parser
        self.held = list[Callable[[], object]]()  # what gives back once the answer is sent
        self._head_bytes = self._head_lines = 0
        self._early, self._turn_s = b"", 0.0
        self._looked_s = time.monotonic()

    @property
    def answering(self) -> bool:
        """Whether a request is being answered; the next may begin before the work of the one before has ended."""
        return self._answers > 0

    @property
    def waits(self) -> bool:
        """Whether the client is to act next, so that this connection may be closed to make room."""
        return not self.answering or self.reads_body or self.unread() > 0

    def unread(self) -> int:
        """Bytes of answers that wait for the client to read."""
        transport = self._transport or self._raw
        return transport.get_write_buffer_size() if transport else 0

    # The transport's side

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a place, then bring up TLS where the server has it."""
        self._raw = transport
        peer = transport.get_extra_info("peername")
        self.client = (str(peer[0]), int(peer[1])) if isinstance(peer, tuple) else ("", 0)
        self.group = self.client[0]
        self._wait(self._all.limits.headers_s)
        if not self._all.admit(self):
            transport.write(b"" if self._all.tls else FULL)
            transport.close()
        elif self._all.tls:
            transport.pause_reading()
            self._handshake = asyncio.ensure_future(self._start_tls(transport, self._all.tls))
        else:
            self._transport = transport

    async def _start_tls(self, transport: asyncio.Transport, context: ssl.SSLContext) -> None:
        loop, limit_s = asyncio.get_running_loop(), self._all.limits.headers_s
        try:
            self._transport = await loop.start_tls(
                transport, self, context, server_side=True, ssl_handshake_timeout=limit_s
            )
            if self._early:
                self.buffer_updated(0)
        except (OSError, asyncio.CancelledError):  # ssl.SSLError and timeouts are OSErrors
            self._all.leave(self)
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Give the place back."""
        self._all.leave(self)
        while self.held:
            self.held.pop()()
        if self._parser:
            self._parser.connection_lost(exc)

    def get_buffer(self, sizehint: int) -> memoryview:
        """The piece of the common buffer that the next bytes come in."""
        return self._all.buffer[: BODY_READ_BYTES if self.reads_body else HEAD_READ_BYTES]

    def buffer_updated(self, nbytes: int) -> None:
        """Hand bytes to the parser, once they are counted."""
        data, nbytes = self._early + bytes(self._all.buffer[:nbytes]), len(self._early) + nbytes
        if self._transport is None:  # they came with the end of TLS's handshake; one read of them is kept
            self._early = data[:HEAD_READ_BYTES]
            return
        self._early = b""
        if not self.answering:
            if not self._head_bytes:
                self._wait(self._all.limits.headers_s)
                if data.startswith(TLS_HANDSHAKE):  # no line end may ever come: whoever asks for TLS is told at once
                    self._transport.write(NO_HTTP)
                    self._transport.close()
                    return
            head = data.partition(b"\r\n\r\n")[0]  # what follows is a body's beginning, which may hold any bytes
            self._head_bytes, self._head_lines = self._head_bytes + nbytes, self._head_lines + head.count(b"\n")
            if self._head_bytes > self._all.limits.headers_kib << 10 or self._head_lines > HEAD_LINES:
                self._transport.write(TOO_LONG)
                self._transport.close()
                return
        if self._parser is None:
            self._parser = self._make_parser()
            self._parser.connection_made(_Outlet(self, self._transport))  # type: ignore[arg-type]
        self._parser.data_received(data)
        if not self.answering and not self.paused and not self._transport.is_closing():
            self._transport.pause_reading()  # one read a turn: the application begins first, if the head was whole
            asyncio.get_running_loop().call_soon(self._read_on)

    def _read_on(self) -> None:
        if self._transport and not self.paused and not self._transport.is_closing():
            self._transport.resume_reading()

    def eof_received(self) -> bool:
        """Close with the client: what it asked for is not waited for by anybody."""
        return False

    def pause_writing(self) -> None:
        """Tell the parser that the client reads slowly."""
        if self._parser:
            self._parser.pause_writing()

    def resume_writing(self) -> None:
        """Tell the parser that the client reads again."""
        self._give_back()
        if self._parser:
            self._parser.resume_writing()

    # The application's side

    async def turn(self) -> None:
        """Before a request of nobody known is answered: after some at once, the others wait, one a second."""
        now_s = time.monotonic()
        self._turn_s = max(self._turn_s, now_s - STRANGERS_AT_ONCE * STRANGERS_PAUSE_S) + STRANGERS_PAUSE_S
        if not self.member and self._turn_s > now_s:
            self.reads_body = True  # it may make room
            await asyncio.sleep(self._turn_s - now_s)
            self.reads_body = False

    def begin(self) -> None:
        """A request's head is whole: the application answers it in its own time."""
        self._answers, self._head_bytes, self._head_lines = self._answers + 1, 0, 0

    def end(self) -> None:
        """A request is answered, or given up."""
        self._answers -= 1
        if self.answering:
            return
        self._give_back()
        self.reads_body = False
        self._wait(self._all.limits.keep_alive_s)

    def _give_back(self) -> None:
        """Give back what the answer held, unless the client still has to read much of it."""
        while self.held and self.unread() <= BODY_READ_BYTES:
            self.held.pop()()

    def await_body(self) -> None:
        """The application waits for a part of the body."""
        if not self.reads_body:
            self.reads_body, self.since_s = True, time.monotonic()

    def wrote(self, size_bytes: int) -> None:
        """Count what was given to the transport."""
        self._written += size_bytes

    def _wait(self, limit_s: float) -> None:
        self.since_s = time.monotonic()
        self.deadline_s = self.since_s + limit_s

    def overdue(self, now_s: float) -> bool:
        """Whether the client is late with its head, or does not read its answer fast enough."""
        limits, unread = self._all.limits, self.unread()
        if not unread:
            self._looked_s, self._drained = now_s, self._written
            return not self.answering and now_s > self.deadline_s
        if now_s - self._looked_s < limits.headers_s:
            return False
        drained, slowest = self._written - unread, limits.least_kib_s * 1024 * (now_s - self._looked_s)
        slow = drained - self._drained < slowest
        self._drained, self._looked_s = drained, now_s
        return slow

    def abort(self) -> None:
        """Close at once; what was not sent is lost."""
        if transport := self._transport or self._raw:
            transport.abort()


class _Outlet:
    """The transport as the parser sees it; an answer to no request is the parser's refusal, said in our words."""

    def __init__(self, connection: ClientConnection, transport: asyncio.Transport) -> None:
        self._connection, self._transport, self._refused = connection, transport, False

    def write(self, data: bytes) -> None:
        if not self._connection.answering:
            data, self._refused = b"" if self._refused else NO_HTTP, True
        self._connection.wrote(len(data))
        self._transport.write(data)

    def pause_reading(self) -> None:
        self._connection.paused = True
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._connection.paused = False
        self._transport.resume_reading()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Connections:
    """All connections of one server.

    tls: brought up by each connection itself, so that a silent one has its place and its deadline before that.
    ending: whether the server ends; those that wait are then closed.
    """

    def __init__(self, limits: RequestLimits, tls: ssl.SSLContext | None = None) -> None:
        self.limits, self.tls = limits, tls
        self.most = min(limits.connections, raise_file_limit(limits.connections + OTHER_FILES) - OTHER_FILES)
        self.buffer = memoryview(bytearray(BODY_READ_BYTES))
        self.ending: Callable[[], bool] = lambda: False
        self.evicted = 0
        self._open = set[ClientConnection]()
        self._by_client = dict[tuple[str, int], ClientConnection]()
        self._sweeping = False

    def protocol(self, parser: Callable[..., asyncio.Protocol]) -> Callable[..., asyncio.BaseProtocol]:
        """Makes each connection's protocol, in front of one that `parser` makes."""
        return lambda **arguments: ClientConnection(self, lambda: parser(**arguments))

    def admit(self, connection: ClientConnection) -> bool:
        """Take a connection in, if there is room or room can be made."""
        if len(self._open) >= self.most:
            self._make_room()
        fits = len(self._open) < self.most
        if fits:
            self._open.add(connection)
            self._by_client[connection.client] = connection
            if not self._sweeping:
                self._sweeping = True
                asyncio.get_running_loop().call_later(min(SWEEP_S, self.limits.headers_s / 2), self._sweep)
        return fits

    def leave(self, connection: ClientConnection) -> None:
        """A connection is closed."""
        self._open.discard(connection)
        if self._by_client.get(connection.client) is connection:
            del self._by_client[connection.client]

    def _make_room(self) -> None:
        """Close those that wait: strangers' before members', of the address or school with most, the idlest first."""
        waiting = [connection for connection in self._open if connection.waits]
        held = Counter(connection.group for connection in waiting)

        def order(one: ClientConnection) -> tuple[bool, int, float]:
            return bool(one.member), -held[one.group], one.since_s

        for connection in heapq.nsmallest(max(1, self.most // EVICTED_SHARE), waiting, key=order):
            self._evict(connection)

    def _evict(self, connection: ClientConnection) -> None:
        self.evicted += 1
        self.leave(connection)
        connection.abort()

    def belongs(self, connection: ClientConnection, member: str, school: str, most: int) -> None:
        """A member's signed request came over a connection; of more than `most` the idlest are closed, 0 for any."""
        connection.member, connection.group = member, f"school {school}" if school else connection.group
        if most and len(own := [one for one in self._open if one.member == member]) > most:
            waiting = sorted((one for one in own if one.waits), key=lambda one: one.since_s)
            for one in waiting[: len(own) - most]:
                self._evict(one)

    def _sweep(self) -> None:
        now_s, ending = time.monotonic(), self.ending()
        for connection in list(self._open):
            if connection.overdue(now_s) or (ending and not connection.answering):
                self.leave(connection)
                connection.abort()
        self._sweeping = bool(self._open)
        if self._sweeping:
            asyncio.get_running_loop().call_later(min(SWEEP_S, self.limits.headers_s / 2), self._sweep)

    def guard(self, app: Application) -> Application:
        """The application, told to the connection of each request; a body in chunks is refused."""

        async def guarded(scope: dict[str, Any], receive: Application, send: Application) -> None:
            connection, whole = self._by_client.get(scope["client"]), False
            if connection is None:
                return

            async def receive_part() -> Any:
                nonlocal whole
                if not whole:
                    connection.await_body()
                message = await receive()
                whole = whole or not message.get("more_body", False)
                if whole:
                    connection.reads_body = False
                return message

            connection.begin()
            scope[SCOPE_KEY] = connection
            try:
                if any(name == b"transfer-encoding" for name, _ in scope["headers"]):
                    await _refuse_chunks(send)
                else:
                    await app(scope, receive_part, send)
            finally:
                connection.end()

        return guarded


async def _refuse_chunks(send: Application) -> None:
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    headers.append((b"content-length", str(len(LENGTH_REQUIRED)).encode()))
    await send({"type": "http.response.start", "status": 411, "headers": headers})
    await send({"type": "http.response.body", "body": LENGTH_REQUIRED})


def raise_file_limit(wanted: int) -> int:
    """Let this process have so many open files, if its hard limit allows; how many it may have."""
    if resource is None:
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if soft == resource.RLIM_INFINITY else soft
