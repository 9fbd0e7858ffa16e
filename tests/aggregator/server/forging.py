"""A machine between device and aggregator that answers as it likes, over true HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from faults import proxy


@dataclass
class Answer:
    """An answer as bytes on the wire, taken apart."""

    status: int
    headers: dict[str, str]
    body: bytes

    def packed(self) -> bytes:
        headers = {**self.headers, "content-length": str(len(self.body)), "connection": "close"}
        lines = [f"HTTP/1.1 {self.status} X", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join([*lines, "", ""]).encode() + self.body


def unpacked(data: bytes) -> Answer:
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return Answer(int(first.split()[1]), dict(line.split(": ", 1) for line in lines), body)


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


Forge = Callable[[Asked, Callable[[bytes], Answer], bytes], Answer | None]  # None: what the aggregator says


class Forger(proxy.Proxy):
    """A machine on the way that answers as it likes; `forge` may ask the aggregator first."""

    def __init__(self, target: str, forge: Forge) -> None:
        super().__init__(target, lambda _: "none")
        self.forge, self.forged = forge, 0

    async def _act(self, fault: str, request: bytes, writer: asyncio.StreamWriter) -> None:
        head, _, body = request.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        asked = Asked(*first.split()[:2], {name.lower(): value for name, value in headers.items()}, body)
        loop = asyncio.get_running_loop()

        def pass_on(changed: bytes) -> Answer:
            return unpacked(asyncio.run_coroutine_threadsafe(self._ask(changed), loop).result(30))

        answer = await asyncio.to_thread(self.forge, asked, pass_on, request)
        self.forged += answer is not None
        writer.write((answer or unpacked(await self._ask(request))).packed())
        await writer.drain()


def json_answer(status: int, /, **fields: Any) -> Answer:
    return Answer(status, {"content-type": "application/json", "homeroom-nonce": "A" * 48}, json.dumps(fields).encode())
