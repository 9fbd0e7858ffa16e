"""Other processors, emulated: what this project quantizes is computed alike there, what overflows on AVX2 is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from homeroom_exporter.quantize import quantize
from peers import emulated

pytestmark = [pytest.mark.extra, pytest.mark.timeout(1200)]

WIDTH, CHANNELS = 64, 16


def product() -> onnx.ModelProto:
    """Weights and inputs near the top of their ranges, so that two 8-bit products do not fit into 16 bits."""
    weight = np.random.default_rng(0).uniform(0.9, 1.0, (WIDTH, CHANNELS)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["features"], name="product")],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", WIDTH])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", CHANNELS])],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def emulated_or_skipped(make: Callable[[], emulated.Processor]) -> emulated.Processor:
    try:
        return make()
    except emulated.UnavailableError as reason:
        pytest.skip(f"cannot be emulated here: {reason}")


def test_seven_bits_are_computed_alike_and_eight_overflow_without_vnni(tmp_path: Path) -> None:
    whole = product()
    onnx.save(whole, tmp_path / "float32.onnx")
    onnx.save(quantize.dynamic(whole), tmp_path / "ours.onnx")
    quantize_dynamic(
        tmp_path / "float32.onnx", tmp_path / "careless.onnx", per_channel=True, weight_type=QuantType.QInt8
    )
    x = np.random.default_rng(1).uniform(0.9, 1.0, (8, WIDTH)).astype(np.float32)
    np.savez(tmp_path / "feeds.npz", **{"0/x": x})
    wanted = x @ numpy_helper.to_array(whole.graph.initializer[0])

    def off(processor: emulated.Processor, graph: str) -> float:
        processor.features(tmp_path / f"{graph}.onnx", tmp_path / "feeds.npz", tmp_path / "out.npz")
        with np.load(tmp_path / "out.npz") as made:
            return float(np.abs(made["0"] - wanted).max() / wanted.max())

    old, small = (
        emulated_or_skipped(make) for make in (emulated.haswell, lambda: emulated.cortex(53, tmp_path / "site"))
    )
    assert [off(machine, "ours") < 0.02 for machine in (emulated.here(), old, small)] == [True] * 3
    assert off(old, "careless") > 0.2
    assert off(small, "careless") < 0.02
