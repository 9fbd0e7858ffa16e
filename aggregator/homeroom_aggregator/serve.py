"""Running the aggregator: one process, one thread, uvicorn."""

from __future__ import annotations

import socket
from pathlib import Path

import uvicorn

from homeroom.errors import NetworkError
from homeroom_aggregator.app import make_app
from homeroom_aggregator.place import open_service


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one."""
    try:
        return socket.create_server((host, port))
    except OSError as problem:
        raise NetworkError(
            f"cannot listen: {problem.strerror}", where=f"{host}:{port}", remedy="choose another --port"
        ) from None


def serve(folder: Path, listening: socket.socket, token: str | None = None, retain: int = 0) -> None:
    """Serve until interrupted; what was accepted is durable at every moment, so it may also be killed."""
    service = open_service(folder, token, retain)
    try:
        configuration = uvicorn.Config(make_app(service), log_level="warning", access_log=False, server_header=False)
        uvicorn.Server(configuration).run(sockets=[listening])
    finally:
        service.rounds.close()
        listening.close()
