"""Translates a traced graph of ATen operations to an ONNX graph, one operation at a time.

torch.onnx.export takes ten seconds for a step of nine hundred operations, and its optimizer drops small constants
(an epsilon of 1e-8 becomes zero). A step uses some thirty kinds of operation, so that a direct translation is shorter,
takes milliseconds, gives the same bytes each time, and lets transposed products and biases become one Gemm.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.fx import GraphModule, Node

from homeroom.errors import ExportError
from homeroom_exporter.model.lora import onnx_operations

OPSET = 20
IR_VERSION = 9
LEAST_UNIFORM_VALUES = 64  # a constant of so many equal values is made by the graph, not stored
ONNX_TYPE = {
    torch.float32: TensorProto.FLOAT,
    torch.int8: TensorProto.INT8,
    torch.uint8: TensorProto.UINT8,
    torch.int32: TensorProto.INT32,
    torch.int64: TensorProto.INT64,
    torch.bool: TensorProto.BOOL,
}
BROADCASTING = ("mul.Tensor", "add.Tensor", "sub.Tensor", "div.Tensor", "where.self")


def aten_to_onnx(traced: GraphModule, inputs: Sequence[str], outputs: Sequence[str]) -> onnx.ModelProto:
    """The ONNX model of `traced`, whose placeholders and results get these names; ExportError on an unknown operation.

    Shapes are those that it was traced with.
    """
    return _Translation(traced, inputs, outputs).model()


def shape_of(node: Node) -> tuple[int, ...]:
    """The shape that a value had when it was traced."""
    return tuple(node.meta["val"].shape)


class _Translation:
    def __init__(self, traced: GraphModule, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        self.traced = traced
        self.nodes: list[onnx.NodeProto] = []
        self.made_by: dict[str, onnx.NodeProto] = {}
        self.initializers: dict[tuple[str, tuple[int, ...], bytes], onnx.TensorProto] = {}
        self.uniform: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self.names: dict[Node, str] = {}
        self.constants: dict[Node, Any] = {}
        self.inputs, self.outputs = list(inputs), list(outputs)

    def model(self) -> onnx.ModelProto:
        graph = self.traced.graph
        placeholders = [n for n in graph.nodes if n.op == "placeholder"]
        self.names.update(zip(placeholders, self.inputs, strict=True))
        results: list[Node] = []
        for node in graph.nodes:
            if node.op == "get_attr":
                self.constants[node] = getattr(self.traced, str(node.target)).detach()
            elif node.op == "call_function":
                self.call(node)
            elif node.op == "output":
                results = list(node.args[0])
        for name, node in zip(self.outputs, results, strict=True):
            self.nodes.append(helper.make_node("Identity", [self.name(node)], [name]))
        nodes = _without_identities(_reachable(self.nodes, self.outputs), self.outputs)
        used = {name for node in nodes for name in node.input}
        proto = helper.make_graph(
            nodes,
            "step",
            [_value(name, node) for name, node in zip(self.inputs, placeholders, strict=True)],
            [_value(name, node) for name, node in zip(self.outputs, results, strict=True)],
            [tensor for tensor in self.initializers.values() if tensor.name in used],
        )
        model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="homeroom")
        model.ir_version = IR_VERSION
        onnx.checker.check_model(model, full_check=True)
        return model

    def call(self, node: Node) -> None:
        """Translate one operation, or compute it now if nothing in it depends on an input."""
        arguments = torch.fx.node.map_arg(node.args, lambda n: self.constants.get(n, n))
        if not any(isinstance(a, Node) for a in _flat(arguments)):
            keywords = {k: v for k, v in node.kwargs.items() if k not in ("device", "pin_memory", "layout")}
            self.constants[node] = node.target(*arguments, **keywords)
            return
        kind = getattr(node.target, "__name__", str(node.target))
        rule = ONNX_RULES.get(kind)
        if rule is None:
            raise ExportError(f"the operation {kind} has no translation to ONNX", where="training graph")
        self.names[node] = rule(self, node)

    def name(self, value: Any, dtype: torch.dtype = torch.float32) -> str:
        """The ONNX name of a node's value, or of a constant."""
        if isinstance(value, Node):
            if value not in self.constants:
                return self.names[value]
            value = self.constants[value]
        if isinstance(value, torch.Tensor):
            return self.constant(value.contiguous().numpy())
        return self.constant(torch.tensor(value, dtype=dtype).numpy())

    def constant(self, array: np.ndarray) -> str:
        key = (array.dtype.str, array.shape, array.tobytes())
        if array.size >= LEAST_UNIFORM_VALUES and (array == array.flat[0]).all():
            if key not in self.uniform:
                value = numpy_helper.from_array(array.reshape(-1)[:1], "value")
                self.uniform[key] = self.emit("ConstantOfShape", self.integers(*array.shape), value=value)
            return self.uniform[key]
        if key not in self.initializers:
            self.initializers[key] = numpy_helper.from_array(array, f"c{len(self.initializers)}")
        return str(self.initializers[key].name)

    def integers(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def emit(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        """Append one ONNX node; returns its (first) output's name."""
        base = f"v{len(self.nodes)}"
        names = [base] if outputs == 1 else [f"{base}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        self.made_by.update(dict.fromkeys(names, self.nodes[-1]))
        return names[0]

    def reshape(self, name: str, shape: Sequence[int]) -> str:
        """A Reshape, unless the value is a Reshape itself: then of what that one reads."""
        source = self.made_by.get(name)
        if source is not None and source.op_type == "Reshape":
            name = source.input[0]
        return self.emit("Reshape", name, self.integers(*shape))


def _flat(value: Any) -> list[Any]:
    if isinstance(value, (list, tuple)):
        return [leaf for one in value for leaf in _flat(one)]
    return [value]


def _value(name: str, node: Node) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, ONNX_TYPE[node.meta["val"].dtype], list(shape_of(node)))


def _reachable(nodes: Sequence[onnx.NodeProto], outputs: Sequence[str]) -> list[onnx.NodeProto]:
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            kept.append(node)
    return kept[::-1]


def _without_identities(nodes: Sequence[onnx.NodeProto], outputs: Sequence[str]) -> list[onnx.NodeProto]:
    """Let the node that makes a result carry the result's name, where it makes that result alone."""
    rename: dict[str, str] = {}
    made = {name for node in nodes for name in node.output}
    for node in nodes:
        if node.op_type == "Identity" and node.input[0] in made and node.input[0] not in rename:
            rename[node.input[0]] = node.output[0]
    kept = [n for n in nodes if not (n.op_type == "Identity" and rename.get(n.input[0]) == n.output[0])]
    for node in kept:
        for field in (node.input, node.output):
            for i, name in enumerate(field):
                field[i] = rename.get(name, name)
    return kept


def _axis(node: Node, axis: int) -> int:
    return axis % max(len(shape_of(node)), 1)


def _binary(kind: str) -> Callable[[_Translation, Node], str]:
    return lambda to, node: to.emit(kind, to.name(node.args[0]), to.name(node.args[1]))


def _unary(kind: str) -> Callable[[_Translation, Node], str]:
    return lambda to, node: to.emit(kind, to.name(node.args[0]))


def _compare(kind: str) -> Callable[[_Translation, Node], str]:
    def rule(to: _Translation, node: Node) -> str:
        left: Any = node.args[0]
        dtype = left.meta["val"].dtype
        return to.emit(kind, to.name(left), to.name(node.args[1], dtype))

    return rule


def _softmax(kind: str) -> Callable[[_Translation, Node], str]:
    return lambda to, node: to.emit(kind, to.name(node.args[0]), axis=_axis(node, node.args[1]))


def _reduce(kind: str) -> Callable[[_Translation, Node], str]:
    def rule(to: _Translation, node: Node) -> str:
        source: Any = node.args[0]
        rank = len(shape_of(source))
        axes_given: Any = node.args[1] if len(node.args) > 1 and node.args[1] else list(range(rank))
        keep = int(bool(node.args[2])) if len(node.args) > 2 else 0
        axes = sorted(axis % rank for axis in axes_given)
        return to.emit(kind, to.name(source), to.integers(*axes), keepdims=keep)

    return rule


def _view(to: _Translation, node: Node) -> str:
    source: Any = node.args[0]
    if source not in to.constants and shape_of(source) == shape_of(node):
        return to.name(source)
    return to.reshape(to.name(source), shape_of(node))


def _alias(to: _Translation, node: Node) -> str:
    return to.name(node.args[0])


def _permute(to: _Translation, node: Node) -> str:
    source: Any = node.args[0]
    order: Any = node.args[1]
    shape = shape_of(source)
    order = [axis % len(shape) for axis in order]
    moved = [axis for axis in order if shape[axis] != 1]
    if moved == sorted(moved):
        return to.reshape(to.name(source), shape_of(node))
    return to.emit("Transpose", to.name(source), perm=order)


def _expand(to: _Translation, node: Node) -> str:
    source: Any = node.args[0]
    if shape_of(source) == shape_of(node):
        return to.name(source)
    if all(_broadcasts(user, node) for user in node.users):
        return to.name(source)
    return to.emit("Expand", to.name(source), to.integers(*shape_of(node)))


def _broadcasts(user: Node, expanded: Node) -> bool:
    """Whether an elementwise user has another operand that already has the full shape."""
    if getattr(user.target, "__name__", "") not in BROADCASTING:
        return False
    others = [a for a in user.args if isinstance(a, Node) and a is not expanded]
    full = [a for a in others if shape_of(a) == shape_of(user) and "expand" not in str(a.target)]
    return bool(full)


def _transposed(to: _Translation, value: Any) -> tuple[str, int]:
    """A matrix product's operand: (name, 1) of what is transposed, if it is the transpose of a matrix."""
    if isinstance(value, Node) and value not in to.constants and "permute" in str(value.target):
        return to.name(value.args[0]), 1
    return to.name(value), 0


def _mm(to: _Translation, node: Node) -> str:
    left, turn_left = _transposed(to, node.args[0])
    right, turn_right = _transposed(to, node.args[1])
    if not turn_left and not turn_right:
        return to.emit("MatMul", left, right)
    return to.emit("Gemm", left, right, transA=turn_left, transB=turn_right)


def _addmm(to: _Translation, node: Node) -> str:
    added, *operands = node.args
    (left, turn_left), (right, turn_right) = (_transposed(to, operand) for operand in operands)
    scales: dict[str, Any] = {name: float(cast(float, value)) for name, value in node.kwargs.items() if value != 1.0}
    return to.emit("Gemm", left, right, to.name(added), transA=turn_left, transB=turn_right, **scales)


def _layer_norm(to: _Translation, node: Node) -> str:
    source, _, gain, bias, epsilon = node.args
    names = (to.name(value) for value in (source, gain, bias))
    return to.emit("LayerNormalization", *names, outputs=3, axis=-1, epsilon=epsilon)


def _cat(to: _Translation, node: Node) -> str:
    parts: Any = node.args[0]
    axis = node.args[1] if len(node.args) > 1 else 0
    if len(parts) == 1:
        return to.name(parts[0])
    return to.emit("Concat", *(to.name(part) for part in parts), axis=_axis(node, axis))


def _slice(to: _Translation, node: Node) -> str:
    source: Any = node.args[0]
    given: list[Any] = [*node.args[1:], *(0, None, None, 1)[len(node.args) - 1 :]]
    axis, step = _axis(node, given[0]), given[3]
    length = shape_of(source)[axis]
    first = int(given[1] or 0)
    last = length if given[2] is None else min(int(given[2]), length)
    return to.emit(
        "Slice", to.name(source), to.integers(first), to.integers(last), to.integers(axis), to.integers(int(step))
    )


def _select(to: _Translation, node: Node) -> str:
    source: Any = node.args[0]
    axis, index = _axis(source, node.args[1]), int(node.args[2])
    length = shape_of(source)[axis]
    if length == 1:
        return to.reshape(to.name(source), shape_of(node))
    return to.emit("Gather", to.name(source), to.constant(np.array(index % length, np.int64)), axis=axis)


def _index(to: _Translation, node: Node) -> str:
    """Indexing by one list along one axis."""
    picks: Any = node.args[1]
    chosen = [(axis, pick) for axis, pick in enumerate(picks) if pick is not None]
    if len(chosen) != 1 or len(shape_of(chosen[0][1])) != 1:
        raise ExportError("an index that is not one list has no translation to ONNX", where="training graph")
    axis, pick = chosen[0]
    return to.emit("Gather", to.name(node.args[0]), to.name(pick), axis=axis)


def _split(to: _Translation, node: Node) -> str:
    sizes: Any = node.args[1]
    axis = _axis(node.args[0], node.args[2] if len(node.args) > 2 else 0)
    return to.emit("Split", to.name(node.args[0]), to.integers(*sizes), outputs=len(sizes), axis=axis)


def _slice_scatter(to: _Translation, node: Node) -> str:
    """A slice written into zeros, which is what the gradient of a slice is: one Pad."""
    given: list[Any] = [*node.args, *(0, None, None)[len(node.args) - 2 :]]
    base, value, axis, start, stop = given[:5]
    if base not in to.constants or bool(to.constants[base].any()):
        raise ExportError("writing a slice into a value that is not zero has no translation", where="training graph")
    shape, axis = shape_of(node), _axis(node, axis)
    first = int(start or 0)
    last = shape[axis] if stop is None else min(int(stop), shape[axis])
    before, after = [0] * len(shape), [0] * len(shape)
    before[axis], after[axis] = first, shape[axis] - last
    return to.emit("Pad", to.name(value), to.integers(*before, *after))


def _getitem(to: _Translation, node: Node) -> str:
    source: Any = node.args[0]
    index: Any = node.args[1]
    return str(to.made_by[to.names[source]].output[index])


def _power(to: _Translation, node: Node) -> str:
    base, exponent = to.name(node.args[0]), node.args[1]
    if exponent == 2:
        return to.emit("Mul", base, base)
    if exponent == 3:
        return to.emit("Mul", to.emit("Mul", base, base), base)
    return to.emit("Pow", base, to.name(exponent))


def _clamp(to: _Translation, node: Node) -> str:
    low, high = (*node.args[1:], None, None)[:2]
    name = to.name(node.args[0])
    if low is not None:
        name = to.emit("Max", name, to.name(low))
    return name if high is None else to.emit("Min", name, to.name(high))


def _cast(to: _Translation, node: Node) -> str:
    return to.emit("Cast", to.name(node.args[0]), to=ONNX_TYPE[node.meta["val"].dtype])


def _full_like(to: _Translation, node: Node) -> str:
    return to.name(torch.full(shape_of(node), node.args[1], dtype=node.meta["val"].dtype))


def _where(to: _Translation, node: Node) -> str:
    return to.emit("Where", *(to.name(argument) for argument in node.args))


VIEWS = ("view.default", "_unsafe_view.default", "unsqueeze.default", "squeeze.dims", "squeeze.dim")
UNARY = ("Relu", "Neg", "Exp", "Log", "Abs", "Floor", "Sign", "Sqrt", "Reciprocal", "Gelu", "Erf")
ARITHMETIC = ("Mul", "Add", "Sub", "Div")  # ATen's names are those of ONNX in lower case, here and above
COMPARISONS = {"le": "LessOrEqual", "lt": "Less", "ge": "GreaterOrEqual", "gt": "Greater", "eq": "Equal"}
LORA_RULES = (onnx_operations.later, onnx_operations.regroup, onnx_operations.scaled, onnx_operations.token_indices)
ONNX_RULES: dict[str, Callable[[_Translation, Node], str]] = {
    **dict.fromkeys(VIEWS, _view),
    **dict.fromkeys(("clone.default", "alias.default", "detach.default"), _alias),
    **{f"{kind.lower()}.default": _unary(kind) for kind in UNARY},
    **{f"{kind.lower()}.{operand}": _binary(kind) for kind in ARITHMETIC for operand in ("Tensor", "Scalar")},
    **{f"{name}.Scalar": _compare(kind) for name, kind in COMPARISONS.items()},
    **{f"{rule.__name__}.default": rule for rule in LORA_RULES},
    "permute.default": _permute,
    "expand.default": _expand,
    "mm.default": _mm,
    "addmm.default": _addmm,
    "bmm.default": _binary("MatMul"),
    "sum.dim_IntList": _reduce("ReduceSum"),
    "mean.dim": _reduce("ReduceMean"),
    "rsqrt.default": lambda to, node: to.emit("Reciprocal", to.emit("Sqrt", to.name(node.args[0]))),
    "_softmax.default": _softmax("Softmax"),
    "_log_softmax.default": _softmax("LogSoftmax"),
    "native_layer_norm.default": _layer_norm,
    "embedding.default": lambda to, node: to.emit("Gather", to.name(node.args[0]), to.name(node.args[1])),
    "cat.default": _cat,
    "slice.Tensor": _slice,
    "select.int": _select,
    "index.Tensor": _index,
    "slice_scatter.default": _slice_scatter,
    "split_with_sizes.default": _split,
    "getitem": _getitem,
    "pow.Tensor_Scalar": _power,
    "clamp.default": _clamp,
    "_to_copy.default": _cast,
    "full_like.default": _full_like,
    "where.self": _where,
    "logical_and.default": _binary("And"),
    "logical_and_.default": _binary("And"),
}
