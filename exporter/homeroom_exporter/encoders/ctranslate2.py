"""Reads the weights of a CTranslate2 container (model.bin, version 6) as arrays.

Little-endian: version u32, name of the specification, its revision u32, count u32; then each variable: name, rank u8,
dimensions u32, type u8, size u32, bytes. A string is its length u16 and so many bytes, the last a zero. Aliases follow,
which no encoder has.
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from homeroom.errors import ExportError

CONTAINER_VERSION = 6
CONTAINER_DTYPES = {0: "<f4", 1: "<i1", 2: "<i2", 3: "<i4", 4: "<f2"}
MOST_VARIABLES = 10_000


def read_container(data: bytes, where: str) -> dict[str, NDArray[np.generic]]:
    """Every variable by name; ExportError if the container is of another version, cut short or inconsistent."""
    position = 0

    def number(form: str) -> int:
        nonlocal position
        (value,) = struct.unpack_from(f"<{form}", data, position)
        position += struct.calcsize(f"<{form}")
        return int(value)

    def text() -> str:
        return take(number("H")).rstrip(b"\0").decode()

    def take(size: int) -> bytes:
        nonlocal position
        if position + size > len(data):
            raise struct.error("cut short")
        position += size
        return data[position - size : position]

    try:
        if (version := number("I")) != CONTAINER_VERSION:
            raise ExportError(f"is of version {version}, only {CONTAINER_VERSION} is read", where=where)
        text()
        number("I")
        variables: dict[str, NDArray[np.generic]] = {}
        count = number("I")
        if count > MOST_VARIABLES:
            raise ValueError(f"{count} variables")
        for _ in range(count):
            name = text()
            shape = tuple(number("I") for _ in range(number("B")))
            kind = np.dtype(CONTAINER_DTYPES[number("B")])
            variables[name] = np.frombuffer(take(number("I")), kind).reshape(shape)
        return variables
    except (struct.error, KeyError, ValueError) as problem:
        raise ExportError(f"is not a CTranslate2 container: {problem}", where=where) from None
