"""Lanes of requests that wait for their turn: one a turn of the event loop.

A member's request that only reads is taken at once: it waits for one stranger's and one sender's at most, however many
there are. While members' requests are being answered, strangers leave the processor to the thread that writes for them.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

RANKS = 6
MEMBERS_FIRST_S = 0.002  # between two strangers while a member's request is under way


class Waiting(Protocol):
    """A connection whose next request is here."""

    def proceed(self) -> None:
        """Begin the request."""


class StrangersLane:
    """Strangers that wait for their turn, of a rank the newest first: where many wait long, the oldest have given up.

    members_under_way: whether a member's request is being answered.
    """

    def __init__(self, members_under_way: Callable[[], bool]) -> None:
        self._members_under_way = members_under_way
        self._ranks = tuple(OrderedDict[Waiting, None]() for _ in range(RANKS))
        self._running = False

    def add(self, stranger: Waiting, rank: int) -> None:
        """Let a stranger wait for its turn, which comes after those of all lower ranks."""
        self._ranks[min(rank, RANKS - 1)][stranger] = None
        if not self._running:
            self._running = True
            asyncio.get_running_loop().call_soon(self._turn)

    def discard(self, stranger: Waiting) -> None:
        """Forget a stranger that has gone."""
        for rank in self._ranks:
            rank.pop(stranger, None)

    def _turn(self) -> None:
        if waiting := next((rank for rank in self._ranks if rank), None):
            stranger, _ = waiting.popitem()
            stranger.proceed()
        loop = asyncio.get_running_loop()
        self._running = any(self._ranks)
        if self._running and self._members_under_way():
            loop.call_later(MEMBERS_FIRST_S, self._turn)
        elif self._running:
            loop.call_soon(self._turn)


class SendersLane:
    """Members whose request sends something, the oldest first."""

    def __init__(self) -> None:
        self._waiting = OrderedDict[Waiting, None]()
        self._running = False

    def add(self, sender: Waiting) -> None:
        """Let a sender wait for its turn."""
        self._waiting[sender] = None
        if not self._running:
            self._running = True
            asyncio.get_running_loop().call_soon(self._turn)

    def discard(self, sender: Waiting) -> None:
        """Forget a sender that has gone."""
        self._waiting.pop(sender, None)

    def _turn(self) -> None:
        if self._waiting:
            self._waiting.popitem(last=False)[0].proceed()
        self._running = bool(self._waiting)
        if self._running:
            asyncio.get_running_loop().call_soon(self._turn)
