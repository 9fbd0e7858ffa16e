"""Interaction histories: each interaction as one int8 token, skill and outcome in columns of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from homeroom.contract.graph_io import SEQUENCE_STEPS
from homeroom.contract.manifest import SequencePreprocess
from homeroom.errors import ExportError
from homeroom_exporter.encoders.spec import Encoder, EncoderSpec
from homeroom_exporter.quantize.compress import INT8_LIMIT, finish
from homeroom_exporter.quantize.graph_surgery import OPSET, as_model, constant, extend


def load(spec: EncoderSpec, scratch: Path) -> Encoder:
    """One tap, `steps`, as wide as the token; there is nothing to compress, and nothing to quantize."""
    if not spec.skills:
        raise ExportError("names no skill", where="skills", remedy="list what is practised")
    preprocess = SequencePreprocess(spec.skills)
    width = preprocess.width
    values = [helper.make_tensor_value_info(SEQUENCE_STEPS, TensorProto.FLOAT, ["batch", "tokens", width])]
    model = as_model(helper.make_graph([], "features", values, []), [helper.make_opsetid("", OPSET)])
    unit = constant(model, "units", np.array(INT8_LIMIT, np.float32))
    units = extend(model, "Mul", [SEQUENCE_STEPS, unit], "units.steps")
    taps = extend(model, "Unsqueeze", [units, constant(model, "axis", np.array([1], np.int64))], "taps")
    finish(model, taps, ["batch", 1, "tokens", width])
    scale = np.full((1, width), 1 / INT8_LIMIT, np.float32)
    return Encoder("interactions", model, ("steps",), spec.buckets, preprocess, "none", float_bytes=0, scale=scale)
