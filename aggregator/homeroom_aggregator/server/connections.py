"""Connections: their number, their time and their bytes bounded in every state, in front of uvicorn's parser.

A connection waits for its client (TLS, a head, a body, the client's reading of an answer) or works (a request is being
answered). Waiting has deadlines; where all places are taken, those that wait make room, the idlest of the greediest
address first, and never one that works. A head is gathered here and costs next to nothing until it is whole; then one
request at a time goes to the parser (h11), a member's that only reads at once, others one a turn (`lanes`). A body has
a declared length: chunks, their extensions and their trailers are refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from homeroom_aggregator.admin.configuration import RequestLimits
from homeroom_aggregator.server.eviction import EvictionOrder
from homeroom_aggregator.server.heads import NO_HTTP, RequestHead, read_head, refusal
from homeroom_aggregator.server.lanes import SendersLane, StrangersLane

try:
    import resource
except ImportError:  # Windows, which has no such limit
    resource = None  # type: ignore[assignment]

HEAD_READ_BYTES, BODY_READ_BYTES = 16 << 10, 64 << 10  # at once
STRANGERS_AT_ONCE, STRANGERS_PAUSE_S = 4, 1.0  # requests on one connection before it is known as a member's
SWEEP_S = 1.0
OTHER_FILES = 128  # descriptors kept for the database, the bundle, the downloads
SCOPE_KEY = "homeroom.connection"
FULL = refusal("503 Service Unavailable", "busy", "too many connections are being answered", "try again in a while")
Application = Callable[..., Any]


class ClientConnection(asyncio.BufferedProtocol):
    """One connection: bounds what uvicorn's protocol, made with its first request, gets to see.

    since_s: when it began to wait. deadline_s: until when it may.
    member: whose signed request came over it. group: its address, or that member's school.
    answering: whether a request of it is with the parser or the application.
    begun: whether the application has it; what the parser writes before is its refusal.
    paused: whether the parser has as much as it wants.
    """

    def __init__(self, all_connections: Connections) -> None:
        self._all = all_connections
        self._parser: asyncio.Protocol | None = None
        self._raw: asyncio.Transport | None = None
        self._transport: asyncio.Transport | None = None
        self.client, self.group, self.member = ("", 0), "", ""
        self.answering, self.reads_body, self._written, self._drained = False, False, 0, 0
        self.begun = self.paused = self._stopped = False
        self.held = list[Callable[[], object]]()  # what gives back once the answer is sent
        self._come, self._searched = bytearray(), 0  # of the next request and those behind it
        self._next: RequestHead | None = None  # whole, and waits for its turn
        self._body_bytes = 0  # of the body that is under way, not here yet
        self._asked, self._turn_s = 0, 0.0  # while it was nobody's
        self._looked_s = time.monotonic()

    @property
    def waits(self) -> bool:
        """Whether the client is to act next, so that this connection may be closed to make room."""
        return not self.answering or self.reads_body or self.unread() > 0

    @property
    def closing(self) -> bool:
        """Whether nothing is to be read any more."""
        return self._transport is None or self._transport.is_closing()

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
        if not self._all.admit(self):
            transport.write(b"" if self._all.tls else FULL)
            transport.close()
            return
        self._wait(self._all.limits.headers_s)
        if self._all.tls:
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
            self._look()
        except (OSError, asyncio.CancelledError):  # ssl.SSLError and timeouts are OSErrors
            self._all.leave(self)
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Give the place back."""
        self._all.leave(self)
        while self.held:
            self.held.pop()()
        if self._parser:
            self._parser.connection_lost(None)  # whatever broke: with an exception its timer would keep all in memory
            self._parser = None  # they know each other: the garbage collector would have to find them, and stop all

    def get_buffer(self, sizehint: int) -> memoryview:
        """The piece of the common buffer that the next bytes come in."""
        return self._all.buffer[: BODY_READ_BYTES if self._body_bytes else HEAD_READ_BYTES]

    def buffer_updated(self, nbytes: int) -> None:
        """Hand a body's bytes to the parser, and gather those of heads."""
        data = bytes(self._all.buffer[:nbytes])
        if self._body_bytes and self._parser:
            part, data = data[: self._body_bytes], data[self._body_bytes :]
            self._body_bytes -= len(part)
            self._parser.data_received(part)
        if data:
            self._come += data
            self._look()

    def _look(self) -> None:
        """Look whether the next head is whole; then a member's request begins, and a stranger's waits for its turn."""
        if self.answering or self._next or self.closing or not self._come:
            self.read_on()
            return
        if not self._searched:
            self._wait(self._all.limits.headers_s)
        head, self._searched = read_head(self._come, self._searched, self._all.most_head_bytes), len(self._come)
        if head and head.refusal:
            self._refuse(head.refusal)
        elif head:
            self._next = head
            if self.member and head.only_reads:
                self.proceed()
            elif self.member:
                self._all.senders.add(self)
            else:
                self._take_turn(bytes(self._come[: head.end]))

    def _take_turn(self, head: bytes) -> None:
        wait_s = self._turn_s + STRANGERS_PAUSE_S - time.monotonic()
        rank = 0 if self._all.names_member(head) else 1 + self._asked
        if wait_s > 0:
            asyncio.get_running_loop().call_later(wait_s, self._all.strangers.add, self, rank)
        else:
            self._all.strangers.add(self, rank)

    def _refuse(self, answer: bytes) -> None:
        if self._transport:
            self._transport.write(answer)
            self._transport.close()

    def proceed(self) -> None:
        """Give the request whose head is whole to the parser."""
        head, self._next = self._next, None
        if head is None or self._transport is None or self.closing:
            return
        request = bytes(self._come[: head.end + head.body_bytes])
        del self._come[: len(request)]
        self._searched, self._body_bytes = 0, head.end + head.body_bytes - len(request)
        self.answering, self.begun, self._asked = True, False, self._asked + 1
        self._all.works(self)
        if self._parser is None:
            self._parser = self._all.make_parser()
            self._parser.connection_made(_Outlet(self, self._transport))  # type: ignore[arg-type]
        self._parser.data_received(request)
        if self.closing:  # it was refused
            self.answering = False
            self._all.idles(self)
        self.read_on()

    def read_on(self) -> None:
        """Read, unless the parser has enough, or as much has come as a head may have."""
        stops = self.paused or len(self._come) > self._all.most_head_bytes
        if self._transport is None or self.closing or stops == self._stopped:
            return
        self._stopped = stops
        if stops:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def eof_received(self) -> bool:
        """Close with the client: what it asked for is not waited for by anybody."""
        return False

    def pause_writing(self) -> None:
        """Tell the parser that the client reads slowly; it may make room."""
        self._all.idles(self)
        if self._parser:
            self._parser.pause_writing()

    def resume_writing(self) -> None:
        """Tell the parser that the client reads again."""
        self._give_back()
        if self._parser:
            self._parser.resume_writing()

    # The application's side

    def count(self) -> None:
        """Count a request of nobody known: after some at once, its next ones wait, one a second."""
        if not self.member:
            now_s = time.monotonic()
            self._turn_s = max(self._turn_s, now_s - STRANGERS_AT_ONCE * STRANGERS_PAUSE_S) + STRANGERS_PAUSE_S

    def end(self) -> None:
        """A request is answered, or given up: the next may begin."""
        self._give_back()
        self.answering = self.reads_body = False
        self._wait(self._all.limits.keep_alive_s)
        self._look()

    def _give_back(self) -> None:
        """Give back what the answer held, unless the client still has to read much of it."""
        while self.held and self.unread() <= BODY_READ_BYTES:
            self.held.pop()()

    def await_body(self) -> None:
        """The application waits for a part of the body."""
        if not self.reads_body:
            self.reads_body, self.since_s = True, time.monotonic()
            self._all.idles(self)

    def wrote(self, size_bytes: int) -> None:
        """Count what was given to the transport."""
        self._written += size_bytes

    def _wait(self, limit_s: float) -> None:
        self.since_s = time.monotonic()
        self.deadline_s = self.since_s + limit_s
        self._all.idles(self)

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
        if not self._connection.begun:
            data, self._refused = b"" if self._refused else NO_HTTP, True
        self._connection.wrote(len(data))
        self._transport.write(data)

    def pause_reading(self) -> None:
        self._connection.paused = True
        self._connection.read_on()

    def resume_reading(self) -> None:
        self._connection.paused = False
        self._connection.read_on()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Connections:
    """All connections of one server.

    tls: brought up by each connection itself, so that a silent one has its place and its deadline before that.
    ending: whether the server ends; those that wait are then closed.
    names_member: whether a head says that a member signed it, so that it goes before those of others.
    """

    def __init__(self, limits: RequestLimits, tls: ssl.SSLContext | None = None) -> None:
        self.limits, self.tls = limits, tls
        self.most = min(limits.connections, raise_file_limit(limits.connections + OTHER_FILES) - OTHER_FILES)
        self.buffer = memoryview(bytearray(BODY_READ_BYTES))
        self.ending: Callable[[], bool] = lambda: False
        self.names_member: Callable[[bytes], bool] = lambda _: False
        self.make_parser: Callable[[], asyncio.Protocol] = asyncio.Protocol  # until the first connection
        self.evicted, self.most_head_bytes = 0, limits.headers_kib << 10
        self._open = set[ClientConnection]()
        self._by_client = dict[tuple[str, int], ClientConnection]()
        self._of_member = dict[str, set[ClientConnection]]()
        self._idle_strangers = EvictionOrder[ClientConnection](lambda one: one.waits)
        self._idle_members = EvictionOrder[ClientConnection](lambda one: one.waits)
        self._members_under_way = 0
        self.strangers = StrangersLane(lambda: self._members_under_way > 0)
        self.senders = SendersLane()
        self._sweeping = False

    def protocol(self, parser: Callable[..., asyncio.Protocol]) -> Callable[..., asyncio.BaseProtocol]:
        """Makes each connection's protocol, in front of one that `parser` makes."""

        def make(**arguments: Any) -> ClientConnection:
            self.make_parser = partial(parser, **arguments)  # they are the same for all
            return ClientConnection(self)

        return make

    def admit(self, connection: ClientConnection) -> bool:
        """Take a connection in, if there is room or room can be made."""
        if len(self._open) >= self.most and (idlest := self._idle_strangers.first() or self._idle_members.first()):
            self._evict(idlest)
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
        self.works(connection)
        self.strangers.discard(connection)
        self.senders.discard(connection)
        if self._by_client.get(connection.client) is connection:
            del self._by_client[connection.client]
        self._part(connection)

    def idles(self, connection: ClientConnection) -> None:
        """A connection waits for its client from now on, and may make room."""
        if connection in self._open:
            (self._idle_members if connection.member else self._idle_strangers).add(connection, connection.group)

    def works(self, connection: ClientConnection) -> None:
        """A connection makes no room."""
        self._idle_members.discard(connection)
        self._idle_strangers.discard(connection)

    def _evict(self, connection: ClientConnection) -> None:
        self.evicted += 1
        self.leave(connection)
        connection.abort()

    def _part(self, connection: ClientConnection) -> None:
        own = self._of_member.get(connection.member, set())
        own.discard(connection)
        if not own:
            self._of_member.pop(connection.member, None)

    def belongs(self, connection: ClientConnection, member: str, school: str, most: int) -> None:
        """A member's signed request came over a connection; of more than `most` the idlest are closed, 0 for any."""
        if connection not in self._open:
            return
        if connection.member != member:
            self._part(connection)
            self.works(connection)
            self._of_member.setdefault(member, set()).add(connection)
        connection.member, connection.group = member, f"school {school}" if school else connection.group
        if most and len(own := self._of_member[member]) > most:
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
        """The application, told to the connection of each request."""

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

            scope[SCOPE_KEY], connection.begun, known = connection, True, bool(connection.member)
            self._members_under_way += known
            try:
                await app(scope, receive_part, send)
            finally:
                self._members_under_way -= known
                connection.end()

        return guarded


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
