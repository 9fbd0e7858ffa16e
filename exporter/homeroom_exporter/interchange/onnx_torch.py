"""An ONNX graph of fixed shapes as a torch module, one operation at a time, for LiteRT's converter.

The steps are torch already, but the backbones come from elsewhere and are ONNX, so both take this one way: what is
converted is the very graph that onnxruntime runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numpy as np
import onnx
import torch
from onnx import NodeProto, helper, numpy_helper
from torch import Tensor

from homeroom.errors import ExportError

NARROW: dict[Any, Any] = {
    np.dtype(np.int64): np.int32,
    np.dtype(np.float64): np.float32,
}  # LiteRT's kernels are for 32 bits


class OnnxModule(torch.nn.Module):  # type: ignore[misc]
    """`forward` takes the graph's inputs in their order, and gives the tuple of its outputs.

    Everything but the values of inputs is known when it is built: shapes, axes, and whatever follows from constants.
    Raises ExportError where an operation has no translation.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__()
        graph = model.graph
        self.inputs = [value.name for value in graph.input]
        self.results = [value.name for value in graph.output]
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self.nodes = []
        for node in graph.node:
            if node.op_type == "Constant":
                self.constants[node.output[0]] = numpy_helper.to_array(_attributes(node)["value"])
            elif node.op_type not in TORCH_RULES:
                raise ExportError(f"the operation {node.op_type} has no translation to LiteRT", where=node.name)
            else:
                self.nodes.append(Operation(node, self.constants))
        used = {name for node in self.nodes for name in node.reads} | set(self.results)
        self.places = {name: f"constant_{number}" for number, name in enumerate(sorted(used & self.constants.keys()))}
        for name, place in self.places.items():
            value = self.constants[name]
            narrow = np.ascontiguousarray(value, NARROW.get(value.dtype, value.dtype))
            self.register_buffer(place, torch.from_numpy(narrow.reshape(value.shape).copy()))

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        """The graph's outputs for its inputs, in the graph's order."""
        known: dict[str, Any] = dict(zip(self.inputs, values, strict=True))
        for name, place in self.places.items():
            known[name] = getattr(self, place)
        for node in self.nodes:
            results = TORCH_RULES[node.kind](node, *(known[name] if name else None for name in node.reads))
            known |= zip(node.outputs, results if isinstance(results, tuple) else (results,), strict=False)
        return tuple(known[name] for name in self.results)


class Operation:
    """One node. `reads` are the inputs that are data; those that say how (axes, shapes) are in `plan`, by place."""

    def __init__(self, node: NodeProto, constants: dict[str, np.ndarray]) -> None:
        self.kind, self.outputs = node.op_type, list(node.output)
        self.options = _attributes(node)
        places = PLANS.get(node.op_type, ())
        self.reads = [name for place, name in enumerate(node.input) if place not in places]
        self.plan: dict[int, list[int]] = {}
        for place, name in enumerate(node.input):
            if place in places and name:
                if name not in constants:
                    raise ExportError(f"{node.op_type} of a size that is computed has no translation", where=node.name)
                self.plan[place] = [int(v) for v in constants[name].ravel()]

    def axes(self, place: int, value: Tensor) -> list[int]:
        """Axes by attribute (older opsets) or input; all where neither is given."""
        axes_given = self.plan.get(place) or [int(axis) for axis in self.options.get("axes", range(value.dim()))]
        return [axis % value.dim() for axis in axes_given]


