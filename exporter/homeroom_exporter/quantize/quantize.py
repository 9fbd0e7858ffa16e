"""Quantizes float graphs to int8 with 7-bit weights, the same with and without VNNI, or to int4.

An 8-bit weight times an unsigned 8-bit activation, two of them added, overflows the 16 bits that AVX2 adds in: features
then collapse on older laptops. With weights of 7 bits it cannot happen (onnxruntime's `reduce_range`). Convolutions
that stay in float32 are made exact (`exact_convolution`). int4 is of weights only, by blocks; its sums are float32.
"""

from __future__ import annotations

import copy
import logging
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper
from onnxruntime import quantization
from onnxruntime.quantization.calibrate import TensorData, load_tensors_data
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

from homeroom_exporter.quantize.exact_convolution import exact_convolutions
from homeroom_exporter.quantize.graph_surgery import ADDED, set_fields

LEAST_TABLE_ROWS = 256  # a lookup table of at least so many rows is quantized: int8 by row, or int4 by block
LEAST_FILTER_VALUES = 1 << 15  # a convolution's float32 weights are stored as int8 from so many values on
INT4_BLOCK = 32  # weights that share a scale in int4

Feeds = Mapping[str, NDArray[np.generic]]


def dynamic(model: onnx.ModelProto, keep_float: Iterable[str] = (), kept: Collection[str] = ()) -> onnx.ModelProto:
    """Matrix products in int8 (weights per channel, activations by batch), lookup tables in int8 by row.

    keep_float: prefixes of names of nodes that stay in float32; kept: whole names.
    """
    with tempfile.TemporaryDirectory() as folder, _quiet():
        before, after = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(shrink_filters(shrink_tables(model, kept), kept), before)
        quantization.quantize_dynamic(
            before,
            after,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            reduce_range=True,
            weight_type=quantization.QuantType.QInt8,
            nodes_to_exclude=[*excluded(model, keep_float), *kept],
            extra_options={"MatMulConstBOnly": True},
        )
        return onnx.load(after)


def static(
    model: onnx.ModelProto,
    feeds: Iterable[Feeds],
    keep_float: Iterable[str] = (),
    kept: Collection[str] = (),
    ranges: Path | None = None,
) -> onnx.ModelProto:
    """Convolutions and what lies between in int8 (QDQ), activations by the range seen on the calibration feeds.

    Large filters of the nodes `kept` are stored as int8 too, and become float32 when the runtime loads them; small
    ones are made exact, so that the whole is the same on all processors.
    ranges: a file for those ranges, which do not depend on `kept`; where it is there already, the feeds are not read.
    """
    with tempfile.TemporaryDirectory() as folder, _quiet():
        before, after = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        ranges = ranges or Path(folder) / "ranges.json"
        onnx.save(shrink_filters(model, {node.name for node in model.graph.node} - set(kept)), before)
        quantization.quantize_static(
            before,
            after,
            _FeedReader(feeds),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "MatMul", "Gemm", "Add", "Clip", "Relu", "MaxPool", "LeakyRelu", "Max"],
            per_channel=True,
            reduce_range=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod.MinMax,
            calibration_cache_path=ranges,
            nodes_to_exclude=[*excluded(model, keep_float), *kept],
        )
        quantized = onnx.load(after)
        return exact_convolutions(quantized, _largest(quantized, load_tensors_data(ranges).data))


def _largest(model: onnx.ModelProto, seen: Mapping[str, TensorData]) -> dict[str, float]:
    """The greatest absolute value of what was seen, and of what int8 stands for."""
    largest = {name: float(np.abs(one.range_value).max()) for name, one in seen.items()}
    constants = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and constants.get(node.input[1], np.empty(0)).size == 1:
            largest[node.output[0]] = float(constants[node.input[1]]) * np.iinfo(np.uint8).max
    return largest


def blockwise(model: onnx.ModelProto, keep_float: Iterable[str] = (), kept: Collection[str] = ()) -> onnx.ModelProto:
    """Weights of matrix products and lookup tables in int4, by blocks of BLOCK; the nodes `kept` get 8 bits.

    onnxruntime's MatMulNBits and GatherBlockQuantized: each block has a float32 scale and an integer zero point.
    """
    whole = set(candidates(model, keep_float))
    small = shrink_filters(shrink_tables(model, whole - set(kept)))
    for bits, wanted in ((4, whole - set(kept)), (8, whole & set(kept))):
        with _quiet():
            quantizer = MatMulNBitsQuantizer(
                small,
                bits=bits,
                block_size=INT4_BLOCK,
                nodes_to_exclude=[node.name for node in small.graph.node if node.name not in wanted],
                op_types_to_quantize=("MatMul", "Gather") if bits == 4 else ("MatMul",),
                quant_axes=(("MatMul", 0), ("Gather", 1)),
            )
            quantizer.process()
        small = quantizer.model.model
    said = {opset.domain: opset.version for opset in model.opset_import}
    for opset in small.opset_import:  # the library raises it, for a type that only its own operators read
        opset.version = said.get(opset.domain, opset.version)
    return small


