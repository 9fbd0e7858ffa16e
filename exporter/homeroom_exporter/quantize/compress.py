"""Tap compression: PCA fitted on calibration tokens, written into the graph so that it gives int8."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from homeroom.contract.graph_io import FEATURES
from homeroom.errors import ExportError
from homeroom_exporter.quantize.graph_surgery import constant, extend, set_fields

INT8_LIMIT = 127  # of an int8, the same on both sides
PERCENTILE = 99.9  # of the magnitudes of a tap: what lies beyond is clipped
KEPT_BITS = 16  # of the mantissa: a processor that rounds sums another way still gives the same arrays, most often


@dataclass(frozen=True)
class Compression:
    """For each tap: mean float32 [width], basis float32 [width, dim], step (value of one int8 unit).

    scale: float32 [taps, dim]; a feature's value is int8 * scale, of mean square 1 over a tap's calibration tokens.
    """

    means: tuple[NDArray[np.float32], ...]
    bases: tuple[NDArray[np.float32], ...]
    steps: tuple[float, ...]
    scale: NDArray[np.float32]


def fit(tokens: Sequence[NDArray[np.float32]], dim: int, names: Sequence[str]) -> Compression:
    """Principal components of each tap's tokens [n, width], centred, in float64.

    Signs are fixed (the largest weight of a component is positive), since eigenvectors have none. Raises ExportError if
    a tap is narrower than `dim` or the calibration has too few tokens.
    """
    means, bases, steps, scales = [], [], [], []
    for name, rows in zip(names, tokens, strict=True):
        count, width = rows.shape
        if width < dim:
            raise ExportError(f"has {width} channels, fewer than dim = {dim}", where=f"tap {name}", remedy="lower dim")
        if count <= dim:
            fault = f"{count} calibration tokens are too few for dim = {dim}"
            raise ExportError(fault, where=f"tap {name}", remedy="give more calibration samples, or lower dim")
        centred = rows.astype(np.float64)
        mean = centred.mean(0)
        centred -= mean
        _, vectors = np.linalg.eigh(centred.T @ centred / count)
        basis = vectors[:, ::-1][:, :dim]
        basis = basis * np.sign(basis[np.abs(basis).argmax(0), np.arange(dim)])
        values = centred @ basis
        step = float(np.percentile(np.abs(values), PERCENTILE)) / INT8_LIMIT
        rms = float(np.sqrt((values**2).mean()))
        if not step > 1e-9:
            raise ExportError("never changes over the calibration samples", where=f"tap {name}", remedy="drop the tap")
        means.append(truncate(mean))
        bases.append(truncate(basis))
        steps.append(float(truncate(np.array([step]))[0]))
        scales.append(np.full(dim, steps[-1] / float(truncate(np.array([rms]))[0]), np.float32))
    return Compression(tuple(means), tuple(bases), tuple(steps), np.stack(scales))


def truncate(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """float32 rounded to KEPT_BITS of mantissa."""
    mantissa, exponent = np.frexp(values)
    rounded = np.ldexp(np.round(mantissa * 2.0**KEPT_BITS), exponent - KEPT_BITS)
    return np.ascontiguousarray(rounded, np.float32)


def append(model: onnx.ModelProto, taps: Sequence[str], compression: Compression, tokens: str | int) -> onnx.ModelProto:
    """The model with one output `features`, int8 [batch, taps, tokens, dim], in place of its float taps."""
    compressed = copy.deepcopy(model)
    axis = constant(compressed, "axis", np.array([1], np.int64))
    parts = []
    for tap, mean, basis, step in zip(taps, compression.means, compression.bases, compression.steps, strict=True):
        weight = (basis / np.float32(step)).astype(np.float32)
        offset = -(mean.astype(np.float64) @ weight.astype(np.float64))
        product = extend(compressed, "MatMul", [tap, constant(compressed, f"{tap}.basis", weight)], f"{tap}.product")
        moved = constant(compressed, f"{tap}.offset", offset.astype(np.float32))
        centred = extend(compressed, "Add", [product, moved], f"{tap}.centred")
        parts.append(extend(compressed, "Unsqueeze", [centred, axis], f"{tap}.part"))
    joined = extend(compressed, "Concat", parts, "joined", axis=1)
    finish(compressed, joined, ["batch", len(taps), tokens, compression.scale.shape[1]])
    return compressed


def finish(model: onnx.ModelProto, value: str, shape: Sequence[str | int]) -> None:
    """Round, clip and cast a value in int8 units to the only output `features` of the model."""
    rounded = extend(model, "Round", [value], "rounded")
    low = constant(model, "low", np.array(-INT8_LIMIT, np.float32))
    high = constant(model, "high", np.array(INT8_LIMIT, np.float32))
    clipped = extend(model, "Clip", [rounded, low, high], "clipped")
    node = helper.make_node("Cast", [clipped], [FEATURES], name="homeroom.features", to=TensorProto.INT8)
    model.graph.node.append(node)
    features = helper.make_tensor_value_info(FEATURES, TensorProto.INT8, list(shape))
    set_fields(model.graph, output=[features])


def valid_tokens(outputs: Mapping[str, NDArray[np.float32]], counts: Sequence[int]) -> dict[str, NDArray[np.float32]]:
    """The rows [n, width] of each tap [batch, tokens, width] that are not padding."""
    rows = list(enumerate(counts))
    return {tap: np.concatenate([value[row, :count] for row, count in rows]) for tap, value in outputs.items()}
