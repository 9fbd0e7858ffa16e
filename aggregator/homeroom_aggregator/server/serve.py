"""Running the aggregator: one process, uvicorn's event loop and the writer's thread."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import signal
import socket
import ssl
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from homeroom.errors import InputError, NetworkError
from homeroom_aggregator.admin.configuration import DistrictConfiguration, RequestLimits
from homeroom_aggregator.server.dashboard import routes
from homeroom_aggregator.server.metrics import LOGGER
from homeroom_aggregator.server.routes import make_app
from homeroom_aggregator.server.service import Service, open_service

THREAD_SWITCH_S = 0.0002  # the interpreter's switch interval: a poll waits little for the writer's thread


class DeadlineProtocol(HttpToolsProtocol):
    """HTTP/1.1 that closes a connection whose headers are not whole in time (slow loris), or have no end."""

    limits = RequestLimits()
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the deadline of the first request's headers."""
        super().connection_made(transport)
        self._start_deadline()

    def on_message_begin(self) -> None:
        """Start the deadline of the next request's headers."""
        super().on_message_begin()
        if self._deadline is None:
            self._start_deadline()

    def data_received(self, data: bytes) -> None:
        """Close the connection when headers are too long."""
        super().data_received(data)
        if self._deadline is not None:
            self._head_bytes += len(data)
            if self._head_bytes > self.limits.headers_kib << 10:
                self._hang_up()

    def on_headers_complete(self) -> None:
        """Cancel the deadline."""
        self._cancel_deadline()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the deadline."""
        self._cancel_deadline()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP in the same form as everything else; uvicorn has logged it."""
        body = json.dumps({"code": "malformed", "message": msg, "remedy": "speak HTTP/1.1"})
        head = "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\n"
        self.transport.write(f"{head}content-length: {len(body)}\r\n\r\n{body}".encode())
        self.transport.close()

    def _start_deadline(self) -> None:
        self._head_bytes, self._deadline = 0, self.loop.call_later(self.limits.headers_s, self._hang_up)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _hang_up(self) -> None:
        self.transport.close()


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one."""
    try:
        created = socket.create_server((host, port), backlog=512)
        # Named as TCP, since asyncio sets TCP_NODELAY only then; without it an answer waits 40 ms for an ACK.
        return socket.socket(created.family, created.type, socket.IPPROTO_TCP, fileno=created.detach())
    except OSError as problem:
        raise NetworkError(
            f"cannot listen: {problem.strerror}", where=f"{host}:{port}", remedy="choose another --port"
        ) from None


def uvicorn_config(service: Service, certificate: Path | None = None, key: Path | None = None) -> uvicorn.Config:
    """Uvicorn's configuration. certificate, key: PEM files for TLS; without them a proxy in front brings it."""
    limits = service.configuration.request_limits
    tls: dict[str, Any] = {"ssl_certfile": certificate, "ssl_keyfile": key} if certificate else {}
    config = uvicorn.Config(
        routes.mount(make_app(service), service),
        http=type("Protocol", (DeadlineProtocol,), {"limits": limits}),
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=limits.keep_alive_s,
        limit_concurrency=limits.connections,
        timeout_graceful_shutdown=10,
        **tls,
    )
    try:
        config.load()
    except (OSError, ssl.SSLError) as problem:
        where = f"{certificate}, {key}"
        raise InputError(f"no TLS certificate and key: {problem}", where=where, remedy="give two PEM files") from None
    return config


def serve(
    folder: Path,
    listening: socket.socket,
    token: str | None,
    configuration: DistrictConfiguration,
    tell: Callable[[str], None] = print,
    announced: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
) -> None:
    """Serve until SIGTERM or SIGINT: requests under way are finished, no new ones are taken.

    folder: the aggregator's. listening: the socket. token: the operator's. configuration: comes into force.
    tell: is told what that changes.
    announced: entered once this process alone has the folder, for as long as it serves.
    Accepted updates are durable at every moment, so it may also be killed.
    """
    if configuration.server.log_requests:
        LOGGER.addHandler(logging.StreamHandler(sys.stderr))
        LOGGER.setLevel(logging.INFO)
    sys.setswitchinterval(THREAD_SWITCH_S)
    # uvicorn raises the signal that ended it once more: left to its default that would end the process before its log
    # is settled. Until uvicorn listens to it, the same word ends the start.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    service = open_service(folder, token, configuration)
    try:
        server = uvicorn.Server(uvicorn_config(service, configuration.server.tls_cert, configuration.server.tls_key))
        with announced():
            for change in service.changes:
                tell(f"from version {service.rounds.state.version + 1} on: {change}")
            gc.collect()
            gc.freeze()  # what is there now stays: searching it for garbage again and again would stop polls for 50 ms
            server.run(sockets=[listening])
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it is ending already
        service.close()
        listening.close()