def candidates(model: onnx.ModelProto, keep_float: Iterable[str] = ()) -> list[str]:
    """Nodes whose weights can be quantized, in the graph's order: matrix products by constants, large lookup tables
    and convolutions.
    """
    weights = {t.name: t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT}
    left_out = set(excluded(model, keep_float))
    layers = []
    for node in model.graph.node:
        index = {"MatMul": 1, "Gemm": 1, "Gather": 0, "Conv": 1}.get(node.op_type)
        tensor = weights.get(node.input[index]) if index is not None else None
        if tensor is not None and node.name not in left_out and (index != 0 or _is_table(tensor)):
            layers.append(node.name)
    return layers


def excluded(model: onnx.ModelProto, keep_float: Iterable[str]) -> list[str]:
    """Names of the nodes that stay in float32: pooling and compression of the taps, and what the encoder asks for."""
    prefixes = (ADDED, *keep_float)
    return [node.name for node in model.graph.node if node.name.startswith(prefixes)]


def shrink_tables(model: onnx.ModelProto, keep: Collection[str] = ()) -> onnx.ModelProto:
    """Each large lookup table [rows, width] as int8 with a float32 scale a row; twice as fine as one scale for all.

    keep: names of nodes whose tables are left as they are.
    """

    def lookup(node: NodeProto, name: str) -> list[NodeProto]:
        indices, output = node.input[1], node.output[0]
        return [
            helper.make_node("Gather", [f"{name}.int8", indices], [f"{output}.int8"], name=f"{ADDED}{output}.rows"),
            helper.make_node("Cast", [f"{output}.int8"], [f"{output}.cast"], to=TensorProto.FLOAT),
            helper.make_node("Gather", [f"{name}.scale", indices], [f"{output}.scale"], name=f"{ADDED}{output}.scales"),
            helper.make_node("Mul", [f"{output}.cast", f"{output}.scale"], [output]),
        ]

    def wanted(node: NodeProto, tensor: TensorProto) -> bool:
        return node.op_type == "Gather" and node.name not in keep and _is_table(tensor)

    return _shrink(model, 0, wanted, lookup)


def shrink_filters(model: onnx.ModelProto, keep: Collection[str] = ()) -> onnx.ModelProto:
    """Large filters of convolutions as int8 with a scale a channel; the runtime makes float32 of them when it loads."""

    def convolve(node: NodeProto, name: str) -> list[NodeProto]:
        output = node.output[0]
        cast, restored = f"{output}.filter.cast", f"{output}.filter"
        back = helper.make_node("Cast", [f"{name}.int8"], [cast], name=ADDED + cast, to=TensorProto.FLOAT)
        scaled = helper.make_node("Mul", [cast, f"{name}.scale"], [restored], name=ADDED + restored)
        changed = copy.deepcopy(node)
        changed.input[1] = restored
        return [back, scaled, changed]

    def wanted(node: NodeProto, tensor: TensorProto) -> bool:
        return node.op_type == "Conv" and node.name not in keep and np.prod(tensor.dims) >= LEAST_FILTER_VALUES

    return _shrink(model, 1, wanted, convolve)


def _is_table(tensor: TensorProto) -> bool:
    return len(tensor.dims) == 2 and tensor.dims[0] >= LEAST_TABLE_ROWS


def _shrink(
    model: onnx.ModelProto,
    index: int,
    wanted: Callable[[NodeProto, TensorProto], bool],
    read: Callable[[NodeProto, str], list[NodeProto]],
) -> onnx.ModelProto:
    """Constants at an input `place` of the nodes wanted, as `<name>.int8` and `<name>.scale` of their first axis."""
    small = copy.deepcopy(model)
    graph = small.graph
    floats = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    nodes: list[NodeProto] = []
    done: set[str] = set()
    for node in graph.node:
        tensor = floats.get(node.input[index]) if len(node.input) > index else None
        if tensor is None or not wanted(node, tensor):
            nodes.append(node)
            continue
        name = tensor.name
        if name not in done:
            values = numpy_helper.to_array(tensor)
            axes = tuple(range(1, values.ndim))
            scale = np.maximum(np.abs(values).max(axes, keepdims=True), 1e-6) / np.float32(127)
            graph.initializer.append(numpy_helper.from_array(np.round(values / scale).astype(np.int8), f"{name}.int8"))
            graph.initializer.append(numpy_helper.from_array(scale.astype(np.float32), f"{name}.scale"))
            done.add(name)
        nodes += read(node, name)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used or tensor.name not in done]
    set_fields(graph, node=nodes, initializer=kept)
    return small


class _FeedReader(quantization.CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, feeds: Iterable[Feeds]) -> None:
        self._feeds: Iterator[Feeds] = iter(feeds)

    def get_next(self) -> Feeds | None:
        return next(self._feeds, None)


@contextmanager
def _quiet() -> Iterator[None]:
    """onnxruntime's advice to preprocess goes to the root logger; our graphs are what we want them to be."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
