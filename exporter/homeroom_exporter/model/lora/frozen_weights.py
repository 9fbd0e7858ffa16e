"""Frozen weights as int8 or int4 by blocks, in one file that all variants of a graph share."""

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
from homeroom_exporter.quantize.graph_surgery import set_fields

# Bits, and values along a row that share a scale: of most matrices, and of as many sensitive ones as BUDGET holds.
BITS_AND_BLOCKS = {"int8": ((8, 64), (8, 16)), "int4": ((4, 32), (8, 64))}
ALIGNED = 4096  # a page: the runtime maps the file and copies nothing
LEAST_TABLE_ROWS = 64  # lookup tables of fewer rows stay float32
CODES, SCALE, PAIRS = ".codes", ".scale", ".pairs"
SIZE_SHARE = {"int8": 0.269, "int4": 0.215}  # of the float32 weights' bytes, all arrays together
# Most sensitive first: in a simulation MiniLM's LoRA gradient had a cosine of 0.952 with float32's where `up` alone was
# in 4 bits, then 0.984, 0.986, 0.991, 0.995 and 0.997, and of 0.996 where the table of words alone was.
SENSITIVE = ("patches", "up", "value", "down", "out", "key", "query")


@dataclass(frozen=True)
class FrozenWeights:
    """Arrays by name, as graphs read them; a quantized matrix is `<name>.scale` float32 [rows, blocks] and
    `<name>.codes` int8 [rows, columns], or in 4 bits `<name>.pairs` uint8 [rows, columns / 2], see `paired`.
    """

    arrays: Mapping[str, np.ndarray]
    precision: Precision

    def having(self, more: Mapping[str, np.ndarray]) -> FrozenWeights:
        """These weights and more of them."""
        return FrozenWeights({**self.arrays, **more}, self.precision)

    def prefixed(self, prefix: str) -> FrozenWeights:
        """These weights under names with a prefix."""
        return FrozenWeights({prefix + name: value for name, value in self.arrays.items()}, self.precision)


def freeze(weights: Mapping[str, np.ndarray], precision: Precision) -> FrozenWeights:
    """Quantize every matrix but positions and single rows; int4 has 4 bits in all, the table of words too, and then 8
    in some.
    """
    if precision == "float32":
        return FrozenWeights(dict(weights), precision)
    forms = _forms(weights, precision)
    arrays: dict[str, np.ndarray] = {}
    for name, value in weights.items():
        if name not in forms:
            arrays[name] = value
            continue
        codes, arrays[name + SCALE] = quantize(value, *forms[name])
        if forms[name][0] == 4:
            arrays[name + PAIRS] = paired(codes)
        else:
            arrays[name + CODES] = codes
    return FrozenWeights(arrays, precision)


def _is_matrix(name: str, value: np.ndarray) -> bool:
    return value.ndim == 2 and name != "places" and len(value) >= (LEAST_TABLE_ROWS if name == "words" else 2)


def _forms(weights: Mapping[str, np.ndarray], precision: Precision) -> dict[str, tuple[int, int]]:
    """Bits and block of each matrix."""
    coarse, fine = BITS_AND_BLOCKS[precision]

    def form(name: str, wanted: tuple[int, int]) -> tuple[int, int]:
        bits, block = wanted
        columns = weights[name].shape[1]
        return bits, columns if name == "words" and bits == 8 else math.gcd(columns, block)

    def size(name: str, bits: int, block: int) -> float:
        return weights[name].size * (bits / 8 + 4 / block)

    forms: dict[str, tuple[int, int]] = {}
    for name, value in weights.items():
        if _is_matrix(name, value):
            forms[name] = form(name, fine if value.shape[1] % 2 else coarse)
    spare = SIZE_SHARE[precision] * sum(value.nbytes for value in weights.values())
    spare -= sum(size(name, *forms[name]) if name in forms else value.nbytes for name, value in weights.items())
    for name in (name for kind in SENSITIVE for name in forms if name.rpartition(".")[2] == kind):
        better = form(name, fine)
        more = size(name, *better) - size(name, *forms[name])
        if more <= spare:
            forms[name], spare = better, spare - more
    return forms


