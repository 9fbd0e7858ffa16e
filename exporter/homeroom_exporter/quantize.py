"""Float graphs to int8 with 7-bit weights, the same on processors with and without VNNI; onnx, onnxruntime.

An 8-bit weight times an unsigned 8-bit activation, two of them added, overflows the 16 bits that AVX2 adds in: features
then collapse on older laptops. With weights of 7 bits it cannot happen (onnxruntime's `reduce_range`).
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

from homeroom_exporter.taps import OURS

TABLE_ROWS = 256  # a lookup table of at least so many rows becomes int8, each row with its own scale

Feeds = Mapping[str, NDArray[np.generic]]


def dynamic(model: onnx.ModelProto, keep_float: Iterable[str] = ()) -> onnx.ModelProto:
    """Matrix products in int8 (weights per channel, activations by batch), lookup tables in int8 by row."""
    with tempfile.TemporaryDirectory() as folder, _quiet():
        before, after = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(shrink_tables(model), before)
        quantize_dynamic(
            before,
            after,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=excluded(model, keep_float),
            extra_options={"MatMulConstBOnly": True},
        )
        return onnx.load(after)


def static(model: onnx.ModelProto, feeds: Iterable[Feeds], keep_float: Iterable[str] = ()) -> onnx.ModelProto:
    """Convolutions and what lies between in int8 (QDQ), activations by the range seen on the calibration feeds."""
    with tempfile.TemporaryDirectory() as folder, _quiet():
        before, after = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, before)
        quantize_static(
            before,
            after,
            _Reader(feeds),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "MatMul", "Gemm", "Add", "Clip", "Relu", "MaxPool", "LeakyRelu", "Max"],
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            nodes_to_exclude=excluded(model, keep_float),
        )
        return onnx.load(after)


def excluded(model: onnx.ModelProto, keep_float: Iterable[str]) -> list[str]:
    """Names of the nodes that stay in float32: pooling and compression of the taps, and what the encoder asks for."""
    prefixes = (OURS, *keep_float)
    return [node.name for node in model.graph.node if node.name.startswith(prefixes)]


def shrink_tables(model: onnx.ModelProto) -> onnx.ModelProto:
    """Each large lookup table [rows, width] as int8 with a float32 scale a row; twice as fine as one scale for all."""
    small = onnx.ModelProto()
    small.CopyFrom(model)
    graph = small.graph
    tables = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[NodeProto] = []
    done: set[str] = set()
    for node in graph.node:
        table = tables.get(node.input[0]) if node.op_type == "Gather" else None
        if table is None or table.data_type != TensorProto.FLOAT or len(table.dims) != 2 or table.dims[0] < TABLE_ROWS:
            nodes.append(node)
            continue
        name, indices, output = table.name, node.input[1], node.output[0]
        if name not in done:
            values = numpy_helper.to_array(table)
            scale = np.maximum(np.abs(values).max(1, keepdims=True), 1e-6) / np.float32(127)
            graph.initializer.append(numpy_helper.from_array(np.round(values / scale).astype(np.int8), f"{name}.int8"))
            graph.initializer.append(numpy_helper.from_array(scale.astype(np.float32), f"{name}.scale"))
            done.add(name)
        nodes += [
            helper.make_node("Gather", [f"{name}.int8", indices], [f"{output}.int8"], name=f"{OURS}{output}.rows"),
            helper.make_node("Cast", [f"{output}.int8"], [f"{output}.cast"], to=TensorProto.FLOAT),
            helper.make_node("Gather", [f"{name}.scale", indices], [f"{output}.scale"], name=f"{OURS}{output}.scales"),
            helper.make_node("Mul", [f"{output}.cast", f"{output}.scale"], [output]),
        ]
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used or tensor.name not in done]
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return small


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, feeds: Iterable[Feeds]) -> None:
        self._feeds: Iterator[Feeds] = iter(feeds)

    def get_next(self) -> Feeds | None:
        return next(self._feeds, None)


class _quiet:  # noqa: N801
    """onnxruntime's advice to preprocess goes to the root logger; our graphs are what we want them to be."""

    def __enter__(self) -> None:
        logging.disable(logging.WARNING)

    def __exit__(self, *_: object) -> None:
        logging.disable(logging.NOTSET)
