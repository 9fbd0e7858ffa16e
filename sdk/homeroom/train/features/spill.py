"""A spill: features of one training that have no room in memory, in an encrypted file without a name."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from struct import Struct
from typing import IO

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

SHAPE_HEADER = Struct("<3I")


class Spill:
    """Arrays int8 [taps, n, dim] by number, each written once; reading one takes some microseconds.

    The file vanishes with the process, however that ends. Each array is sealed with ChaCha20-Poly1305 (RFC 8439) under
    a key that is never written down; its number is the nonce. The file takes half of the free disk at most. An array
    without room, or one that does not open again, counts as absent.

    directory: where the file is made, once it is needed; count: numbers go from 0 to count - 1
    """

    def __init__(self, directory: Path, count: int) -> None:
        self._aead = ChaCha20Poly1305(ChaCha20Poly1305.generate_key())
        self._starts, self._sizes = np.zeros(count, np.int64), np.zeros(count, np.int32)  # size 0: absent
        self._directory, self._end, self._limit = directory, 0, 1
        self._file: IO[bytes] | None = None

    def put(self, number: int, array: np.ndarray) -> bool:
        """Writes an array; returns whether there was room."""
        if self._end >= self._limit:
            return False
        sealed = self._aead.encrypt(_nonce(number), SHAPE_HEADER.pack(*array.shape) + array.tobytes(), None)
        try:
            if self._file is None:  # only now: most trainings have room in memory
                self._file = tempfile.TemporaryFile(dir=self._directory, buffering=0)  # noqa: SIM115
                self._limit = shutil.disk_usage(self._directory).free // 2
            self._file.seek(self._end)
            if self._end + len(sealed) > self._limit or self._file.write(sealed) < len(sealed):
                raise OSError("no room")
        except OSError:  # nor for any other, or the disk is read-only
            self._limit = 0
            return False
        self._starts[number], self._sizes[number] = self._end, len(sealed)
        self._end += len(sealed)
        return True

    def read(self, numbers: Iterable[int]) -> dict[int, np.ndarray]:
        """Those of the arrays that are there, by number."""
        arrays: dict[int, np.ndarray] = {}
        for number in numbers:
            size = self._sizes.item(number)
            if size and self._file is not None:
                try:
                    self._file.seek(self._starts.item(number))
                    plain = self._aead.decrypt(_nonce(number), self._file.read(size), None)
                except (OSError, InvalidTag):
                    continue
                shape = SHAPE_HEADER.unpack_from(plain)
                arrays[number] = np.frombuffer(plain, np.int8, offset=SHAPE_HEADER.size).reshape(shape)
        return arrays


def _nonce(number: int) -> bytes:
    return number.to_bytes(12, "big")
