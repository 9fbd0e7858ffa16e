"""Statistics as bytes: canonical, so that equal sums have equal bytes, and bounded before anything is decoded.

    8 bytes    magic
    32 bytes   SHA-256 of all that follows
    4 bytes    length of the header, little-endian, at most 4 MiB
    header     RFC 8785 JSON: the blocks' `statistics_id`s, rising, and the cells, rising, each
               [task, kind, row, [numbers of its blocks], values, bytes a value]
    rest       the cells' values one after another, signed, little-endian, in the fewest of 1, 2, 4 or 8 bytes

The bytes are not signed: what carries them is.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Annotated

import msgspec
import numpy as np

from homeroom.contract.canonical_json import canonical, decode
from homeroom.contract.statistics.sums import CELL_LIMIT_VALUES, CHANGE_LIMIT, Cell, CellKind, Statistics, diagonal
from homeroom.errors import UpdateError

MAGIC = b"HRSTATS1"
FORMAT = 1
LIMIT_BYTES = 32 << 20
HEADER_LIMIT_BYTES = 4 << 20
VALUES_LIMIT = 4 << 20  # of all cells: 32 MiB once decoded
WIDTHS = (1, 2, 4, 8)

Text = Annotated[str, msgspec.Meta(max_length=256)]


class _Entry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    task: Text
    kind: CellKind
    row: Text
    blocks: Annotated[tuple[Annotated[int, msgspec.Meta(ge=0)], ...], msgspec.Meta(min_length=1, max_length=2)]
    length: Annotated[int, msgspec.Meta(ge=1, le=CELL_LIMIT_VALUES)]
    width: Annotated[int, msgspec.Meta(ge=1, le=8)]


class _StatisticsHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    blocks: tuple[Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")], ...]
    cells: tuple[_Entry, ...]


def encode(statistics: Statistics) -> bytes:
    """The canonical bytes; UpdateError where they pass a limit."""
    blocks = sorted({block for cell in statistics.cells for block in cell.blocks})
    entries, payload = [], []
    for cell, values in statistics:
        width = next(width for width in WIDTHS if _fits(values, width))
        numbers = tuple(blocks.index(block) for block in cell.blocks)
        entries.append(_Entry(cell.task, cell.kind, cell.row, numbers, len(values), width))
        payload.append(values.astype(f"<i{width}").tobytes())
    header = canonical(_StatisticsHeader(FORMAT, tuple(blocks), tuple(entries)))
    body = struct.pack("<I", len(header)) + header + b"".join(payload)
    too_many = sum(entry.length for entry in entries) > VALUES_LIMIT
    if len(body) > LIMIT_BYTES or len(header) > HEADER_LIMIT_BYTES or too_many:
        raise UpdateError(f"statistics of {len(body):,} bytes are too large", code="too_long")
    return MAGIC + hashlib.sha256(body).digest() + body


def read(data: bytes, *, limit_bytes: int = LIMIT_BYTES) -> Statistics:
    """Reads `encode`'s bytes; UpdateError where they are damaged, too large, or not canonical.

    Whether samples can have such sums is `check_total`'s to say.
    """
    header, payload = _header(data, limit_bytes)
    if sum(entry.length for entry in header.cells) > VALUES_LIMIT:
        raise UpdateError(f"more than {VALUES_LIMIT:,} values", code="too_long")
    if sum(entry.length * entry.width for entry in header.cells) != len(payload):
        raise _damaged("the payload is not as long as the header says")
    cells: dict[Cell, np.ndarray] = {}
    start = 0
    for entry in header.cells:
        end = start + entry.length * entry.width
        cells[_cell(entry, header.blocks)] = _values(entry, payload[start:end])
        start = end
    statistics = Statistics(cells)
    if encode(statistics) != data:
        raise _damaged("it is not in canonical form")
    return statistics


def _header(data: bytes, limit_bytes: int) -> tuple[_StatisticsHeader, bytes]:
    if len(data) > limit_bytes:
        raise UpdateError(f"{len(data):,} bytes are more than the {limit_bytes:,} allowed", code="too_long")
    if data[:8] != MAGIC or len(data) < 44:
        raise _damaged("is not a file of statistics, or cut short")
    if hashlib.sha256(data[40:]).digest() != data[8:40]:
        raise _damaged("was altered or cut short")
    (length,) = struct.unpack("<I", data[40:44])
    if length > HEADER_LIMIT_BYTES or len(data) < 44 + length:
        raise _damaged("its header is too long")
    header = decode(
        data[44 : 44 + length], _StatisticsHeader, limit_bytes=HEADER_LIMIT_BYTES, where="statistics", error=UpdateError
    )
    if header.format != FORMAT:
        what = f"format {header.format} is not read here"
        raise UpdateError(what, code="old_format", where="statistics", remedy="update homeroom")
    return header, data[44 + length :]


def _cell(entry: _Entry, blocks: tuple[str, ...]) -> Cell:
    wanted = 2 if entry.kind in ("count", "moment") else 1
    if max(entry.blocks) >= len(blocks) or len(entry.blocks) != wanted or list(entry.blocks) != sorted(entry.blocks):
        raise _damaged(f"{entry.task}: {entry.kind} names other blocks than it has")
    if entry.length != {"count": 1, "number": 2}.get(entry.kind, entry.length):
        raise UpdateError(f"{entry.length} values", code="wrong_shape", where=f"{entry.task}: {entry.kind}")
    if entry.kind == "moment" and entry.blocks[0] == entry.blocks[1]:
        diagonal(entry.length)  # refuses what is no triangle
    return Cell(entry.task, entry.kind, entry.row, tuple(blocks[number] for number in entry.blocks))


def _values(entry: _Entry, data: bytes) -> np.ndarray:
    if entry.width not in WIDTHS:
        raise _damaged(f"{entry.width} bytes a value")
    values = np.frombuffer(data, f"<i{entry.width}").astype(np.int64)
    if not values.any():
        raise _damaged(f"{entry.task}: {entry.kind} is a cell of zeros")
    if values.max() > CHANGE_LIMIT or values.min() < -CHANGE_LIMIT:
        raise UpdateError("a sum passes its limit", code="too_large", where=f"{entry.task}: {entry.kind}")
    return values


def _fits(values: np.ndarray, width: int) -> bool:
    limit = 1 << (8 * width - 1)
    return bool(values.max() < limit and values.min() >= -limit)


def _damaged(what: str) -> UpdateError:
    return UpdateError(what, code="malformed", where="statistics", remedy="get it again from whoever made it")
