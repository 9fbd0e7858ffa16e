"""The log's record of a secure round: the sum by segment, and the devices in it.

32 bytes   SHA-256 of the rest
4 bytes    length of the header, little-endian
header     JSON: see `SumHeader`
rest       safetensors: int64 [size] by segment name
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator

import msgspec
import numpy as np
import safetensors.numpy

from homeroom.contract.layout import Layout
from homeroom.errors import StoreError
from homeroom.system.sqlite import Database


class SumHeader(msgspec.Struct, frozen=True, kw_only=True):
    """The sum's participants.

    updates: the key of the device that made each update id.
    weights: by segment, the sum of weights.
    fed: by segment, the members that fed it, each by its first key.
    signatures: by device, its signature over the survivors, as far as it gave one.
    """

    round_id: str
    roster_id: str
    cohort_id: str
    updates: dict[str, str]
    weights: dict[str, int]
    fed: dict[str, list[str]]
    signatures: dict[str, str]


class SecureSum(msgspec.Struct, frozen=True):
    """A secure sum. `numerators`: by segment the sum of weight * value, int64 [size]."""

    header: SumHeader
    numerators: dict[str, np.ndarray]


def pack(secure_sum: SecureSum) -> bytes:
    """The bytes of a sum, in the form above."""
    head, tensors = msgspec.json.encode(secure_sum.header), dict(sorted(secure_sum.numerators.items()))
    body: bytes = struct.pack("<I", len(head)) + head + safetensors.numpy.save(tensors)
    return hashlib.sha256(body).digest() + body


def read_header(data: bytes) -> SumHeader:
    """The header of a sum's bytes, not checked."""
    (length,) = struct.unpack("<I", data[32:36])
    return msgspec.json.decode(data[36 : 36 + length], type=SumHeader)


def headers(database: Database, after: int, until: int) -> Iterator[SumHeader]:
    """Headers of the sums among a log's entries between two numbers that are not void, without their numerators."""
    sql = """SELECT log.number, substr(body, 33, 4) FROM log JOIN bodies USING (number)
             WHERE kind = 'secure' AND body != x'' AND log.number > ? AND log.number < ? ORDER BY log.number"""
    for number, length in database.rows(sql, (after, until)):
        end = 36 + struct.unpack("<I", length)[0]
        yield read_header(database.one("SELECT substr(body, 1, ?) FROM bodies WHERE number = ?", (end, number))[0])


def unpack(data: bytes, layout: Layout) -> SecureSum:
    """A sum from its bytes; StoreError unless they are complete and fit the layout."""
    broken = StoreError("a secure sum is damaged", where="log.db", remedy="restore the last backup")
    if len(data) < 36 or hashlib.sha256(data[32:]).digest() != data[:32]:
        raise broken
    (length,) = struct.unpack("<I", data[32:36])
    numerators = dict(safetensors.numpy.load(data[36 + length :]))
    sizes = {segment.name: segment.size for segment in layout}
    if any(values.dtype != np.int64 or values.shape != (sizes.get(name),) for name, values in numerators.items()):
        raise broken
    return SecureSum(read_header(data), numerators)
