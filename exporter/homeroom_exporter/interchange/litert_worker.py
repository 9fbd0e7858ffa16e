"""Converts one graph for LiteRT in a process of its own: `python -m homeroom_exporter.interchange.litert_worker JOB`.

The converter's compiler may end the process, and does not give its memory back. Imports litert_torch, torch and onnx.
"""

from __future__ import annotations

import json
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

from homeroom.errors import HomeroomError
from homeroom_exporter.interchange.onnx_torch import OnnxModule

Shapes = Mapping[str, Sequence[int]]  # by input


def convert(source: Path, target: Path, signatures: Mapping[str, Shapes], quantize: str) -> None:
    """Write `target`, with one signature for each set of input shapes; equal weights are stored once.

    quantize: `none`, or `int8`: weights int8 per channel, activations quantized as they come (dynamic range).
    """
    import litert_torch

    models = {name: fixed(source, shapes) for name, shapes in signatures.items()}
    converter: Any = None
    for name, model in models.items():
        add = litert_torch.signature if converter is None else converter.signature
        converter = add(name, OnnxModule(model).eval(), tuple(examples(model)))
    converted = bytes(converter.convert().model_content())
    if quantize == "int8":
        converted = quantized(converted)
    graph = next(iter(models.values())).graph
    target.write_bytes(finished(converted, [v.name for v in graph.input], [v.name for v in graph.output]))


def fixed(source: Path, shapes: Shapes) -> onnx.ModelProto:
    """The graph with these input shapes, and all that follows from shapes alone computed by onnxruntime."""
    model = onnx.load(source)
    for value in model.graph.input:
        for dimension, size in zip(value.type.tensor_type.shape.dim, shapes[value.name], strict=True):
            dimension.Clear()
            dimension.dim_value = size
    del model.graph.value_info[:]
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "fixed.onnx")
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return onnx.load(Path(folder) / "fixed.onnx")


def examples(model: onnx.ModelProto) -> list[torch.Tensor]:
    """Zeros for every input of a graph of fixed shapes."""
    kinds = {
        onnx.TensorProto.FLOAT: torch.float32,
        onnx.TensorProto.INT8: torch.int8,
        onnx.TensorProto.UINT8: torch.uint8,
        onnx.TensorProto.INT32: torch.int32,
        onnx.TensorProto.INT64: torch.int32,  # see `OnnxModule`
    }
    types = [value.type.tensor_type for value in model.graph.input]
    return [torch.zeros([d.dim_value for d in kind.shape.dim], dtype=kinds[kind.elem_type]) for kind in types]


def quantized(model: bytes) -> bytes:
    """The model with int8 weights, activations quantized as they come."""
    from ai_edge_quantizer import quantizer, recipe

    return bytes(quantizer.Quantizer(bytearray(model), recipe.dynamic_wi8_afp32()).quantize().quantized_model)


def finished(converted: bytes, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
    """The model with the graph's names at its signatures, equal constants stored once, and no note of the converter."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(converted, 0))
    for buffer in model.buffers:
        if buffer.data is None and buffer.offset > 1:  # the quantizer lets more than 256 KB stand behind the model
            buffer.data = np.frombuffer(converted, np.uint8, buffer.size, buffer.offset)
        buffer.offset = buffer.size = 0
    for signature in model.signatureDefs:
        for tensors, names in ((signature.inputs, inputs), (signature.outputs, outputs)):
            for tensor in tensors:
                tensor.name = names[int(tensor.name.decode().rsplit("_", 1)[1])]
    first: dict[bytes, int] = {}
    kept = [0]  # the first buffer is empty by the format's rule
    buffer_numbers = {0: 0}
    for number, buffer in enumerate(model.buffers):
        content = b"" if buffer.data is None else bytes(buffer.data)
        if number and content and content in first:
            buffer_numbers[number] = first[content]
        elif number:
            buffer_numbers[number] = len(kept)
            kept.append(number)
            first[content] = buffer_numbers[number]
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            tensor.buffer = buffer_numbers[tensor.buffer]
    model.buffers = [model.buffers[number] for number in kept]
    model.metadata, model.metadataBuffer, model.description = None, None, b"homeroom"
    builder = flatbuffers.Builder(len(converted))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


if __name__ == "__main__":
    job = json.loads(Path(sys.argv[1]).read_text())
    try:
        convert(Path(job["source"]), Path(job["target"]), job["signatures"], job["quantize"])
    except HomeroomError as problem:
        sys.exit(f"homeroom: {problem.what}")
    except Exception as problem:  # the converter raises whatever its parts do
        traceback.print_exc()
        sys.exit(f"homeroom: the converter fails with {type(problem).__name__}")
