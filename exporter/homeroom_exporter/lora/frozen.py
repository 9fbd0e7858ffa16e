"""Frozen weights as int8 or int4 by blocks, in one file that all variants of a graph share; numpy, torch, onnx."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor

from homeroom.contract.manifest import Precision

BLOCK = {8: 64, 4: 32}  # values along a row that share a scale
ALIGNED = 4096  # a page: the runtime maps the file and copies nothing
TABLE_ROWS = 64  # lookup tables of fewer rows stay float32
CODES, SCALE = ".codes", ".scale"


@dataclass(frozen=True)
class Frozen:
    """Arrays by name, as graphs read them; a quantized matrix is `<name>.codes` int8 [rows, columns] (-8 to 7 where
    `bits` is 4) and `<name>.scale` float32 [rows, blocks]. `nibbles`: the codes that are stored as int4."""

    arrays: Mapping[str, np.ndarray]
    precision: Precision
    nibbles: frozenset[str] = frozenset()

    def having(self, more: Mapping[str, np.ndarray]) -> Frozen:
        return Frozen({**self.arrays, **more}, self.precision, self.nibbles)

    def prefixed(self, prefix: str) -> Frozen:
        return Frozen(
            {prefix + name: value for name, value in self.arrays.items()},
            self.precision,
            frozenset(prefix + name for name in self.nibbles),
        )


def freeze(weights: Mapping[str, np.ndarray], precision: Precision) -> Frozen:
    """Quantize every matrix (but positions and single rows); a lookup table of words has 8 bits in either case."""
    if precision == "float32":
        return Frozen(dict(weights), precision)
    arrays: dict[str, np.ndarray] = {}
    nibbles = set()
    for name, value in weights.items():
        if value.ndim != 2 or name == "places" or len(value) < 2 or (name == "words" and len(value) < TABLE_ROWS):
            arrays[name] = value
            continue
        bits = 8 if precision == "int8" or name == "words" else 4
        block = value.shape[1] if name == "words" else math.gcd(value.shape[1], BLOCK[bits])
        arrays[name + CODES], arrays[name + SCALE] = quantize(value, bits, block)
        if bits == 4 and value.size % 2 == 0:
            nibbles.add(name + CODES)
    return Frozen(arrays, precision, frozenset(nibbles))


def quantize(value: np.ndarray, bits: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric codes int8 [rows, columns] and float32 scales [rows, columns / block].

    The scale of each block is the one, of a few below that of its largest value, with the least squared error.
    """
    rows, columns = value.shape
    blocks = value.reshape(rows, columns // block, block).astype(np.float32)
    largest = np.abs(blocks).max(-1, keepdims=True)
    low, high = (-127, 127) if bits == 8 else (-8, 7)
    best = np.full(largest.shape, np.inf, np.float32)
    scale = np.ones_like(largest)
    # A negative scale lets the code -8 stand for the largest value, whichever its sign.
    signs = np.where(np.take_along_axis(blocks, np.abs(blocks).argmax(-1)[..., None], -1) > 0, -1.0, 1.0)
    for share in (1.0,) if bits == 8 else np.linspace(0.7, 1.0, 13):
        for edge, sign in ((high, 1.0),) if bits == 8 else ((high, 1.0), (8, signs)):
            tried = (np.maximum(largest, 1e-12) * np.float32(share / edge) * sign).astype(np.float32)
            error = np.square(np.clip(np.rint(blocks / tried), low, high) * tried - blocks).sum(-1, keepdims=True)
            better = error < best
            best, scale = np.where(better, error, best), np.where(better, tried, scale)
    codes = np.clip(np.rint(blocks / scale), low, high).astype(np.int8)
    return codes.reshape(rows, columns), np.ascontiguousarray(scale[..., 0], np.float32)


@torch.library.custom_op("homeroom::dequantize", mutates_args=())  # type: ignore[untyped-decorator]
def dequantize(codes: Tensor, scale: Tensor, after: Tensor) -> Tensor:
    """int8 [rows, columns] by its scale [rows, blocks] -> float32.

    after: what must have been computed before. A runtime would else make all matrices float32 at the start, or keep
    those of the forward pass for the backward pass: the float32 model whole, in memory.
    """
    rows, columns = codes.shape
    return (codes.reshape(rows, scale.shape[1], -1).float() * scale.unsqueeze(-1)).reshape(rows, columns)


@dequantize.register_fake  # type: ignore[untyped-decorator]
def _(codes: Tensor, scale: Tensor, after: Tensor) -> Tensor:
    return codes.new_empty(codes.shape, dtype=torch.float32)


def matrix(weights: Mapping[str, Tensor], name: str, after: Tensor) -> Tensor:
    """A frozen matrix as float32 [rows, columns]."""
    if name in weights:
        return weights[name]
    return dequantize(weights[name + CODES], weights[name + SCALE], after)


def rows_of(weights: Mapping[str, Tensor], name: str, ids: Tensor) -> Tensor:
    """Rows of a frozen lookup table, float32 [n, columns]; ids: int64 [n]."""
    if name in weights:
        return torch.embedding(weights[name], ids)
    codes, scale = torch.embedding(weights[name + CODES], ids), torch.embedding(weights[name + SCALE], ids)
    return codes.float() * scale


def dense(frozen: Frozen) -> dict[str, np.ndarray]:
    """What the quantized weights stand for, float32, by the names that `freeze` was given."""
    found: dict[str, np.ndarray] = {}
    for name, value in frozen.arrays.items():
        if name.endswith(CODES):
            scale = frozen.arrays[name.removesuffix(CODES) + SCALE]
            blocks = value.reshape(*scale.shape, -1).astype(np.float32) * scale[..., None]
            found[name.removesuffix(CODES)] = blocks.reshape(value.shape)
        elif not name.endswith(SCALE):
            found[name] = value
    return found


def packed(codes: np.ndarray) -> bytes:
    """int4 codes, two a byte, the first in the low half, as ONNX stores them."""
    low = codes.reshape(-1, 2).astype(np.uint8) & 15
    return (low[:, 0] | (low[:, 1] << 4)).tobytes()


def store(frozen: Frozen, path: Path) -> dict[str, tuple[int, int]]:
    """Write all arrays to one file; (offset, length) of each by name."""
    places = {}
    with path.open("wb") as file:
        for name, value in frozen.arrays.items():
            file.write(bytes(-file.tell() % ALIGNED))
            data = packed(value) if name in frozen.nibbles else np.ascontiguousarray(value).tobytes()
            places[name] = (file.tell(), len(data))
            file.write(data)
    return places


def attach(
    model: onnx.ModelProto, frozen: Frozen, places: Mapping[str, tuple[int, int]], location: str
) -> onnx.ModelProto:
    """Turn the model's inputs that are frozen weights into constants kept in the file `location` beside the model."""
    inputs = [value for value in model.graph.input if value.name not in frozen.arrays]
    used = {name for node in model.graph.node for name in node.input}
    for name, value in frozen.arrays.items():
        if name not in used:
            continue
        tensor = TensorProto(name=name, dims=value.shape, data_location=TensorProto.EXTERNAL)
        tensor.data_type = TensorProto.INT4 if name in frozen.nibbles else helper.np_dtype_to_tensor_dtype(value.dtype)
        offset, length = places[name]
        length = min(length, value.nbytes)  # a tier has the first rows of an A
        for key, said in (("location", location), ("offset", offset), ("length", length)):
            tensor.external_data.add(key=key, value=str(said))
        model.graph.initializer.append(tensor)
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    return model
