"""Codecs of an update's values: exact fixed point, and lossy codecs with fewer bits.

`fixed32`   int32 = round(value * 2**scale_bits), half to even; exact sums, the same in any order
`int8`      blocks of 256 with one float32 step each: code * step (block-wise quantization, Dettmers et al. 2022)
`int4`      the same with blocks of 64 and two codes a byte
`topk`      only the largest values of each block of 256 (Stich et al. 2018): a bitmap of positions, and int4 codes

A reader converts a lossy codec to the integers of `fixed32` before it sums: one multiplication and one rounding in
float32 (IEEE 754), the same on every machine. The sender adds the loss to its next update (error feedback, Karimireddy
et al. 2019): see `contract.residual`.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from homeroom.errors import UpdateError

Codec = Literal["fixed32", "int8", "int4", "topk"]

ENCODED_LIMIT = 1 << 24  # largest magnitude of one encoded value; 2**39 of them fit an int64 sum
BLOCK_VALUES = {"int8": 256, "int4": 64, "topk": 256}  # values that share one step
LARGEST_CODE = {"int8": 127, "int4": 7, "topk": 7}  # largest code
LEAST_STEP = np.float32(1e-30)  # blocks of smaller steps become zeros: quotients of subnormal numbers are inexact
CHUNK_VALUES = 1 << 15  # values at once: intermediate arrays stay in the processor's cache


def encode_fixed(values: np.ndarray, scale_bits: int) -> np.ndarray:
    """float32 [n] -> int32 [n]; raises UpdateError on values that are not finite or do not fit."""
    values = np.asarray(values)
    encoded = np.empty(len(values), np.int32)
    for start in range(0, len(values), CHUNK_VALUES):
        scaled = values[start : start + CHUNK_VALUES] * np.float64(2.0**scale_bits)
        np.rint(scaled, out=scaled)
        _check(scaled, scale_bits)
        encoded[start : start + CHUNK_VALUES] = scaled
    return encoded


def encode(values: np.ndarray, codec: Codec, scale_bits: int, keep: int) -> np.ndarray:
    """float32 [n] -> int32 [n] (`fixed32`) or uint8 [bytes].

    Raises UpdateError on values that are not finite or do not fit.

    values: float32 [n].
    codec: one of `Codec`.
    scale_bits: the grid is 2**-scale_bits.
    keep: values of each block that `topk` sends.
    """
    if codec == "fixed32":
        return encode_fixed(values, scale_bits)
    values = np.ascontiguousarray(values, np.float32)
    steps, marks, codes = [], [], []
    for start in range(0, len(values), CHUNK_VALUES):
        part = _blocks(values[start : start + CHUNK_VALUES], BLOCK_VALUES[codec])
        size = np.abs(part)
        largest = size.max(1)
        _check(largest * np.float32(2.0**scale_bits), scale_bits)
        step = largest / np.float32(LARGEST_CODE[codec])
        step[step < LEAST_STEP] = 0
        divisor = np.where(step > 0, step, np.float32(np.inf))  # every code of a block of zeros is zero
        steps.append(step)
        if codec == "topk":
            least = np.partition(size, BLOCK_VALUES[codec] - keep, axis=1)[:, BLOCK_VALUES[codec] - keep]
            mark = size >= np.maximum(least, divisor / 2)[:, None]  # smaller values would have the code zero
            marks.append(np.packbits(mark))
            code = part[mark] / np.repeat(divisor, np.count_nonzero(mark, axis=1))
        else:
            code = (part / divisor[:, None]).ravel()
        codes.append(np.rint(code, out=code).astype(np.int8))
    code = np.concatenate(codes)[: len(values)] if codec != "topk" else np.concatenate(codes)
    body = code.view(np.uint8) if codec == "int8" else _nibbles(code)
    return np.concatenate([np.concatenate(steps).astype("<f4").view(np.uint8), *marks, body])


def decode(data: np.ndarray, codec: Codec, size: int, scale_bits: int) -> np.ndarray:
    """Encoded data -> int32 [size], magnitudes at most ENCODED_LIMIT; UpdateError if it is not `size` values.

    Memory is bounded by `size`, the segment's length, whatever the data claims.
    """
    if codec == "fixed32":
        if data.dtype != np.int32 or data.shape != (size,):
            raise UpdateError(f"{data.dtype}{list(data.shape)} in place of int32[{size}]", code="wrong_shape")
        if data.max(initial=0) > ENCODED_LIMIT or data.min(initial=0) < -ENCODED_LIMIT:
            raise UpdateError("holds a value beyond the scale", code="too_large")
        return data
    if data.dtype != np.uint8 or data.ndim != 1:
        raise UpdateError(f"{data.dtype}{list(data.shape)} in place of bytes", code="wrong_shape")
    block = BLOCK_VALUES[codec]
    blocks = -(-size // block)
    steps, rest = data[: 4 * blocks], data[4 * blocks :]
    mark = None
    if codec == "topk":
        packed, rest = rest[: blocks * block // 8], rest[blocks * block // 8 :]
        mark = np.unpackbits(packed).view(bool)
    count = size if mark is None else int(np.count_nonzero(mark[:size]))
    fits = mark is None or (len(mark) == blocks * block and not mark[size:].any())
    if len(steps) != 4 * blocks or not fits or len(rest) != (count if codec == "int8" else -(-count // 2)):
        raise UpdateError(f"{len(data):,} bytes are not {size:,} values of {codec}", code="wrong_shape")
    step = steps.view("<f4") * np.float32(2.0**scale_bits)
    if not np.isfinite(step).all():
        raise UpdateError("holds steps that are not finite", code="not_finite")
    if (np.abs(step) * LARGEST_CODE[codec] > ENCODED_LIMIT + 4).any():  # 4: what the division by LARGEST may round up
        raise UpdateError("holds a value beyond the scale", code="too_large")
    code = rest.view(np.int8) if codec == "int8" else _from_nibbles(rest, count)
    if mark is not None:
        spread = np.zeros(blocks * block, np.int8)
        spread[mark] = code
        code = spread
    return _scaled(code, step, block, size)


def _scaled(code: np.ndarray, step: np.ndarray, block: int, size: int) -> np.ndarray:
    """int8 codes times their block's step (float32, in units of the grid) -> int32 [size]."""
    values = np.empty(size, np.int32)
    for start in range(0, size, CHUNK_VALUES):
        part = _blocks(code[start : min(start + CHUNK_VALUES, size)], block)
        real = part * step[start // block :][: len(part), None]
        np.rint(real, out=real)
        np.clip(real, -ENCODED_LIMIT, ENCODED_LIMIT, out=real)
        values[start : start + CHUNK_VALUES] = real.ravel()[: size - start]
    return values


def _check(scaled: np.ndarray, scale_bits: int) -> None:
    if not np.isfinite(scaled).all():
        raise UpdateError("the update holds values that are not finite", code="not_finite", remedy="train again")
    if np.abs(scaled).max(initial=0.0) > ENCODED_LIMIT:
        raise UpdateError(
            f"a value exceeds {ENCODED_LIMIT / 2**scale_bits:g}, the largest that the round's scale can hold",
            code="too_large",
        )


def _blocks(values: np.ndarray, block: int) -> np.ndarray:
    """[n] -> [ceil(n / block), block], zeros at the end."""
    missing = -len(values) % block
    return (np.pad(values, (0, missing)) if missing else values).reshape(-1, block)


def _nibbles(codes: np.ndarray) -> np.ndarray:
    """int8 [n] of -7 to 7 -> uint8 [ceil(n / 2)], the first code in the low half."""
    low = np.zeros(len(codes) + len(codes) % 2, np.uint8)
    low[: len(codes)] = codes.view(np.uint8) & 15
    pairs = low.view("<u2")
    return ((pairs & 15) | (pairs >> 4)).astype(np.uint8)


def _from_nibbles(data: np.ndarray, count: int) -> np.ndarray:
    """uint8 [ceil(count / 2)] -> int8 [count]; -8 to 7."""
    pairs = data.astype("<u2")
    codes = ((pairs & 15) | ((pairs & 240) << 4)).view(np.uint8)[:count]
    return (codes ^ 8).view(np.int8) - np.int8(8)
