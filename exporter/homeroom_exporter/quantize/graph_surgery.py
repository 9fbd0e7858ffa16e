"""Surgery on ONNX graphs: exposes taps, prunes the rest, pools to tokens, gives canonical bytes."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, NodeProto, TensorProto, helper, numpy_helper

from homeroom.errors import ExportError

OPSET = 17
IR_VERSION = 8  # what onnxruntime 1.22 to 1.32 all read
IR_VERSION_INT4 = 10  # the first that has 4-bit tensors; they read it too
ADDED = "homeroom."  # prefix of the names of nodes that are added here; quantization leaves them alone


def expose(model: onnx.ModelProto, taps: Mapping[str, str]) -> onnx.ModelProto:
    """The model with the values `taps` (tap name -> value name) as its only outputs, and nothing they do not need."""
    graph = model.graph
    produced = {output for node in graph.node for output in node.output}
    if lost := sorted(value for value in taps.values() if value not in produced):
        raise ExportError(f"the graph has no value {lost[0]}", where="taps", remedy="choose other layers")
    needed = set(taps.values())
    kept: list[NodeProto] = []
    for node in reversed(graph.node):
        if needed & set(node.output):
            needed |= values_read(node)
            kept.append(node)
    pruned = helper.make_graph(
        [*reversed(kept), *(helper.make_node("Identity", [v], [t], name=f"{ADDED}{t}") for t, v in taps.items())],
        "features",
        [value for value in graph.input if value.name in needed],
        [helper.make_tensor_value_info(tap, TensorProto.FLOAT, None) for tap in taps],
        [tensor for tensor in graph.initializer if tensor.name in needed],
    )
    return as_model(pruned, model.opset_import)


def values_read(node: NodeProto) -> set[str]:
    """Every value that a node reads, those that its inner graphs capture too."""
    names = set(node.input)
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            for inner in attribute.g.node:
                names |= values_read(inner)
            names |= {output.name for output in attribute.g.output}
    return names


def set_fields(graph: onnx.GraphProto, **fields: Iterable[Any]) -> None:
    """Replaces repeated fields of a graph, such as `node`."""
    for name, values in fields.items():
        kept = list(values)
        graph.ClearField(name)
        getattr(graph, name).extend(kept)


def as_model(graph: onnx.GraphProto, opsets: Sequence[onnx.OperatorSetIdProto]) -> onnx.ModelProto:
    """A model of a graph, in the exporter's IR version."""
    return helper.make_model(graph, opset_imports=list(opsets), ir_version=IR_VERSION, producer_name="homeroom")


def constant(model: onnx.ModelProto, name: str, value: NDArray[np.generic]) -> str:
    """Add an initializer; returns its name."""
    model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), ADDED + name))
    return ADDED + name


def extend(model: onnx.ModelProto, kind: str, inputs: Sequence[str], name: str, **attributes: object) -> str:
    """Append a node with one output; returns the output's name."""
    model.graph.node.append(helper.make_node(kind, inputs, [ADDED + name], name=ADDED + name, **attributes))
    return ADDED + name


def rename_output(model: onnx.ModelProto, tap: str) -> str:
    """Free an output's name for a value computed from it; returns the new name of the old value."""
    before = f"{tap}.raw"
    for node in model.graph.node:
        _rename(node, tap, before)
        for i, output in enumerate(node.output):
            if output == tap:
                node.output[i] = before
    return before


def pool_time(model: onnx.ModelProto, tap: str, tokens: int, width: int) -> None:
    """A tap [batch, positions, width] becomes means over equal spans of time, [batch, tokens, width]."""
    raw = rename_output(model, tap)
    shape = constant(model, f"{tap}.spans", np.array([0, tokens, -1, width], np.int64))
    split = extend(model, "Reshape", [raw, shape], f"{tap}.split")
    node = helper.make_node("ReduceMean", [split], [tap], name=f"{ADDED}{tap}.mean", axes=[2], keepdims=0)
    model.graph.node.append(node)


def pool_regions(model: onnx.ModelProto, tap: str, channels: int, side: int, grid: int) -> None:
    """A map [batch, channels, side, side] becomes [batch, 1 + grid * grid, channels]: its mean, then its regions'.

    Regions are those of adaptive average pooling, row by row; they may overlap where grid does not divide side.
    """
    raw = rename_output(model, tap)
    shape = constant(model, f"{tap}.shape", np.array([0, channels, -1], np.int64))
    flat = extend(model, "Reshape", [raw, shape], f"{tap}.flat")
    pooled = extend(model, "MatMul", [flat, constant(model, f"{tap}.regions", regions(side, grid))], f"{tap}.pooled")
    model.graph.node.append(helper.make_node("Transpose", [pooled], [tap], name=f"{ADDED}{tap}.tokens", perm=[0, 2, 1]))


