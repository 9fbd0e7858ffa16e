"""Colour profiles (ICC) of tests: wide RGB as of phones, grey, and CMYK whose inks are those of print."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Sequence

P3 = ((0.51512, 0.2412, -0.00105), (0.29198, 0.69225, 0.04189), (0.1571, 0.06657, 0.78407))  # red, green, blue, in D50
WHITE = (0.9642, 1.0, 0.8249)
PAPER_CYAN, PAPER = (60.0, -35.0, -48.0), (100.0, 0.0, 0.0)  # Lab


def _fixed(*values: float) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def _profile(space: bytes, connection: bytes, kind: bytes, tags: dict[bytes, bytes]) -> bytes:
    at, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, data in tags.items():
        table += name + struct.pack(">II", at + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    header = bytes(4) + b"none" + b"\x02\x10\0\0" + kind + space + connection + bytes(12) + b"acsp" + bytes(28)
    header += _fixed(*WHITE) + bytes(48)
    data = header + struct.pack(">I", len(tags)) + table + body
    return struct.pack(">I", len(data)) + data[4:]


def _curve(gamma: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))


def rgb(primaries: Sequence[Sequence[float]] = P3, gamma: float = 2.2) -> bytes:
    """Of a screen with these primaries."""
    tags = {b"wtpt": b"XYZ " + bytes(4) + _fixed(*WHITE)}
    for name, primary in zip((b"r", b"g", b"b"), primaries, strict=True):
        tags |= {name + b"XYZ": b"XYZ " + bytes(4) + _fixed(*primary), name + b"TRC": _curve(gamma)}
    return _profile(b"RGB ", b"XYZ ", b"mntr", tags)


def grey(gamma: float = 1.0) -> bytes:
    """Of grey levels."""
    tags = {b"wtpt": b"XYZ " + bytes(4) + _fixed(*WHITE), b"kTRC": _curve(gamma)}
    return _profile(b"GRAY", b"XYZ ", b"mntr", tags)


def cmyk(colour: Callable[[tuple[int, ...]], Sequence[float]] | None = None) -> bytes:
    """Of a press. colour: Lab of the corners of CMYK; by itself cyan is that of print, and the others are black."""
    colour = colour or {(0, 0, 0, 0): PAPER, (1, 0, 0, 0): PAPER_CYAN}.get
    ramp = bytes(range(256))
    corners = b""
    for corner in itertools.product((0, 1), repeat=4):
        lightness, a, b = colour(corner) or (0.0, 0.0, 0.0)
        corners += bytes([round(lightness * 2.55), round(a) + 128, round(b) + 128])
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1) + ramp * 4 + corners + ramp * 3
    return _profile(b"CMYK", b"Lab ", b"prtr", {b"wtpt": b"XYZ " + bytes(4) + _fixed(*WHITE), b"A2B0": lut})
