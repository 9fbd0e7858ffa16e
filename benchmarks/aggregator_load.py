"""Worker of benchmarks/aggregator.py: devices that send, or one that polls, over HTTP; prints one JSON object.

Every device has a key of its own, enrolled before. A device's turn is what the SDK does: ask for a nonce (GET
/v1/keys), then POST its signed update; the latency is that of the POST. Requests are written and answers read by hand
(RFC 9421 base string included), so that the generator costs little of the machine that it measures.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

COVERED = '("@method" "@authority" "@path" "content-digest")'


def key_of(number: int) -> Ed25519PrivateKey:
    """The same keys in the driver that enrols them and in here."""
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(f"benchmark {number}".encode()).digest())


class Line:
    """One kept connection."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self.nonce = ""

    async def open(self) -> Line:
        self._read, self._write = await asyncio.open_connection(self.host, self.port)
        return self

    async def ask(self, method: str, path: str, body: bytes = b"", headers: str = "") -> tuple[int, bytes]:
        head = (
            f"{method} {path} HTTP/1.1\r\nhost: {self.host}:{self.port}\r\ncontent-length: {len(body)}\r\n{headers}\r\n"
        )
        self._write.write(head.encode() + body)
        answer = await self._read.readuntil(b"\r\n\r\n")
        fields = dict(line.split(b": ", 1) for line in answer.split(b"\r\n")[1:] if b": " in line)
        self.nonce = fields[b"homeroom-nonce"].decode()
        length = int(fields.get(b"content-length", b"0"))
        return int(answer[9:12]), await self._read.readexactly(length) if length else b""

    async def signed(
        self, key: Ed25519PrivateKey, name: str, method: str, path: str, body: bytes = b"", extra: str = ""
    ) -> tuple[int, bytes]:
        digest = "sha-256=:" + base64.b64encode(hashlib.sha256(body).digest()).decode() + ":"
        inputs = f'{COVERED};created=0;keyid="{name}";alg="ed25519";nonce="{self.nonce}";tag="homeroom"'
        base = (
            f'"@method": {method}\n"@authority": {self.host}:{self.port}\n"@path": {path}\n'
            f'"content-digest": {digest}\n"@signature-params": {inputs}'
        )
        signature = base64.b64encode(key.sign(base.encode())).decode()
        headers = f"content-digest: {digest}\r\nsignature-input: b={inputs}\r\nsignature: b=:{signature}:\r\n{extra}"
        return await self.ask(method, path, body, headers)

    def close(self) -> None:
        self._write.close()


def summary(seconds: list[float]) -> dict[str, float]:
    found = np.sort(np.array(seconds)) * 1000
    return {"p50_ms": float(np.percentile(found, 50)), "p99_ms": float(np.percentile(found, 99)), "n": len(found)}


def load_updates(round_file: Path, first: int, count: int) -> list[tuple[int, str, bytes]]:
    """Number, public key and signed update of devices `first` to `first` + `count` - 1, the last one first."""
    import msgspec

    from homeroom.contract.layout import Layout
    from homeroom.contract.round import RoundConfiguration
    from homeroom.contract.signing import public_hex
    from homeroom.contract.update import make_update

    asked = json.loads(round_file.read_bytes())
    layout = msgspec.convert(asked["layout"], Layout)
    configuration = msgspec.convert(asked["configuration"], RoundConfiguration)
    delta = np.random.default_rng(1).normal(0, 0.01, layout.size).astype(np.float32)
    counts = {segment.name: 20 for segment in layout}
    updates = []
    for number in reversed(range(first, first + count)):
        key = key_of(number)
        updates.append((number, public_hex(key), make_update(key, configuration, layout, delta, counts, 0)))
    return updates


async def send(args: argparse.Namespace) -> dict[str, Any]:
    """Devices FIRST to FIRST+COUNT-1 send one update each, over so many connections."""
    waiting = load_updates(args.round, args.first, args.count)
    size_bytes = len(waiting[-1][2])
    latencies: list[float] = []
    errors: list[str] = []

    async def work() -> None:
        line = await Line(args.host, args.port).open()
        while waiting:
            number, name, update = waiting.pop()
            await line.ask("GET", "/v1/keys")
            start = time.perf_counter()
            status, answer = await line.signed(key_of(number), name, "POST", "/v1/updates", update)
            latencies.append(time.perf_counter() - start)
            if status != 200 or b'"accepted"' not in answer:
                errors.append(f"{status} {answer[:200]!r}")
        line.close()

    start, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(work() for _ in range(args.connections)))
    took = time.perf_counter() - start
    return {
        "connections": args.connections,
        "sent": args.count,
        "errors": len(errors),
        "first_error": errors[0] if errors else "",
        "updates_a_second": args.count / took,
        "seconds": took,
        "generator_cpu_share": (time.process_time() - cpu) / took,
        "update_bytes": size_bytes,
        **summary(latencies),
    }


async def poll(args: argparse.Namespace) -> dict[str, Any]:
    """One device asks for the newest version every 110 ms until the file UNTIL appears."""
    from homeroom.contract.signing import public_hex

    key, latencies, errors = key_of(args.first), list[float](), 0
    name, line = public_hex(key_of(args.first)), await Line(args.host, args.port).open()
    await line.ask("GET", "/v1/keys")
    while not args.until.exists():
        start = time.perf_counter()
        status, _ = await line.signed(key, name, "GET", "/v1/versions/latest", b"", 'if-none-match: "0"\r\n')
        latencies.append(time.perf_counter() - start)
        errors += status not in (200, 304)
        await asyncio.sleep(max(0.0, 0.11 - (time.perf_counter() - start)))
    line.close()
    return {"errors": errors, **summary(latencies)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("send", "poll"))
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--first", type=int, required=True)
    parser.add_argument("--count", type=int, default=0)
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--round", type=Path)
    parser.add_argument("--until", type=Path)
    args = parser.parse_args()
    print(json.dumps(asyncio.run(send(args) if args.what == "send" else poll(args))))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
