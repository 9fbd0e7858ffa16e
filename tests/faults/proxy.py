"""A proxy that behaves badly on purpose, one request a connection; asyncio on 127.0.0.1, in a thread of its own."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

FAULTS = ("truncate", "lost", "reset", "stall", "error", "garbage", "duplicate", "page")
STALL_S = 0.8  # longer than the patience of the client under test
REQUEST_LIMIT_BYTES = 8 << 20

ERROR = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
PAGE = b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 12\r\nconnection: close\r\n\r\n<html>login<"

Choose = Callable[[int], str]  # number of the request -> a fault, or "none"


def seeded(seed: int, share: float, faults: Sequence[str] = FAULTS) -> Choose:
    """So large a share of requests meets a fault, all kinds equally often."""
    rng = random.Random(seed)
    return lambda _: rng.choice(faults) if rng.random() < share else "none"


class Proxy:
    """`met` counts what was done to requests; `cut` is how many bytes of an answer a truncated one keeps."""

    def __init__(self, target: str, choose: Choose, cut: Callable[[int], int] = lambda size: size // 2) -> None:
        host, _, port = target.removeprefix("http://").partition(":")
        self.target, self.choose, self.cut = (host, int(port)), choose, cut
        self.met: Counter[str] = Counter()
        self.passed_bytes = 0  # of answers

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            request = await self._request(reader)
            fault = self.choose(sum(self.met.values()))
            self.met[fault] += 1
            await self._act(fault, request, writer)
        with suppress(OSError):
            writer.close()

    async def _request(self, reader: asyncio.StreamReader) -> bytes:
        first = await reader.readexactly(1)
        if first == b"\x16":  # TLS, which this line does not carry
            raise ConnectionError
        head = first + await reader.readuntil(b"\r\n\r\n")
        lines = [line for line in head[:-4].split(b"\r\n") if not line.lower().startswith(b"connection:")]
        size = next((int(x.split(b":")[1]) for x in lines if x.lower().startswith(b"content-length:")), 0)
        body = await reader.readexactly(min(size, REQUEST_LIMIT_BYTES))
        return b"\r\n".join([*lines, b"connection: close", b"", b""]) + body

    async def _ask(self, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(*self.target)
        writer.write(request)
        answer = await asyncio.wait_for(reader.read(-1), 30)
        writer.close()
        return answer

    async def _act(self, fault: str, request: bytes, writer: asyncio.StreamWriter) -> None:
        if fault == "reset":
            connection = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            return
        ready = {"error": ERROR, "page": PAGE, "garbage": bytes(range(256)) * 4}.get(fault)
        answer = ready or await self._ask(request)
        if fault == "duplicate":
            answer = await self._ask(request)
        elif fault == "lost":
            answer = b""
        elif fault == "truncate":
            answer = answer[: self.cut(len(answer))]
        elif fault == "stall":
            writer.write(answer[: len(answer) // 2])
            await writer.drain()
            await asyncio.sleep(STALL_S)
            return
        self.passed_bytes += len(answer)
        writer.write(answer)
        await writer.drain()


@contextmanager
def running(proxy: Proxy) -> Iterator[str]:
    """The proxy's address. What is still open at the end is dropped."""
    started, stopped = threading.Event(), asyncio.Event()
    found: list[tuple[asyncio.AbstractEventLoop, int]] = []

    async def serve() -> None:
        server = await asyncio.start_server(proxy.handle, "127.0.0.1", 0)
        found.append((asyncio.get_running_loop(), server.sockets[0].getsockname()[1]))
        started.set()
        await stopped.wait()
        server.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert started.wait(60)
    loop, port = found[0]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        loop.call_soon_threadsafe(stopped.set)
        thread.join(60)
