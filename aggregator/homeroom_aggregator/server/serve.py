"""Running the aggregator: one process, uvicorn's event loop and the writer's thread."""

from __future__ import annotations

import contextlib
import gc
import logging
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from math import ceil
from pathlib import Path

import uvicorn

from homeroom.errors import NetworkError
from homeroom_aggregator.admin.configuration import DistrictConfiguration
from homeroom_aggregator.server import requests
from homeroom_aggregator.server.certificates import LOOK_S, CertificateWatch, tls_context
from homeroom_aggregator.server.connections import Connections
from homeroom_aggregator.server.dashboard import routes
from homeroom_aggregator.server.metrics import LOGGER
from homeroom_aggregator.server.public_address import PublicAddresses
from homeroom_aggregator.server.routes import make_app
from homeroom_aggregator.server.service import Service, open_service
from homeroom_aggregator.state import set_apart

ACCEPTS_A_TURN = 16  # uvloop accepts one connection a turn from each socket: where many come, others would wait long
GARBAGE_THRESHOLDS = 700, 3, 200  # connections leave none: the youngest are searched in short pauses, all seldom
THREAD_SWITCH_S = 0.0002  # the interpreter's switch interval: a poll waits little for the writer's thread


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


def make_server(service: Service, certificate: Path | None = None, key: Path | None = None) -> uvicorn.Server:
    """Uvicorn's server, our connections in front of it.

    certificate, key: PEM files of TLS; without them, put TLS in front.
    """
    limits, tls = service.configuration.request_limits, tls_context(certificate, key)
    if tls and certificate and key:
        service.watch = CertificateWatch(service, tls, certificate, key).look
    app = routes.mount(make_app(service), service)
    config = uvicorn.Config(
        service.addresses.behind(app) if service.addresses else app,
        proxy_headers=False,
        http="h11",  # its buffer is bounded in every state of a request
        h11_max_incomplete_event_size=limits.headers_kib << 10,
        loop="asyncio" if tls else "auto",  # uvloop loses bytes that come before `start_tls`
        ws="none",
        lifespan="off",
        log_level="error",  # what is no HTTP is refused, and no news
        access_log=False,
        server_header=False,
        timeout_keep_alive=limits.keep_alive_s + ceil(limits.headers_s) + 1,  # ours ends sooner
        timeout_graceful_shutdown=10,
        callback_notify=service.look,
        timeout_notify=LOOK_S,
    )
    config.load()
    service.connections = Connections(limits, tls)
    service.connections.names_member = partial(requests.names_member, service)
    config.http_protocol_class = service.connections.protocol(config.http_protocol_class)  # type: ignore[assignment]
    config.loaded_app = service.connections.guard(config.loaded_app)
    server = uvicorn.Server(config)
    service.connections.ending = lambda: server.should_exit
    return server


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
        certificate, key = configuration.server.tls_cert, configuration.server.tls_key
        service.addresses = PublicAddresses(folder, configuration.server, listening.getsockname()[1])
        service.learn_addresses()
        if service.secure_rounds:
            service.secure_rounds.tell = tell
        server = make_server(service, certificate, key)
        signal.signal(signal.SIGTERM, lambda *_: setattr(server, "should_exit", True))  # uvicorn looks before it serves
        for what, why in set_apart.reasons(service.rounds.log.database):
            tell(f"set apart: {what}: {why}")
        with announced():
            for change in service.changes:
                tell(f"from version {service.rounds.state.version + 1} on: {change}")
            gc.collect()
            gc.freeze()  # what is there now stays: searching it for garbage again and again would stop polls for 50 ms
            gc.set_threshold(*GARBAGE_THRESHOLDS)
            server.run(sockets=[listening, *(listening.dup() for _ in range(ACCEPTS_A_TURN - 1))])
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it is ending already
        service.close()
        listening.close()