def pool_patches(model: onnx.ModelProto, tap: str, side: int, grid: int, special: int = 1) -> None:
    """A vision transformer's [batch, special + side * side, width] becomes its class token, then means over regions.

    `special`: tokens before the patches (the class token, then registers and the like, which are dropped); where there
    is none, the mean over all patches stands for the class token.
    """
    raw = rename_output(model, tap)
    weight = np.zeros((region_count(grid), special + side * side), np.float32)
    weight[:, special:] = regions(side, grid).T
    if special:
        weight[0] = 0
        weight[0, 0] = 1
    _pool(model, tap, raw, weight)


def pool_spans(model: onnx.ModelProto, tap: str, frames: int, tokens: int) -> None:
    """A tap [batch, frames, width] becomes means over spans of time, [batch, tokens, width]; spans may overlap."""
    _pool(model, tap, rename_output(model, tap), spans(frames, tokens))


def spans(frames: int, tokens: int) -> NDArray[np.float32]:
    """Weights float32 [tokens, frames] of the means over spans."""
    weights = np.zeros((tokens, frames), np.float32)
    for token in range(tokens):
        first, last = token * frames // tokens, -(-(token + 1) * frames // tokens)
        weights[token, first:last] = 1 / (last - first)
    return weights


def _pool(model: onnx.ModelProto, tap: str, raw: str, weight: NDArray[np.float32]) -> None:
    matrix = constant(model, f"{tap}.regions", weight)
    model.graph.node.append(helper.make_node("MatMul", [matrix, raw], [tap], name=f"{ADDED}{tap}.tokens"))


def regions(side: int, grid: int) -> NDArray[np.float32]:
    """Weights float32 [side * side, 1 + grid * grid] of the mean of a square map and of its regions."""
    if not 1 <= grid <= side:
        raise ExportError(f"a grid of {grid} does not fit a map of {side}", where="grid", remedy=f"at most {side}")
    masks = [np.ones((side, side))]
    edges = [slice(i * side // grid, -(-(i + 1) * side // grid)) for i in range(grid)]
    for rows, columns in itertools.product(edges, edges) if grid > 1 else ():
        mask = np.zeros((side, side))
        mask[rows, columns] = 1
        masks.append(mask)
    return np.stack([(mask / mask.sum()).ravel() for mask in masks], 1).astype(np.float32)


def region_count(grid: int) -> int:
    """Tokens of a square map: one for all of it, and one for each region of a grid above 1."""
    return 1 + grid * grid if grid > 1 else 1


def name_inputs(model: onnx.ModelProto, shapes: Mapping[str, tuple[str, Sequence[str | int]]]) -> None:
    """Rename inputs and state their dimensions: old name -> (new name, shape), in the order given."""
    by_name = {value.name: value for value in model.graph.input}
    values = []
    for old, (new, shape) in shapes.items():
        kind = by_name[old].type.tensor_type.elem_type
        values.append(helper.make_tensor_value_info(new, kind, list(shape)))
        for node in model.graph.node:
            _rename(node, old, new)
    set_fields(model.graph, input=values)


def canonical_bytes(model: onnx.ModelProto) -> bytes:
    """The model's bytes without anything that tells where or when it was made."""
    clean = copy.deepcopy(model)
    clean.producer_name, clean.producer_version, clean.doc_string, clean.domain = "homeroom", "", "", ""
    four = {TensorProto.INT4, TensorProto.UINT4} & {tensor.data_type for tensor in clean.graph.initializer}
    clean.ir_version = IR_VERSION_INT4 if four else IR_VERSION
    clean.model_version = 0
    del clean.metadata_props[:]
    del clean.training_info[:]
    _strip(clean.graph)
    clean.graph.name = "features"
    return bytes(clean.SerializeToString(deterministic=True))


def short_names(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with numbers for the names of its nodes and of what flows between them.

    In a small encoder's int8 file, exported names are a percent of the bytes. The float32 file keeps them.
    """
    short = copy.deepcopy(model)
    graph = short.graph
    if any(attribute.type == AttributeProto.GRAPH for node in graph.node for attribute in node.attribute):
        return short  # a branch reads the values around it by name
    kept_names = {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
    flowing = dict.fromkeys(name for node in graph.node for name in node.output if name and name not in kept_names)
    names = dict(zip(flowing, (n for n in map(str, itertools.count()) if n not in kept_names), strict=False))
    for node in graph.node:
        node.name = ""
        for values in (node.input, node.output):
            values[:] = [names.get(name, name) for name in values]
    return short


def _strip(graph: onnx.GraphProto) -> None:
    graph.doc_string = ""
    set_fields(graph, value_info=(), metadata_props=())
    for part in (*graph.node, *graph.initializer, *graph.input, *graph.output):
        part.doc_string = ""
        del part.metadata_props[:]
    for node in graph.node:
        for attribute in node.attribute:
            attribute.doc_string = ""
            if attribute.type == AttributeProto.GRAPH:
                _strip(attribute.g)


def _rename(node: NodeProto, old: str, new: str) -> None:
    for i, name in enumerate(node.input):
        if name == old:
            node.input[i] = new
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            for inner in attribute.g.node:
                _rename(inner, old, new)
