"""Worker of benchmarks/aggregator.py: hostile neighbours, honest devices beside them, and what both are compared with.

    hostile   COUNT connections of each kind: silent; slow (a byte of a head a second); greedy (fifty requests at once,
              whose answers nobody reads); malformed (heads, chunks and trailers without an end). Each opens a new
              connection when it is hung up on, PACE_S after the last at the earliest
    honest    devices that poll for versions, and devices that send one update each; prints their latencies
    sink      a server that takes bytes and answers nothing: the baseline of what so much traffic costs a machine
    bare      a server of the same library, with an application that only answers

hostile, sink and bare go on until the file UNTIL appears.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from aggregator_load import Line, key_of, load_updates

PACE_S = 5.0
POLLERS, POLL_S, SENDERS, SEND_S = 8, 0.12, 4, 0.2
CHUNKED = b"POST /v1/updates HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
MALFORMED = (
    b"GET /v1/health HTTP/1.1\r\nhost: x\r\n" + b"x-a: " + b"y" * 30_000,
    CHUNKED + b"1\r\nx\r\n" * 10_000,
    CHUNKED + b"1\r\nx\r\n0\r\n" + b"x-a: yyyyyyyy\r\n" * 4_000,
    b"\x16\x03\x01\x02\x00" * 100,
    b"GET /v1/round HTTP/1.1\r\nhost: x\r\nsignature: b=:AA==:\r\nsignature-input: b=(" + b' "x"' * 4000 + b")\r\n\r\n",
)
KEYS = b"GET /v1/keys HTTP/1.1\r\nhost: x\r\n\r\n"


async def neighbour(args: argparse.Namespace, kind: str, number: int, hung_up: dict[str, int]) -> None:
    """One hostile connection after another."""
    await asyncio.sleep(PACE_S * number / args.count)  # not all at the same moment
    for turn in itertools.count(number):
        start_s = time.monotonic()
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            reader, writer = await asyncio.open_connection(args.host, args.port)
            if kind == "malformed":
                writer.write(MALFORMED[turn % len(MALFORMED)])
            if kind == "greedy":
                writer.write(KEYS * 50)
                writer.transport.pause_reading()  # type: ignore[attr-defined]
                await asyncio.sleep(PACE_S)
            while kind == "slow":
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(1)
            if kind != "greedy":
                await reader.read()
            writer.close()
        hung_up[kind] += 1
        await asyncio.sleep(max(0.0, PACE_S - (time.monotonic() - start_s)))


async def hostile(args: argparse.Namespace) -> dict[str, Any]:
    hung_up = dict.fromkeys(("silent", "slow", "greedy", "malformed"), 0)
    tasks = [asyncio.ensure_future(neighbour(args, kind, n, hung_up)) for kind in hung_up for n in range(args.count)]
    while not args.until.exists():
        await asyncio.sleep(0.2)
    for task in tasks:
        task.cancel()
    return hung_up


async def honest(args: argparse.Namespace) -> dict[str, Any]:
    from homeroom.contract.signing import public_hex

    polls, sends, errors = list[float](), list[float](), list[str]()
    updates = load_updates(args.round, args.first, args.count) if args.round else []
    end_s = time.monotonic() + args.seconds

    async def turn(line: Line | None, number: int, name: str, seconds: list[float], *request: Any) -> Line | None:
        """One signed request; a connection that made room for others is opened anew, and that counts as well."""
        start_s = time.perf_counter()
        for _ in range(5):
            try:
                if line is None:
                    line = await Line(args.host, args.port).open()
                if not line.nonce:
                    await line.ask("GET", "/v1/keys")
                status, answer = await line.signed(key_of(number), name, *request)
                if status not in (200, 304):
                    errors.append(f"{status} {answer[:100]!r}")
                break
            except (OSError, asyncio.IncompleteReadError):
                line = None
        else:
            errors.append("no answer")
        seconds.append(time.perf_counter() - start_s)
        return line

    async def poll(number: int) -> None:
        line, name = None, public_hex(key_of(number))
        while time.monotonic() < end_s:
            start_s = time.monotonic()
            line = await turn(line, number, name, polls, "GET", "/v1/versions/latest", b"", 'if-none-match: "0"\r\n')
            await asyncio.sleep(max(0.0, POLL_S - (time.monotonic() - start_s)))

    async def send() -> None:
        line = None
        while time.monotonic() < end_s and updates:
            number, name, update = updates.pop()
            if line := await turn(line, number, name, sends, "POST", "/v1/updates", update):
                line.nonce = ""  # it is this device's, and the next one is another
            await asyncio.sleep(SEND_S)

    pollers = [poll(args.first + args.count + n) for n in range(POLLERS)]
    await asyncio.gather(*pollers, *(send() for _ in range(SENDERS)))

    def p99_ms(seconds: list[float]) -> float:
        return float(np.percentile(np.array(seconds) * 1000, 99)) if seconds else 0.0

    return {
        "polls": len(polls),
        "sent": len(sends),
        "errors": len(errors),
        "first_error": errors[0] if errors else "",
        "poll_p50_ms": float(np.percentile(np.array(polls) * 1000, 50)),
        "poll_p99_ms": p99_ms(polls),
        "honest_p99_ms": p99_ms(polls + sends),
    }


async def sink(args: argparse.Namespace) -> dict[str, Any]:
    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while await reader.read(1 << 16):
                pass
        writer.close()

    server = await asyncio.start_server(take, args.host, 0, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    while not args.until.exists():
        await asyncio.sleep(0.2)
    return {}


async def bare(args: argparse.Namespace) -> dict[str, Any]:
    import uvicorn

    from homeroom_aggregator.server.serve import listen

    async def app(_: Any, receive: Any, send: Any) -> None:
        headers = [(b"homeroom-nonce", b"n" * 48), (b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 304, "headers": headers})
        await send({"type": "http.response.body"})

    listening = listen(args.host, 0)
    config = uvicorn.Config(app, http="h11", ws="none", lifespan="off", log_level="critical", access_log=False)
    server = uvicorn.Server(config)
    serving = asyncio.ensure_future(server.serve(sockets=[listening]))
    print(listening.getsockname()[1], flush=True)
    while not args.until.exists():
        await asyncio.sleep(0.2)
    serving.cancel()
    return {}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("hostile", "honest", "sink", "bare"))
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=0)
    parser.add_argument("--round", type=Path)
    parser.add_argument("--until", type=Path)
    args = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    work = {"hostile": hostile, "honest": honest, "sink": sink, "bare": bare}[args.what]
    print(json.dumps(asyncio.run(work(args))))
    sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