def paired(codes: np.ndarray) -> np.ndarray:
    """int4 codes [rows, columns] as uint8 [rows, columns / 2]: 8 more of the first half, 16 times that of the second.

    In this form a runtime looks rows up, which it cannot in ONNX's int4, and has floats of it twice as fast.
    """
    low, high = np.split(codes.astype(np.int16) + 8, 2, 1)
    return np.asarray(low + 16 * high, np.uint8)


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


@torch.library.custom_op("homeroom::later", mutates_args=())  # type: ignore[untyped-decorator]
def later(stored: Tensor, after: Tensor) -> Tensor:
    """`stored` as it is, once `after` has been computed.

    A runtime would else make all matrices float32 at the start, or keep those of the forward pass for the backward
    pass: the float32 model whole, in memory.
    """
    return stored.clone()


@later.register_fake  # type: ignore[untyped-decorator]
def _(stored: Tensor, after: Tensor) -> Tensor:
    return torch.empty_like(stored)


def matrix(weights: Mapping[str, Tensor], name: str, after: Tensor) -> Tensor:
    """A frozen matrix as float32 [rows, columns]; after: see `later`."""
    if name in weights:
        return weights[name]
    if name + CODES in weights:
        return scaled(later(weights[name + CODES], after).float(), weights[name + SCALE])
    return scaled(_halves(later(weights[name + PAIRS], after)), weights[name + SCALE])


def rows_of(weights: Mapping[str, Tensor], name: str, ids: Tensor) -> Tensor:
    """Rows of a frozen lookup table, float32 [n, columns]; ids: int64 [n]."""
    if name in weights:
        return torch.embedding(weights[name], ids)
    scale = torch.embedding(weights[name + SCALE], ids)
    if name + CODES in weights:
        return scaled(torch.embedding(weights[name + CODES], ids).float(), scale)
    return scaled(_halves(torch.embedding(weights[name + PAIRS], ids)), scale)


def _halves(pairs: Tensor) -> Tensor:
    """What `paired` made, as float32 codes [rows, columns]."""
    values = pairs.float()
    high = torch.floor(values * (1 / 16))
    return torch.cat([values - high * 16, high], 1) - 8.0


@torch.library.custom_op("homeroom::scaled", mutates_args=())  # type: ignore[untyped-decorator]
def scaled(codes: Tensor, scale: Tensor) -> Tensor:
    """float32 [n, columns] by its scale [n, blocks]; n may be known only when the graph runs."""
    return (codes.reshape(*scale.shape, -1) * scale.unsqueeze(-1)).reshape(codes.shape)


@scaled.register_fake  # type: ignore[untyped-decorator]
def _(codes: Tensor, scale: Tensor) -> Tensor:
    return torch.empty_like(codes)


def store(frozen: FrozenWeights, path: Path) -> dict[str, tuple[int, int]]:
    """Write all arrays to one file; (offset, length) of each by name."""
    offsets = {}
    with path.open("wb") as file:
        for name, value in frozen.arrays.items():
            file.write(bytes(-file.tell() % ALIGNED))
            data = np.ascontiguousarray(value).tobytes()
            offsets[name] = (file.tell(), len(data))
            file.write(data)
    return offsets


def attach(
    model: onnx.ModelProto, frozen: FrozenWeights, offsets: Mapping[str, tuple[int, int]], location: str
) -> onnx.ModelProto:
    """Turn the model's inputs that are frozen weights into constants kept in the file `location` beside the model."""
    used = {name for node in model.graph.node for name in node.input}
    for name, value in frozen.arrays.items():
        if name not in used:
            continue
        tensor = TensorProto(name=name, dims=value.shape, data_location=TensorProto.EXTERNAL)
        tensor.data_type = helper.np_dtype_to_tensor_dtype(value.dtype)
        offset, length = offsets[name]
        length = min(length, value.nbytes)  # a tier has the first rows of an A
        for key, said in (("location", location), ("offset", offset), ("length", length)):
            tensor.external_data.add(key=key, value=str(said))
        model.graph.initializer.append(tensor)
    set_fields(model.graph, input=[value for value in model.graph.input if value.name not in frozen.arrays])
    return model
