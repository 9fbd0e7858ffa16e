"""Convolutions that stay in float32: the same bits in whatever order a processor adds, and hardly another result."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from homeroom_exporter.quantize.exact_convolution import exact_convolutions

RANGE = 2.5


def convolution(weight: np.ndarray, bias: np.ndarray | None) -> onnx.ModelProto:
    constants = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", *constants], ["y"], name="conv")],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def reordered(weight: np.ndarray, bias: np.ndarray, x: np.ndarray, order: np.ndarray) -> list[np.ndarray]:
    """What the exact convolution gives with its input channels as they are, and in another order."""
    both = [(weight, x), (weight[:, order], x[:, order])]
    return [run(exact_convolutions(convolution(w, bias), {"x": RANGE}), one) for w, one in both]


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**32 - 1),
    channels=st.integers(2, 7),
    size=st.sampled_from([1, 3]),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
)
def test_the_order_of_adding_changes_no_bit(seed: int, channels: int, size: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    weight = (rng.normal(size=(5, channels, size, size)) * scale * rng.lognormal(0, 2, (5, 1, 1, 1))).astype(np.float32)
    bias = (rng.normal(size=5) * scale).astype(np.float32)
    x = rng.uniform(-RANGE, RANGE, (2, channels, 9, 9)).astype(np.float32)
    one, other = reordered(weight, bias, x, rng.permutation(channels))
    np.testing.assert_array_equal(one, other)
    twice, again = reordered(weight, bias, 1.9 * x, rng.permutation(channels))  # twice the range has room too
    np.testing.assert_array_equal(twice, again)


def test_as_it_was_the_order_changes_bits_and_the_result_hardly_differs() -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(8, 3, 3, 3)).astype(np.float32)
    bias = rng.normal(size=8).astype(np.float32)
    x = rng.uniform(-RANGE, RANGE, (4, 3, 16, 16)).astype(np.float32)
    before = run(convolution(weight, bias), x)
    assert (run(convolution(weight[:, ::-1], bias), x[:, ::-1]) != before).any()
    after = run(exact_convolutions(convolution(weight, bias), {"x": RANGE}), x)
    assert np.linalg.norm(after - before) < 0.004 * np.linalg.norm(before)


@pytest.mark.parametrize("largest", [{}, {"x": 0.0}, {"x": RANGE}])
def test_a_convolution_of_too_many_products_or_of_unknown_inputs_stays_as_it_is(largest: dict[str, float]) -> None:
    weight = np.random.default_rng(0).normal(size=(4, 512 if largest.get("x") else 3, 3, 3)).astype(np.float32)
    model = convolution(weight, None)
    assert exact_convolutions(model, largest) == model
