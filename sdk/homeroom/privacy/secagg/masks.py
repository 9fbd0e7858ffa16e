"""Masks: AES-128-CTR keystreams read as integers, added in a ring of powers of two; numpy and `cryptography`.

All arithmetic is modulo 2^64 (or 2^32), which the ring's modulus divides; what travels is the lowest `width` bytes of
each value.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

from homeroom.errors import UpdateError

CHUNK_BYTES = 1 << 16  # of keystream at once: stays in the processor's cache
ZEROS = memoryview(bytes(CHUNK_BYTES))


def word(width: int) -> np.dtype[np.unsignedinteger]:
    """What a ring of `width` bytes is computed in."""
    return np.dtype("<u4") if width <= 4 else np.dtype("<u8")


def keystream(key: bytes) -> CipherContext:
    """AES-CTR (NIST SP 800-38A) from counter zero; a key makes one stream, so none is used twice."""
    return Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()


def add_masks(vector: np.ndarray, added: Sequence[bytes], taken: Sequence[bytes]) -> None:
    """vector += the streams of the keys `added` - those of `taken`, in place; vector: uint64 or uint32 [n].

    Keys are 16 bytes. Every stream passes once, a chunk at a time.
    """
    streams = [(keystream(key), np.add) for key in added] + [(keystream(key), np.subtract) for key in taken]
    buffer = bytearray(CHUNK_BYTES + 15)  # the cipher asks for a block more than it writes
    size = vector.dtype.itemsize
    values = np.frombuffer(buffer, vector.dtype, CHUNK_BYTES // size)
    for start in range(0, len(vector), len(values)):
        part = vector[start : start + len(values)]
        zeros, here = ZEROS[: len(part) * size], values[: len(part)]
        for stream, into in streams:
            stream.update_into(zeros, buffer)
            into(part, here, out=part)


def pack(vector: np.ndarray, width: int) -> bytes:
    """uint64 or uint32 [n] -> n * width bytes: the values modulo 256^width, in planes.

    A plane holds for every value 8, 4, 2 or 1 of its bytes, little-endian, those of the lowest order first (6 = 4 + 2).
    """
    return b"".join((vector >> vector.dtype.type(8 * at)).astype(kind).tobytes() for at, kind in _planes(width))


def unpack(data: bytes, count: int, width: int) -> np.ndarray:
    """As `pack` made it; UpdateError unless it is `count` values."""
    if len(data) != count * width:
        raise UpdateError(f"{len(data):,} bytes are not {count:,} values of {width} bytes", code="wrong_shape")
    kind = word(width)
    whole = np.zeros(count, kind)
    for at, plane in _planes(width):
        whole |= np.frombuffer(data, plane, count, count * at).astype(kind) << kind.type(8 * at)
    return whole


def _planes(width: int) -> Iterator[tuple[int, np.dtype[np.unsignedinteger]]]:
    """The first byte and the dtype of each plane."""
    at = 0
    for size in (8, 4, 2, 1):
        if width & size:
            yield at, np.dtype(f"<u{size}")
            at += size


def signed(vector: np.ndarray, width: int) -> np.ndarray:
    """Ring elements -> int64 [n] of the lowest magnitude."""
    shift = np.int64(64 - 8 * width)
    wide = vector.astype(np.uint64).view(np.int64)
    return (wide << shift) >> shift
