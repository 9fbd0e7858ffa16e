"""LoRA's own operations as ONNX: frozen weights in few bits, and tokens without their padding.

Each takes the graph that is being written, see `aten_to_onnx`, and a traced call; it returns the name of the result.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from onnx import TensorProto
from torch.fx import Node

Translation = Any  # `aten_to_onnx._Translation`, which imports this


def later(to: Translation, node: Node) -> str:
    """`frozen_weights.later`: adds a zero to the shape that takes a value of `after` to compute; no NaN is greater."""
    stored, after = cast(tuple[Node, Node], node.args)
    first = to.emit("Slice", to.reshape(to.name(after), [-1]), to.integers(0), to.integers(1))
    zero = to.emit("Cast", to.emit("Greater", first, first), to=TensorProto.INT64)
    return str(to.emit("Reshape", to.name(stored), to.emit("Add", to.integers(*stored.meta["val"].shape), zero)))


def scaled(to: Translation, node: Node) -> str:
    """`frozen_weights.scaled`."""
    codes, scale = cast(tuple[Node, Node], node.args)
    (_, columns), (_, blocks) = codes.meta["val"].shape, scale.meta["val"].shape
    each = to.reshape(to.name(codes), [-1, blocks, columns // blocks])
    return str(to.reshape(to.emit("Mul", each, to.reshape(to.name(scale), [-1, blocks, 1])), [-1, columns]))


def regroup(to: Translation, node: Node) -> str:
    """`unpadded_rows.regroup`."""
    x, index, width, columns = cast(tuple[Node, Node, int, int], node.args)
    picked = to.emit("Gather", to.reshape(to.name(x), [-1, width]), to.name(index), axis=0)
    return str(picked if width == columns else to.reshape(picked, [-1, columns]))


def token_indices(to: Translation, node: Node) -> str:
    """`unpadded_rows.token_indices`. Only the running graph knows how many tokens there are: no shape here holds it."""
    mask, heads, kind = cast(tuple[Node, int, str], node.args)
    rows, tokens = mask.meta["val"].shape
    first = to.constant(np.ones(1, np.float32))
    rest = to.emit("Slice", to.reshape(to.name(mask), [-1]), to.integers(1), to.integers(rows * tokens))
    flags = to.emit("Concat", first, rest, axis=0)
    present = to.reshape(to.emit("NonZero", flags), [-1])
    counted = to.emit("Cast", to.emit("CumSum", flags, to.constant(np.array(0, np.int64))), to=TensorProto.INT64)
    inverse = to.emit("Sub", counted, to.integers(1))
    head = np.arange(heads, dtype=np.int64)
    if kind == "present":
        return str(present)
    if kind == "inverse":
        return str(inverse)
    if kind == "split":
        each = to.emit("Mul", to.reshape(inverse, [rows, 1, tokens]), to.integers(heads))
        return str(to.reshape(to.emit("Add", each, to.constant(head.reshape(1, heads, 1))), [-1]))
    position = to.emit("Mod", present, to.integers(tokens))
    if kind == "position":
        return str(position)
    whole = to.emit("Mul", to.emit("Sub", present, position), to.integers(heads - 1))
    each = to.emit("Reshape", to.emit("Add", present, whole), to.integers(-1, 1))
    return str(to.reshape(to.emit("Add", each, to.constant(head.reshape(1, heads) * tokens)), [-1]))
