"""Masks: AES-128-CTR keystreams read as integers and added modulo a power of two.

Arithmetic is modulo 2^64 (or 2^32), which the ring's modulus 256^width divides; the lowest `width` bytes of each value
are sent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

from homeroom.errors import UpdateError

CHUNK_BYTES = 1 << 16  # of keystream at once, to stay in the processor's cache
ZEROS = memoryview(bytes(CHUNK_BYTES))


def ring_dtype(width: int) -> np.dtype[np.unsignedinteger]:
    """The dtype in which a ring of `width` bytes is computed: uint32 or uint64."""
    return np.dtype("<u4") if width <= 4 else np.dtype("<u8")


def keystream(key: bytes) -> CipherContext:
    """AES-CTR (NIST SP 800-38A) from counter zero; a key makes one stream, so none is used twice."""
    return Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()


def add_masks(encoding: np.ndarray, added: Sequence[bytes], subtracted: Sequence[bytes]) -> None:
    """Adds the keystreams of `added` and subtracts those of `subtracted`, in place, a chunk at a time.

    encoding: uint32 or uint64 [n]. Keys are 16 bytes.
    """
    streams = [(keystream(key), np.add) for key in added] + [(keystream(key), np.subtract) for key in subtracted]
    buffer = bytearray(CHUNK_BYTES + 15)  # `update_into` needs room for one more block
    size = encoding.dtype.itemsize
    values = np.frombuffer(buffer, encoding.dtype, CHUNK_BYTES // size)
    for start in range(0, len(encoding), len(values)):
        part = encoding[start : start + len(values)]
        zeros, mask = ZEROS[: len(part) * size], values[: len(part)]
        for stream, operation in streams:
            stream.update_into(zeros, buffer)
            operation(part, mask, out=part)


def pack(encoding: np.ndarray, width: int) -> bytes:
    """uint64 or uint32 [n] -> n * width bytes: the values modulo 256^width, in planes.

    A plane holds for every value 8, 4, 2 or 1 of its bytes, little-endian, those of the lowest order first (6 = 4 + 2).
    """
    return b"".join((encoding >> encoding.dtype.type(8 * at)).astype(kind).tobytes() for at, kind in _planes(width))


def unpack(data: bytes, count: int, width: int) -> np.ndarray:
    """Ring elements, uint32 or uint64 [count], from the bytes of `pack`; UpdateError unless they are `count` values."""
    if len(data) != count * width:
        raise UpdateError(f"{len(data):,} bytes are not {count:,} values of {width} bytes", code="wrong_shape")
    kind = ring_dtype(width)
    encoding = np.zeros(count, kind)
    for at, plane in _planes(width):
        encoding |= np.frombuffer(data, plane, count, count * at).astype(kind) << kind.type(8 * at)
    return encoding


def _planes(width: int) -> Iterator[tuple[int, np.dtype[np.unsignedinteger]]]:
    """The first byte and the dtype of each plane."""
    at = 0
    for size in (8, 4, 2, 1):
        if width & size:
            yield at, np.dtype(f"<u{size}")
            at += size


def signed(encoding: np.ndarray, width: int) -> np.ndarray:
    """Ring elements [n] as signed integers, int64 [n]."""
    shift = np.int64(64 - 8 * width)
    wide = encoding.astype(np.uint64).view(np.int64)
    return (wide << shift) >> shift
