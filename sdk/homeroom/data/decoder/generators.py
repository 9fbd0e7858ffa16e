"""Generators in the decoder, such as the rows of a sheet: each request takes some more of what they yield."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from itertools import islice
from typing import Any

import msgspec

from homeroom.data.decoder.wire import call, encode
from homeroom.errors import Code, HomeroomError, InputError

ITEMS = 256
BATCH_BYTES = 4 << 20

_running: dict[int, Iterator[Any]] = {}


def begin(module: str, function: str, arguments: list[msgspec.Raw], left: list[int]) -> int:
    """Starts a generator, ends those that were left; returns its number."""
    for number in left:
        _running.pop(number, None)
    number = secrets.randbits(62)
    _running[number] = call(module, function, arguments)
    return number


def take(number: int) -> tuple[list[msgspec.Raw], bool]:
    """Some more items, encoded, and whether there are none after them."""
    if number not in _running:
        raise InputError("the decoder was ended in between", code=Code.DECODER, remedy="do it again")
    items, size_bytes = [], 0
    try:
        for item in islice(_running[number], ITEMS):
            items.append(msgspec.Raw(body := encode(item)))
            size_bytes += len(body)
            if size_bytes > BATCH_BYTES:
                return items, False
    except HomeroomError as problem:
        if not items:
            del _running[number]
            raise
        _running[number] = _failed(problem)  # what comes before it is read first
        return items, False
    ended = len(items) < ITEMS
    if ended:
        del _running[number]
    return items, ended


def _failed(problem: HomeroomError) -> Iterator[Any]:
    raise problem
    yield


def is_idle() -> bool:
    """Whether no generator runs."""
    return not _running
