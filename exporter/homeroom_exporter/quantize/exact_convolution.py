"""Exact convolutions: float sums that no order of adding changes, so that every processor gives the same bits.

A float32 holds each integer up to 2^24. Where inputs, weights and bias are multiples of powers of two, and no sum of
products can pass that, nothing is ever rounded. Without it one value in a hundred thousand falls on another side of the
next int8 step on another processor, and thirty layers later a third of all values differ.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from homeroom_exporter.quantize.graph_surgery import ADDED, set_fields

SIGNIFICAND_BITS = 24  # of a float32's significand
INPUT_BITS = (12, 11, 10)  # of an input, with one that is room above the range; the finest that weights leave is taken
LOST_NORM_LIMIT = 0.004  # of a filter's norm at most; 8 bits a channel lose twice as much
OPERANDS = ("weight", "bias")

Array = NDArray[np.float32]


def exact_convolutions(model: onnx.ModelProto, largest: Mapping[str, float]) -> onnx.ModelProto:
    """The model with inputs, weights and bias of its float32 convolutions on such grids.

    largest: the greatest absolute value seen of a graph's values, by name; beyond twice that a sum may be rounded. A
    convolution of too many products for its precision is left as it is, and so is one whose input is not in `largest`.
    """
    result = copy.deepcopy(model)
    graph = result.graph
    floats = [tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT]
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in floats}
    nodes: list[NodeProto] = []
    for node in graph.node:
        grids = None
        if node.op_type == "Conv" and set(node.input[1:]) <= set(constants) and largest.get(node.input[0]):
            grids = _grids(largest[node.input[0]], *(constants[name] for name in node.input[1:]))
        if grids is None:
            nodes.append(node)
            continue
        step, values = grids
        name = f"{ADDED}{node.output[0]}"
        parts = [numpy_helper.from_array(np.float32(1 / step), f"{name}.scale")]
        parts += [numpy_helper.from_array(one, f"{name}.{kind}") for one, kind in zip(values, OPERANDS, strict=False)]
        graph.initializer.extend(parts)
        nodes.append(helper.make_node("Mul", [node.input[0], parts[0].name], [f"{name}.scaled"], name=f"{name}.scaled"))
        nodes.append(helper.make_node("Round", [f"{name}.scaled"], [f"{name}.steps"], name=f"{name}.steps"))
        changed = copy.deepcopy(node)
        changed.input[:] = [f"{name}.steps", *(part.name for part in parts[1:])]
        nodes.append(changed)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    set_fields(graph, node=nodes, initializer=kept)
    return result


def _grids(largest: float, weight: Array, bias: Array | None = None) -> tuple[float, list[Array]] | None:
    """The step of an input, and what is for inputs in steps: weight [out, in, ...], bias [out]; None: too coarse."""
    rows = weight.reshape(len(weight), -1).astype(np.float64)
    offset = np.zeros(len(rows)) if bias is None else bias.astype(np.float64)
    for bits in INPUT_BITS:
        step = 2.0 ** (np.ceil(np.log2(largest)) - bits + 1)
        rows_of_steps, limit = rows * step, 2.0**bits  # steps of an input of twice the largest
        largest_sum = np.abs(rows_of_steps).sum(1) * limit + np.abs(offset)
        grid = 2.0 ** np.ceil(np.log2(np.maximum(largest_sum, np.finfo(np.float32).tiny)) - SIGNIFICAND_BITS)
        weight_steps, bias_steps = np.round(rows_of_steps / grid[:, None]), np.round(offset / grid)
        passed = np.abs(weight_steps).sum(1) * limit + np.abs(bias_steps) > 2.0**SIGNIFICAND_BITS
        grid[passed] *= 2  # rounding went up past it
        weight_steps, bias_steps = np.round(rows_of_steps / grid[:, None]), np.round(offset / grid)
        rounded = weight_steps * grid[:, None]
        if np.linalg.norm(rounded - rows_of_steps) <= LOST_NORM_LIMIT * np.linalg.norm(rows_of_steps):
            values = [rounded.reshape(weight.shape), *([bias_steps * grid] if bias is not None else [])]
            return float(step), [one.astype(np.float32) for one in values]
    return None
