"""Delta encoding of a version against one that the device has: fewer bytes to send, the same bits on arrival.

The result is the signed file of the version, byte for byte, and is verified as such.

    8 bytes    HRDELTA1
    4 bytes    length of the front, little-endian
    front      the version's file up to theta's values: header, signature, safetensors header
    rest       zlib (RFC 1950) of 4 planes of P bytes, lowest byte first: the zigzag code of new - old, where both are
               theta's float32 values read as uint32, modulo 2**32; a small change of a value is a small number
"""

from __future__ import annotations

import struct
import zlib

import numpy as np

from homeroom.contract.envelope import HEADER_LIMIT_BYTES
from homeroom.errors import NetworkError

DELTA_MAGIC = b"HRDELTA1"
FRONT_LIMIT_BYTES = 2 * HEADER_LIMIT_BYTES  # of the version's header and of safetensors'
ZLIB_LEVEL = 6


def values_of(version: bytes, size: int) -> np.ndarray:
    """theta, float32 [size]: the last bytes of a version's file; not verified."""
    return np.frombuffer(version, "<f4", size, len(version) - 4 * size)


def make_delta(old: np.ndarray, version: bytes) -> bytes:
    """Delta of a version's file from `old`, float32 [P]."""
    theta = values_of(version, len(old))
    step = (theta.view("<u4") - np.ascontiguousarray(old, "<f4").view("<u4")).view("<i4")
    code = (step << 1) ^ (step >> 31)
    planes = np.ascontiguousarray(code.view(np.uint8).reshape(-1, 4).T)
    front = version[: len(version) - 4 * len(old)]
    return DELTA_MAGIC + struct.pack("<I", len(front)) + front + zlib.compress(planes.tobytes(), ZLIB_LEVEL)


def apply_delta(old: np.ndarray, delta: bytes) -> bytes:
    """The version's file from `old`, float32 [P], and a delta; NetworkError if the delta is not one of length P.

    No more than P values are unpacked.
    """
    where, size = "difference of theta", 4 * len(old)
    if delta[:8] != DELTA_MAGIC or len(delta) < 12:
        raise NetworkError("is not one", where=where)
    (length,) = struct.unpack("<I", delta[8:12])
    if length > min(FRONT_LIMIT_BYTES, len(delta) - 12):
        raise NetworkError("is cut short, or its front is too long", where=where)
    unpacker = zlib.decompressobj()
    try:
        planes = unpacker.decompress(delta[12 + length :], size + 1)
    except zlib.error as problem:
        raise NetworkError(f"cannot be unpacked: {problem}", where=where) from None
    if len(planes) != size or not unpacker.eof or unpacker.unused_data:
        raise NetworkError(f"does not hold {len(old):,} values", where=where)
    code = np.ascontiguousarray(np.frombuffer(planes, np.uint8).reshape(4, -1).T).view("<u4").ravel()
    step = (code >> 1) ^ (~(code & 1) + np.uint32(1))
    theta: bytes = (np.ascontiguousarray(old, "<f4").view("<u4") + step).tobytes()
    return delta[12 : 12 + length] + theta