def _attributes(node: NodeProto) -> dict[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def _unary(operation: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda node, x: operation(x)


def _binary(operation: Callable[[Any, Any], Tensor]) -> Callable[..., Tensor]:
    return lambda node, x, y: operation(x, y)


def _joined(operation: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda node, *values: reduce(operation, values)


def _cast(node: Operation, x: Tensor) -> Tensor:
    wanted = np.dtype(helper.tensor_dtype_to_np_dtype(node.options["to"]))
    return x.to(getattr(torch, np.dtype(NARROW.get(wanted, wanted)).name))


def _reshape(node: Operation, x: Tensor) -> Tensor:
    return x.reshape([x.shape[i] if size == 0 else size for i, size in enumerate(node.plan[1])])


def _unsqueeze(node: Operation, x: Tensor) -> Tensor:
    axes = node.plan.get(1) or list(node.options["axes"])
    rank = x.dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _squeeze(node: Operation, x: Tensor) -> Tensor:
    axes = node.plan.get(1) or node.options.get("axes") or [i for i, size in enumerate(x.shape) if size == 1]
    return x.reshape([size for i, size in enumerate(x.shape) if i not in {axis % x.dim() for axis in axes}])


def _split(node: Operation, x: Tensor) -> tuple[Tensor, ...]:
    axis = node.options.get("axis", 0)
    sizes = node.plan.get(1) or list(node.options.get("split", ()))
    parts = torch.split(x, sizes or -(-x.shape[axis] // len(node.outputs)), axis)
    return parts if len(parts) > 1 else (x,)  # the converter knows no split into one


def _slice(node: Operation, x: Tensor) -> Tensor:
    starts, stops = node.plan[1], node.plan[2]
    axes = node.plan.get(3) or list(range(len(starts)))
    steps = node.plan.get(4) or [1] * len(starts)
    cut = [slice(None)] * x.dim()
    for start, stop, axis, step in zip(starts, stops, axes, steps, strict=True):
        if step < 1:
            raise ExportError("a slice that goes backwards has no translation to LiteRT", where=node.outputs[0])
        cut[axis % x.dim()] = slice(start, min(stop, x.shape[axis % x.dim()]), step)
    return x[tuple(cut)]


def _gather(node: Operation, x: Tensor, index: Tensor) -> Tensor:
    axis = node.options.get("axis", 0) % x.dim()
    if index.dim() == 0:
        return x.index_select(axis, index.reshape(1)).squeeze(axis)
    if axis == 0 and x.dim() == 2 and x.is_floating_point():
        return torch.nn.functional.embedding(index, x)
    picked = x.index_select(axis, index.reshape(-1))
    return picked.reshape([*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]])


def _expand(node: Operation, x: Tensor) -> Tensor:
    return x.broadcast_to(np.broadcast_shapes(tuple(x.shape), tuple(node.plan[1])))


def _full(node: Operation) -> Tensor:
    value = node.options.get("value")
    filled = numpy_helper.to_array(value) if value is not None else np.zeros(1, np.float32)
    narrow = filled.astype(NARROW.get(filled.dtype, filled.dtype))
    return torch.full(node.plan[0], narrow.item(), dtype=getattr(torch, narrow.dtype.name))


def _pad(node: Operation, x: Tensor, *value: Tensor | None) -> Tensor:
    if node.options.get("mode", b"constant") != b"constant":
        raise ExportError("padding by other than a constant has no translation to LiteRT", where=node.outputs[0])
    return _padded(x, node.plan.get(1) or list(node.options["pads"]))


def _padded(x: Tensor, pads: Sequence[int], value: float = 0.0) -> Tensor:
    """ONNX's pads, all starts and then all ends of the last axes, in torch's order."""
    half = len(pads) // 2
    both = [size for axis in reversed(range(half)) for size in (pads[axis], pads[half + axis])]
    return torch.nn.functional.pad(x, both, value=value) if any(both) else x


def _gemm(node: Operation, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    left = a.transpose(0, 1) if node.options.get("transA") else a
    right = b.transpose(0, 1) if node.options.get("transB") else b
    product = left @ right
    alpha, beta = node.options.get("alpha", 1.0), node.options.get("beta", 1.0)
    product = product if alpha == 1.0 else product * alpha
    return product if c is None else product + (c if beta == 1.0 else c * beta)


def _reduced(operation: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def rule(node: Operation, x: Tensor) -> Tensor:
        return operation(x, dim=node.axes(1, x), keepdim=bool(node.options.get("keepdims", 1)))

    return rule


def _clip(node: Operation, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    x = x if low is None else torch.maximum(x, low)
    return x if high is None else torch.minimum(x, high)


def _layer_norm(node: Operation, x: Tensor, gain: Tensor, bias: Tensor | None = None) -> Tensor:
    axis = node.options.get("axis", -1) % x.dim()
    return torch.nn.functional.layer_norm(x, x.shape[axis:], gain, bias, node.options.get("epsilon", 1e-5))


def _batch_norm(node: Operation, x: Tensor, gain: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    epsilon = node.options.get("epsilon", 1e-5)
    return torch.nn.functional.batch_norm(x, mean, variance, gain, bias, False, 0.0, epsilon)


def _convolution(node: Operation, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    rank = x.dim() - 2
    pads = _pads(node, x, weight.shape[2:])
    convolve = (torch.nn.functional.conv1d, torch.nn.functional.conv2d)[rank - 1]
    stride, dilation = (node.options.get(key, [1] * rank) for key in ("strides", "dilations"))
    even = pads[:rank] == pads[rank:]
    source, padding = (x, pads[:rank]) if even else (_padded(x, pads), [0] * rank)
    return convolve(source, weight, bias, stride, padding, dilation, node.options.get("group", 1))


def _pads(node: Operation, x: Tensor, kernel: Sequence[int]) -> list[int]:
    rank = x.dim() - 2
    automatic = node.options.get("auto_pad", b"NOTSET")
    if automatic in (b"NOTSET", b"VALID"):
        return list(node.options.get("pads", [0] * 2 * rank)) if automatic == b"NOTSET" else [0] * 2 * rank
    steps, spread = (node.options.get(key, [1] * rank) for key in ("strides", "dilations"))
    missing = [
        max(0, (-(-size // step) - 1) * step + (k - 1) * wide + 1 - size)
        for size, step, k, wide in zip(x.shape[2:], steps, kernel, spread, strict=True)
    ]
    less, more = [size // 2 for size in missing], [size - size // 2 for size in missing]
    return [*less, *more] if automatic == b"SAME_UPPER" else [*more, *less]


def _pool(average: bool) -> Callable[..., Tensor]:
    def rule(node: Operation, x: Tensor) -> Tensor:
        kernel = list(node.options["kernel_shape"])
        rank = len(kernel)
        pads, stride = _pads(node, x, kernel), list(node.options.get("strides", [1] * rank))
        counted = bool(node.options.get("count_include_pad"))
        if rank != 2 or node.options.get("ceil_mode") or (average and any(pads) and not counted):
            raise ExportError("pooling of this kind has no translation to LiteRT", where=node.outputs[0])
        source = _padded(x, pads, 0.0 if average else -1e30)
        pool = torch.nn.functional.avg_pool2d if average else torch.nn.functional.max_pool2d
        return pool(source, kernel, stride)

    return rule


def _gelu(node: Operation, x: Tensor) -> Tensor:
    return torch.nn.functional.gelu(x, approximate=node.options.get("approximate", b"none").decode())


# Inputs of these operations that say how, not what: by their places.
PLANS: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("Reshape", "Expand", "Unsqueeze", "Squeeze", "Split", "ReduceSum", "ReduceMean"), (1,)),
    **dict.fromkeys(("ReduceMax", "ReduceMin"), (1,)),
    "ConstantOfShape": (0,),
    "Slice": (1, 2, 3, 4),
    "Pad": (1, 3),
}
# Operations that torch has by the same name in lower case.
UNARY = ("Neg", "Abs", "Sign", "Exp", "Log", "Sqrt", "Reciprocal", "Erf", "Tanh", "Sigmoid", "Relu", "Round")
BINARY = ("MatMul", "Add", "Sub", "Mul", "Div", "Pow")
TORCH_RULES: dict[str, Callable[..., Any]] = {
    **{kind: _unary(getattr(torch, kind.lower())) for kind in UNARY},
    **{kind: _binary(getattr(torch, kind.lower())) for kind in BINARY},
    "Identity": _unary(lambda x: x),
    "Cast": _cast,
    "Reshape": _reshape,
    "Flatten": lambda node, x: x.reshape(int(np.prod(x.shape[: node.options.get("axis", 1)])), -1),
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Transpose": lambda node, x: x.permute(node.options.get("perm", list(reversed(range(x.dim()))))),
    "Expand": _expand,
    "Concat": lambda node, *values: torch.cat(values, node.options["axis"]),
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "Pad": _pad,
    "ConstantOfShape": _full,
    "Where": lambda node, condition, x, y: torch.where(condition, x, y),
    "Gemm": _gemm,
    "Max": _joined(torch.maximum),
    "Min": _joined(torch.minimum),
    "Sum": _joined(torch.add),
    "And": _binary(torch.logical_and),
    "Or": _binary(torch.logical_or),
    "Not": _unary(torch.logical_not),
    "Equal": _binary(torch.eq),
    "Less": _binary(torch.lt),
    "LessOrEqual": _binary(torch.le),
    "Greater": _binary(torch.gt),
    "GreaterOrEqual": _binary(torch.ge),
    "Gelu": _gelu,
    "HardSigmoid": lambda node, x: (x * node.options.get("alpha", 0.2) + node.options.get("beta", 0.5)).clamp(0.0, 1.0),
    "HardSwish": _unary(torch.nn.functional.hardswish),
    "Softmax": lambda node, x: torch.softmax(x, node.options.get("axis", -1)),
    "LogSoftmax": lambda node, x: torch.log_softmax(x, node.options.get("axis", -1)),
    "ReduceSum": _reduced(torch.sum),
    "ReduceMean": _reduced(torch.mean),
    "ReduceMax": _reduced(torch.amax),
    "ReduceMin": _reduced(torch.amin),
    "Clip": _clip,
    "LayerNormalization": _layer_norm,
    "BatchNormalization": _batch_norm,
    "Conv": _convolution,
    "AveragePool": _pool(average=True),
    "MaxPool": _pool(average=False),
    "GlobalAveragePool": lambda node, x: x.mean(dim=list(range(2, x.dim())), keepdim=True),
}
